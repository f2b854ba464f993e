// The lookup product with AVX2: 32 lookups an instruction (VPSHUFB, one table for each half of a register).
//
// A tile's 64 bytes are [16 outputs][4 groups]; a table serves the bytes of one group, so groups are first gathered:
// each half of a register then has one group of all 16 outputs, in the order 0-3, 8-11, 4-7, 12-15.
#include "lookup.h"

#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

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

static void panel(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, float* y) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i gather = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13,
                                          2, 6, 10, 14, 3, 7, 11, 15);
  const int64_t blocks = w->inputs / w->block;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w);
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  __m256 sum[8];
  for (int i = 0; i < 8; i++) sum[i] = _mm256_setzero_ps();
  for (int64_t b = 0; b < blocks; b++) {
    // A half of `whole` adds up the lookups of every second group: 16 * 127 * 15 = 30,480 at most.
    const int8_t* table = t->sums + (token * w->inputs + b * w->block) * 4;
    __m256i whole[4][2];
    for (int i = 0; i < 4; i++) whole[i][0] = whole[i][1] = _mm256_setzero_si256();
    for (int e = 0; e < w->block / 32; e++, table += 128)
      for (int p = 0; p < w->bits; p++, at += 256) {
        const __m256i weight = _mm256_set1_epi8((char)(1 << p));
        for (int i = 0; i < 4; i++) {
          __m256i a = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i*)(at + i * 64)), gather);
          __m256i c = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i*)(at + i * 64 + 32)), gather);
          __m256i g01 = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(a, c), 0xD8);
          __m256i g23 = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(a, c), 0xD8);
          const __m256i* entries = (const __m256i*)table;
          __m256i l01 = _mm256_shuffle_epi8(_mm256_loadu_si256(entries), _mm256_and_si256(g01, low));
          __m256i l23 = _mm256_shuffle_epi8(_mm256_loadu_si256(entries + 1), _mm256_and_si256(g23, low));
          add(whole[i], l01, l23, weight);
          g01 = _mm256_and_si256(_mm256_srli_epi16(g01, 4), low);
          g23 = _mm256_and_si256(_mm256_srli_epi16(g23, 4), low);
          add(whole[i], _mm256_shuffle_epi8(_mm256_loadu_si256(entries + 2), g01),
              _mm256_shuffle_epi8(_mm256_loadu_si256(entries + 3), g23), weight);
        }
      }
    const __m256 half = _mm256_set1_ps(0.5f * t->step[token * blocks + b]);
    const float total = t->total[token * blocks + b];
    for (int i = 0; i < 4; i++) {
      __m256 a = both_halves(whole[i][0]), c = both_halves(whole[i][1]);  // outputs 0-3 8-11, 4-7 12-15
      __m256 part[2] = {_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31)};
      for (int h = 0; h < 2; h++) {
        int64_t place = (number * blocks + b) * LOOKUP_PANEL + i * 16 + h * 8;
        __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(w->scale + place)));
        __m256 value = _mm256_fmadd_ps(part[h], half, offset(w, place, middle, total));
        sum[i * 2 + h] = _mm256_fmadd_ps(scale, value, sum[i * 2 + h]);
      }
    }
  }
  float found[LOOKUP_PANEL];
  for (int i = 0; i < 8; i++) _mm256_storeu_ps(found + i * 8, sum[i]);
  for (int64_t n = 0; n < LOOKUP_PANEL && number * LOOKUP_PANEL + n < w->outputs; n++)
    y[token * w->outputs + number * LOOKUP_PANEL + n] = found[n];
}

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  for (int64_t n = from; n < to; n++)
    for (int64_t m = 0; m < tokens; m++) panel(w, t, m, n, y);
}

static LookupKernels kernels;

const LookupKernels* lookup_avx2(void) {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return NULL;
  kernels = lookup_plain;  // its tables, and its exact product
  kernels.name = "avx2", kernels.multiply = multiply;
  return &kernels;
}
#else
const LookupKernels* lookup_avx2(void) { return NULL; }
#endif
