// The lookup product with AVX-512 VBMI and VNNI: 64 lookups an instruction (VPERMB over the tables of four groups), and
// their sum over the four groups, times the weight of the plane, in another (VPDPBUSD).
#include "lookup.h"

#if defined(__x86_64__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

// signs[i]: the sign bit of input i in each of the 16 sums
INLINE void signs(__m512 out[4]) {
  __m512i number = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int i = 0; i < 4; i++) {
    __m512i set = _mm512_slli_epi32(_mm512_srli_epi32(number, i), 31);
    out[i] = _mm512_castsi512_ps(_mm512_andnot_si512(set, _mm512_set1_epi32((int)0x80000000)));
  }
}

INLINE __m512 sixteen_sums(const float* four, const __m512 sign[4]) {
  __m512 sum = _mm512_xor_ps(_mm512_set1_ps(four[0]), sign[0]);
  for (int i = 1; i < 4; i++) sum = _mm512_add_ps(sum, _mm512_xor_ps(_mm512_set1_ps(four[i]), sign[i]));
  return sum;
}

static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  __m512 sign[4];
  signs(sign);
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    float largest = 0;
    __m512 total = _mm512_setzero_ps();
    for (int k = 0; k < w->block; k += 16) {
      __m512 v = _mm512_loadu_ps(in + k), a = _mm512_abs_ps(v);
      total = _mm512_add_ps(total, v);
      a = _mm512_add_ps(a, _mm512_permute_ps(a, 0xB1));
      a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4E));
      float four = _mm512_reduce_max_ps(a);
      if (four > largest) largest = four;
    }
    t->step[b] = largest / 127.0f, t->total[b] = _mm512_reduce_add_ps(total);
    __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0);
    for (int k = 0; k < w->block; k += 4) {
      __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(sixteen_sums(in + k, sign), inverse));
      _mm_storeu_si128((__m128i*)(t->sums + (b * w->block + k) * 4), _mm512_cvtsepi32_epi8(rounded));
    }
  }
}

static void exact_tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  __m512 sign[4];
  signs(sign);
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    __m512 total = _mm512_setzero_ps();
    for (int k = 0; k < w->block; k += 16) total = _mm512_add_ps(total, _mm512_loadu_ps(in + k));
    t->step[b] = 1, t->total[b] = _mm512_reduce_add_ps(total);
    for (int k = 0; k < w->block; k += 4)
      _mm512_storeu_ps(t->exact + (b * w->block + k) * 4, sixteen_sums(in + k, sign));
  }
}

// What stands beside the lookups in the sum of one block and sixteen outputs: (middle - zero) * total.
INLINE __m512 offset(const LookupLinear* w, int64_t place, float middle, float total) {
  if (!w->zero_point) return _mm512_set1_ps((middle - 0.5f * w->zero) * total);
  __m512 zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(w->zero_point + place))));
  return _mm512_mul_ps(_mm512_fnmadd_ps(zero, _mm512_set1_ps(0.5f), _mm512_set1_ps(middle)), _mm512_set1_ps(total));
}

INLINE __m512 scales(const LookupLinear* w, int64_t place) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(w->scale + place)));
}

INLINE void store(const LookupLinear* w, int64_t n, float* y, __m512 value) {
  int64_t left = w->outputs - n;
  if (left > 0) _mm512_mask_storeu_ps(y + n, left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1), value);
}

// Weights are read once and in order. The processor's own prefetching stops at every page, this does not: from memory
// four tokens then take a third of the time.
INLINE void ahead(const uint8_t* at) { _mm_prefetch((const char*)at + 12288, _MM_HINT_T0); }

// `tiles` tiles of one panel, from `tile` on, for M tokens from `token` on.
INLINE void panel(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                  const int bits, const int M, const int tiles) {
  const __m512i group = _mm512_set1_epi32(0x30201000), low = _mm512_set1_epi8(15);
  const int64_t blocks = w->inputs / w->block, stride = w->inputs * 4;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w) + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  __m512 sum[8][4];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < tiles; i++) sum[m][i] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + token * stride + b * w->block * 4;
    __m512i whole[8][4];
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < tiles; i++) whole[m][i] = _mm512_setzero_si512();
    for (int e = 0; e < w->block / 32; e++, table += 128, at += 256 * bits)
      if (M == 1)
        UNROLL for (int p = 0; p < bits; p++) UNROLL for (int i = 0; i < tiles; i++) {
          ahead(at + p * 256 + i * 64);
          __m512i bytes = _mm512_loadu_si512(at + p * 256 + i * 64);
          for (int half = 0; half < 2; half++, bytes = _mm512_srli_epi16(bytes, 4)) {
            __m512i entry = _mm512_ternarylogic_epi32(bytes, low, group, 0xEA);
            __m512i found = _mm512_permutexvar_epi8(entry, _mm512_loadu_si512(table + half * 64));
            whole[0][i] = _mm512_dpbusd_epi32(whole[0][i], _mm512_set1_epi8(1 << p), found);
          }
        }
      else
        UNROLL for (int half = 0; half < 2; half++) {  // one after the other: the tables of four tokens stay in registers
          __m512i entries[8];
          UNROLL for (int m = 0; m < M; m++) entries[m] = _mm512_loadu_si512(table + m * stride + half * 64);
          UNROLL for (int p = 0; p < bits; p++) UNROLL for (int i = 0; i < tiles; i++) {
            if (!half) ahead(at + p * 256 + i * 64);
            __m512i bytes = _mm512_loadu_si512(at + p * 256 + i * 64);
            if (half) bytes = _mm512_srli_epi16(bytes, 4);
            bytes = _mm512_ternarylogic_epi32(bytes, low, group, 0xEA);
            UNROLL for (int m = 0; m < M; m++)
              whole[m][i] = _mm512_dpbusd_epi32(whole[m][i], _mm512_set1_epi8(1 << p),
                                                _mm512_permutexvar_epi8(bytes, entries[m]));
          }
        }
    UNROLL for (int i = 0; i < tiles; i++) {
      int64_t place = (number * blocks + b) * LOOKUP_PANEL + (tile + i) * 16;
      __m512 scale = scales(w, place);
      UNROLL for (int m = 0; m < M; m++) {
        int64_t block = (token + m) * blocks + b;
        __m512 half = _mm512_set1_ps(0.5f * t->step[block]);
        __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[m][i]), half, offset(w, place, middle, t->total[block]));
        sum[m][i] = _mm512_fmadd_ps(scale, value, sum[m][i]);
      }
    }
  }
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < tiles; i++)
    store(w, number * LOOKUP_PANEL + (tile + i) * 16, y + (token + m) * w->outputs, sum[m][i]);
}

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits) {
  for (int64_t n = from; n < to; n++) {
    int64_t m = 0;
    for (; m + 4 <= tokens; m += 4) panel(w, t, m, n, 0, y, bits, 4, 4);
    for (; m + 2 <= tokens; m += 2) panel(w, t, m, n, 0, y, bits, 2, 4);
    for (; m < tokens; m++) panel(w, t, m, n, 0, y, bits, 1, 4);
  }
}

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  switch (w->bits) {
    case 1: panels(w, t, tokens, from, to, y, 1); break;
    case 2: panels(w, t, tokens, from, to, y, 2); break;
    case 3: panels(w, t, tokens, from, to, y, 3); break;
    default: panels(w, t, tokens, from, to, y, 4);
  }
}

static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  const int64_t blocks = w->inputs / w->block;
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  for (int64_t n = from; n < to; n++)
    for (int64_t m = 0; m < tokens; m++) {
      const uint8_t* at = w->planes + n * lookup_panel_bytes(w);
      const float* table = t->exact + m * w->inputs * 4;
      __m512 sum[4];
      for (int i = 0; i < 4; i++) sum[i] = _mm512_setzero_ps();
      for (int64_t b = 0; b < blocks; b++) {
        __m512 value[4];
        for (int i = 0; i < 4; i++) value[i] = offset(w, (n * blocks + b) * LOOKUP_PANEL + i * 16, middle, t->total[m * blocks + b]);
        for (int e = 0; e < w->block / 32; e++, table += 128)
          for (int p = 0; p < w->bits; p++, at += 256) {
            const __m512 weight = _mm512_set1_ps(0.5f * (float)(1 << p));
            UNROLL for (int i = 0; i < 4; i++) {
              __m512i bytes = _mm512_loadu_si512(at + i * 64);  // VPERMPS reads the low four bits of each lane
              __m512 found = _mm512_setzero_ps();
              UNROLL for (int g = 0; g < 8; g++) {
                __m512i entry = _mm512_srli_epi32(bytes, g < 4 ? 8 * g : 8 * (g - 4) + 4);
                found = _mm512_add_ps(found, _mm512_permutexvar_ps(entry, _mm512_loadu_ps(table + g * 16)));
              }
              value[i] = _mm512_fmadd_ps(found, weight, value[i]);
            }
          }
        for (int i = 0; i < 4; i++)
          sum[i] = _mm512_fmadd_ps(scales(w, (n * blocks + b) * LOOKUP_PANEL + i * 16), value[i], sum[i]);
      }
      for (int i = 0; i < 4; i++) store(w, n * LOOKUP_PANEL + i * 16, y + m * w->outputs, sum[i]);
    }
}

static const LookupKernels kernels = {"avx512", tables, exact_tables, multiply, multiply_exact};

const LookupKernels* lookup_avx512(void) {
  __builtin_cpu_init();
  int has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  return has ? &kernels : NULL;
}
#else
const LookupKernels* lookup_avx512(void) { return NULL; }
#endif
