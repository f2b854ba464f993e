// The lookup product with AVX-512 that has neither VBMI nor VNNI: 64 lookups an instruction (VPSHUFB, a table for each
// quarter of a register), after a tile's bytes are put in order by group.
#include "lookup.h"

#if defined(__x86_64__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "avx512.h"

// [16 outputs][4 groups] -> each quarter one group of all 16 outputs
INLINE __m512i by_group(const uint8_t* at) {
  const __m512i gather = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(quarters, _mm512_shuffle_epi8(_mm512_loadu_si512(at), gather));
}

// Sums of each quarter's 8 outputs in 16 bits -> of all quarters, outputs 0 to 7 and 8 to 15, in 32.
INLINE __m512i over_groups(__m512i first, __m512i second) {
  __m512i a = _mm512_add_epi32(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(first)),
                               _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(first, 1)));
  __m512i c = _mm512_add_epi32(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(second)),
                               _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(second, 1)));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(a, c, 0x44), _mm512_shuffle_i32x4(a, c, 0xEE));
}

// T tiles of one panel, from `tile` on, for M tokens from `token` on, `units` times 32 inputs a block: bytes are put in order
// once for all tokens.
INLINE void tiles(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                  const int bits, const int M, const int T, const int units, const int64_t inputs) {
  const __m512i low = _mm512_set1_epi8(15);
  const int64_t blocks = inputs / (32 * units), stride = inputs * 4;
  const uint8_t* at = w->planes + number * inputs * 8 * bits + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  __m512 sum[4][4];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < T; i++) sum[m][i] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b++) {
    // 16 bits of a quarter add up the lookups of two groups: 8 * 127 * 15 = 15,240 at most.
    const int8_t* table = t->sums + token * stride + b * units * 128;
    __m512i whole[4][4][2];
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < T; i++)
      whole[m][i][0] = whole[m][i][1] = _mm512_setzero_si512();
    for (int e = 0; e < units; e++, table += 128)
      UNROLL for (int p = 0; p < bits; p++, at += 256) {
        const __m512i weight = _mm512_set1_epi8((char)(1 << p));
        UNROLL for (int i = 0; i < T; i++) {
          __m512i bytes = by_group(at + i * 64), first = _mm512_and_si512(bytes, low);
          __m512i second = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
          UNROLL for (int m = 0; m < M; m++) {
            __m512i a = _mm512_shuffle_epi8(_mm512_loadu_si512(table + m * stride), first);
            __m512i c = _mm512_shuffle_epi8(_mm512_loadu_si512(table + m * stride + 64), second);
            __m512i* both = whole[m][i];
            both[0] = _mm512_add_epi16(both[0], _mm512_maddubs_epi16(weight, _mm512_unpacklo_epi8(a, c)));
            both[1] = _mm512_add_epi16(both[1], _mm512_maddubs_epi16(weight, _mm512_unpackhi_epi8(a, c)));
          }
        }
      }
    UNROLL for (int i = 0; i < T; i++) UNROLL for (int m = 0; m < M; m++) {
      const int64_t place = (number * blocks + b) * LOOKUP_PANEL + (tile + i) * 16, block = (token + m) * blocks + b;
      const __m512 half = _mm512_set1_ps(0.5f * t->step[block]);
      __m512 found = _mm512_cvtepi32_ps(over_groups(whole[m][i][0], whole[m][i][1]));
      found = _mm512_fmadd_ps(found, half, offset(w, place, middle, t->total[block]));
      sum[m][i] = _mm512_fmadd_ps(scales(w, place), found, sum[m][i]);
    }
  }
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < T; i++)
    store(w, number * LOOKUP_PANEL + (tile + i) * 16, y + (token + m) * w->outputs, sum[m][i]);
}

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits, const int units, const int64_t inputs) {
  for (int64_t n = from; n < to; n++) {
    int64_t m = 0;
    for (; m + 4 <= tokens; m += 4)
      for (int i = 0; i < 4; i += 2) tiles(w, t, m, n, i, y, bits, 4, 2, units, inputs);
    for (; m + 2 <= tokens; m += 2) tiles(w, t, m, n, 0, y, bits, 2, 4, units, inputs);
    for (; m < tokens; m++) tiles(w, t, m, n, 0, y, bits, 1, 4, units, inputs);
  }
}

#define panels_attribute
#define panels_gains(w, tokens) 1
LOOKUP_PRODUCT(multiply, panels)
LOOKUP_WORDS(multiply_wide, multiply)

static const LookupKernels kernels = {
    "avx512_bw", {tables, word_tables, exact_tables}, {multiply, multiply_wide, multiply_exact}, dequantise};

const LookupKernels* lookup_avx512_bw(void) {
  __builtin_cpu_init();
  int has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has ? &kernels : NULL;
}
#else
const LookupKernels* lookup_avx512_bw(void) { return NULL; }
#endif
