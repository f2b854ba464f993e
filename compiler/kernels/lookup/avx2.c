// The lookup product with AVX2: 32 lookups an instruction (VPSHUFB, one table for each half of a register).
//
// A tile's 64 bytes are [16 outputs][4 groups]; a table serves the bytes of one group, so groups are first gathered:
// each half of a register then has one group of all 16 outputs, in the order 0-3, 8-11, 4-7, 12-15.
#include "words.h"

#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

// whole += weight * (lookups of two groups), as int16
INLINE void add(__m256i whole[2], __m256i a, __m256i c, __m256i weight) {
  whole[0] = _mm256_add_epi16(whole[0], _mm256_maddubs_epi16(weight, _mm256_unpacklo_epi8(a, c)));
  whole[1] = _mm256_add_epi16(whole[1], _mm256_maddubs_epi16(weight, _mm256_unpackhi_epi8(a, c)));
}

INLINE __m256 offset(const LookupLinear* w, int64_t place, float middle, float total) {
  if (!w->zero_point) return _mm256_set1_ps((middle - 0.5f * w->zero) * total);
  __m256 zero = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(w->zero_point + place))));
  return _mm256_mul_ps(_mm256_fnmadd_ps(zero, _mm256_set1_ps(0.5f), _mm256_set1_ps(middle)), _mm256_set1_ps(total));
}

INLINE __m256 both_halves(__m256i whole) {  // two groups' sums -> float
  return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(whole)),
                                             _mm256_cvtepi16_epi32(_mm256_extracti128_si256(whole, 1))));
}

// T tiles of one panel, from `tile` on, for M tokens from `token` on, `units` times 32 inputs a block: bytes are put in order
// once for all tokens.
INLINE void tiles(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                  const int bits, const int M, const int T, const int units, const int64_t inputs) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i gather = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13,
                                          2, 6, 10, 14, 3, 7, 11, 15);
  const int64_t blocks = inputs / (32 * units), stride = inputs * 4;
  const uint8_t* at = w->planes + number * inputs * 8 * bits + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  float sum[4][LOOKUP_PANEL];
  for (int m = 0; m < M; m++)
    for (int i = 0; i < T * 16; i++) sum[m][i] = 0;
  for (int64_t b = 0; b < blocks; b++) {
    // A half of `whole` adds up the lookups of every second group: 16 * 127 * 15 = 30,480 at most.
    const int8_t* table = t->sums + token * stride + b * units * 128;
    __m256i whole[4][4][2];
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < T; i++)
      whole[m][i][0] = whole[m][i][1] = _mm256_setzero_si256();
    for (int e = 0; e < units; e++, table += 128)
      UNROLL for (int p = 0; p < bits; p++, at += 256) {
        const __m256i weight = _mm256_set1_epi8((char)(1 << p));
        UNROLL for (int i = 0; i < T; i++) {
          __m256i a = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i*)(at + i * 64)), gather);
          __m256i c = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i*)(at + i * 64 + 32)), gather);
          const __m256i g01 = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, c), 0xD8);
          const __m256i g23 = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, c), 0xD8);
          const __m256i patterns[4] = {_mm256_and_si256(g01, low), _mm256_and_si256(g23, low),
                                       _mm256_and_si256(_mm256_srli_epi16(g01, 4), low),
                                       _mm256_and_si256(_mm256_srli_epi16(g23, 4), low)};
          UNROLL for (int m = 0; m < M; m++) {
            const __m256i* entries = (const __m256i*)(table + m * stride);
            UNROLL for (int h = 0; h < 4; h += 2)
              add(whole[m][i], _mm256_shuffle_epi8(_mm256_loadu_si256(entries + h), patterns[h]),
                  _mm256_shuffle_epi8(_mm256_loadu_si256(entries + h + 1), patterns[h + 1]), weight);
          }
        }
      }
    for (int m = 0; m < M; m++) {
      const int64_t block = (token + m) * blocks + b;
      const __m256 half = _mm256_set1_ps(0.5f * t->step[block]);
      for (int i = 0; i < T; i++) {
        __m256 a = both_halves(whole[m][i][0]), c = both_halves(whole[m][i][1]);  // outputs 0-3 8-11, 4-7 12-15
        __m256 part[2] = {_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31)};
        for (int h = 0; h < 2; h++) {
          int64_t place = (number * blocks + b) * LOOKUP_PANEL + (tile + i) * 16 + h * 8;
          __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(w->scale + place)));
          __m256 value = _mm256_fmadd_ps(part[h], half, offset(w, place, middle, t->total[block]));
          float* held = sum[m] + i * 16 + h * 8;
          _mm256_storeu_ps(held, _mm256_fmadd_ps(scale, value, _mm256_loadu_ps(held)));
        }
      }
    }
  }
  const int64_t first = number * LOOKUP_PANEL + tile * 16;
  for (int m = 0; m < M; m++)
    for (int64_t n = 0; n < T * 16 && first + n < w->outputs; n++) y[(token + m) * w->outputs + first + n] = sum[m][n];
}

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits, const int units, const int64_t inputs) {
  for (int64_t n = from; n < to; n++) {
    int64_t m = 0;  // sixteen registers: the more tokens, the fewer tiles
    for (; m + 4 <= tokens; m += 4)
      for (int i = 0; i < 4; i++) tiles(w, t, m, n, i, y, bits, 4, 1, units, inputs);
    for (; m + 2 <= tokens; m += 2)
      for (int i = 0; i < 4; i += 2) tiles(w, t, m, n, i, y, bits, 2, 2, units, inputs);
    for (; m < tokens; m++) tiles(w, t, m, n, 0, y, bits, 1, 4, units, inputs);
  }
}

#define panels_attribute
#define panels_gains(w, tokens) 1
LOOKUP_PRODUCT(multiply, panels)

// Sums 0 to 7 and 8 to 15: the last input's sign is that of the half.
INLINE void sixteen_sums(const float* four, __m256 out[2]) {
  const __m256 minus = _mm256_set1_ps(-0.0f);
  const __m256i number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 sum = _mm256_setzero_ps();
  for (int i = 0; i < 3; i++) {
    __m256 clear = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_srli_epi32(number, i), 31));
    sum = _mm256_add_ps(sum, _mm256_xor_ps(_mm256_set1_ps(four[i]), _mm256_andnot_ps(clear, minus)));
  }
  out[0] = _mm256_sub_ps(sum, _mm256_set1_ps(four[3])), out[1] = _mm256_add_ps(sum, _mm256_set1_ps(four[3]));
}

// The largest sum of four magnitudes, and the sum of all.
INLINE float largest_of_block(const float* in, int block, float* sum) {
  __m256 total = _mm256_setzero_ps(), largest = _mm256_setzero_ps();
  for (int k = 0; k < block; k += 8) {
    __m256 v = _mm256_loadu_ps(in + k), a = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
    total = _mm256_add_ps(total, v);
    a = _mm256_add_ps(a, _mm256_permute_ps(a, 0xB1));
    largest = _mm256_max_ps(_mm256_add_ps(a, _mm256_permute_ps(a, 0x4E)), largest);
  }
  float held[8], most[8];
  _mm256_storeu_ps(held, total), _mm256_storeu_ps(most, largest);
  *sum = ((held[0] + held[4]) + (held[1] + held[5])) + ((held[2] + held[6]) + (held[3] + held[7]));
  return most[0] > most[4] ? most[0] : most[4];
}

static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  const __m128i place = _mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m128i mirrored = _mm_set_epi64x(0x0101010101010101, -1);
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    float largest = largest_of_block(in, w->block, &t->total[b]);
    t->step[b] = largest / 127.0f;
    const __m256 inverse = _mm256_set1_ps(largest > 0 ? 127.0f / largest : 0);
    for (int k = 0; k < w->block; k += 4) {  // sums 0 to 7 are the others, negated, from the last to the first
      __m256 sums[2];
      sixteen_sums(in + k, sums);
      __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(sums[1], inverse));
      __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
      __m128i both = _mm_shuffle_epi8(_mm_packs_epi16(words, words), place);
      _mm_storeu_si128((__m128i*)(t->sums + (b * w->block + k) * 4), _mm_sign_epi8(both, mirrored));
    }
  }
}

static void exact_tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    largest_of_block(in, w->block, &t->total[b]);
    t->step[b] = 1;
    for (int k = 0; k < w->block; k += 4) {
      __m256 sums[2];
      sixteen_sums(in + k, sums);
      for (int h = 0; h < 2; h++) _mm256_storeu_ps(t->exact + (b * w->block + k) * 4 + h * 8, sums[h]);
    }
  }
}

// Tables of floats: two lookups of eight sums, and the fourth bit chooses.
static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  const int64_t blocks = w->inputs / w->block;
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  for (int64_t n = from; n < to; n++)
    for (int64_t m = 0; m < tokens; m++) {
      const uint8_t* at = w->planes + n * lookup_panel_bytes(w);
      int64_t entry = m * w->inputs * 4;
      float sum[LOOKUP_PANEL] = {0};
      for (int64_t b = 0; b < blocks; b++) {
        __m256 value[8];
        for (int i = 0; i < 8; i++) value[i] = _mm256_setzero_ps();
        for (int e = 0; e < w->block / 32; e++, entry += 128) {
          const float* table = t->exact + entry;
          for (int p = 0; p < w->bits; p++, at += 256) {
            const __m256 weight = _mm256_set1_ps(0.5f * (float)(1 << p));
            for (int i = 0; i < 8; i++) {
              const __m256i bytes = _mm256_loadu_si256((const __m256i*)(at + i * 32));
              __m256 found = _mm256_setzero_ps();
              for (int g = 0; g < 8; g++) {
                const int shift = g < 4 ? 8 * g : 8 * (g - 4) + 4;
                __m256i number = _mm256_srli_epi32(bytes, shift);
                __m256 few = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + g * 16), number);
                __m256 many = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + g * 16 + 8), number);
                __m256 fourth = _mm256_castsi256_ps(_mm256_slli_epi32(bytes, 28 - shift));
                found = _mm256_add_ps(found, _mm256_blendv_ps(few, many, fourth));
              }
              value[i] = _mm256_fmadd_ps(found, weight, value[i]);
            }
          }
        }
        const __m256 step = _mm256_set1_ps(t->step[m * blocks + b]);
        for (int i = 0; i < 8; i++) {
          int64_t place = (n * blocks + b) * LOOKUP_PANEL + i * 8;
          __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(w->scale + place)));
          value[i] = _mm256_fmadd_ps(value[i], step, offset(w, place, middle, t->total[m * blocks + b]));
          _mm256_storeu_ps(sum + i * 8, _mm256_fmadd_ps(scale, value[i], _mm256_loadu_ps(sum + i * 8)));
        }
      }
      for (int64_t i = 0; i < LOOKUP_PANEL && n * LOOKUP_PANEL + i < w->outputs; i++)
        y[m * w->outputs + n * LOOKUP_PANEL + i] = sum[i];
    }
}

LOOKUP_WORDS(multiply_wide, multiply)

INLINE __m256i bit_table(int i, int p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)lookup_bit[4 * p + i]));
}

// Eight outputs of 32 inputs. The first level of lookup makes four integers of each four bits of a plane; the second is
// one multiply-add, exact: an integer of four bits times a scale of eleven.
INLINE void dequantise_eight(const uint8_t* at, __m256 scale, __m256 shift, int64_t stride, float* out, int count,
                             const int bits) {
  const __m256i low = _mm256_set1_epi8(15);
  for (int half = 0; half < 2; half++) {
    __m256i u[4];
    for (int i = 0; i < 4; i++) u[i] = _mm256_setzero_si256();
    for (int p = 0; p < bits; p++) {
      __m256i bytes = _mm256_loadu_si256((const __m256i*)(at + p * 256));
      bytes = _mm256_and_si256(half ? _mm256_srli_epi16(bytes, 4) : bytes, low);
      for (int i = 0; i < 4; i++) u[i] = _mm256_or_si256(u[i], _mm256_shuffle_epi8(bit_table(i, p), bytes));
    }
    for (int g = 0; g < 4; g++)
      for (int i = 0; i < 4; i++) {
        __m256i one = _mm256_and_si256(_mm256_srli_epi32(u[i], 8 * g), _mm256_set1_epi32(15));
        __m256 value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(one), scale, shift);
        float *to = out + (half * 16 + g * 4 + i) * stride, held[8];
        if (count >= 8) {
          _mm256_storeu_ps(to, value);
        } else {
          _mm256_storeu_ps(held, value);
          for (int n = 0; n < count; n++) to[n] = held[n];
        }
      }
  }
}

INLINE void dequantise_panels(const LookupLinear* w, int64_t from, int64_t to, float* out, const int bits) {
  const int64_t blocks = w->inputs / w->block;
  for (int64_t e = 0; e < w->inputs / 32; e++)  // 32 rows of the result at a time, each from end to end
    for (int64_t n = from; n < to; n++) {
      const uint8_t* at = w->planes + n * lookup_panel_bytes(w) + e * bits * 256;
      for (int i = 0; i < 8; i++) {
        const int64_t place = (n * blocks + e * 32 / w->block) * LOOKUP_PANEL + i * 8, first = n * LOOKUP_PANEL + i * 8;
        if (first >= w->outputs) break;
        const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(w->scale + place)));
        const __m256 shift = _mm256_mul_ps(scale, offset(w, place, 0, 1));
        dequantise_eight(at + i * 32, scale, shift, w->outputs, out + e * 32 * w->outputs + first,
                         (int)(w->outputs - first < 8 ? w->outputs - first : 8), bits);
      }
    }
}

static void dequantise(const LookupLinear* w, int64_t from, int64_t to, float* out) {
  switch (w->bits) {
    case 1: dequantise_panels(w, from, to, out, 1); break;
    case 2: dequantise_panels(w, from, to, out, 2); break;
    case 3: dequantise_panels(w, from, to, out, 3); break;
    default: dequantise_panels(w, from, to, out, 4);
  }
}

static const LookupKernels kernels = {
    "avx2", {tables, word_tables, exact_tables}, {multiply, multiply_wide, multiply_exact}, dequantise};

const LookupKernels* lookup_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels : NULL;
}
#else
const LookupKernels* lookup_avx2(void) { return NULL; }
#endif
