// The lookup product with AVX-512 VBMI and VNNI: 64 lookups an instruction (VPERMB over the tables of four groups), and
// their sum over the four groups, times the weight of the plane, in another (VPDPBUSD).
#include "lookup.h"

#if defined(__x86_64__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "avx512.h"

// Weights are read once and in order. The processor's own prefetching stops at every page, this does not: from memory
// four tokens then take a third of the time.
INLINE void ahead(const uint8_t* at) { _mm_prefetch((const char*)at + 12288, _MM_HINT_T0); }

// One panel for M tokens from `token` on, `units` times 32 inputs a block. Where `units` is a constant, several tokens have
// them unrolled; one token, whose loop waits for the weights, is slower so.
INLINE void panel(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, float* y, const int bits,
                  const int M, const int units, const int64_t inputs) {
  const __m512i group = _mm512_set1_epi32(0x30201000), low = _mm512_set1_epi8(15);
  const int64_t blocks = inputs / (32 * units), stride = inputs * 4;
  const uint8_t* at = w->planes + number * inputs * 8 * bits;
  const float middle = ((1 << bits) - 1) / 2.0f;
  __m512 sum[4][4];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < 4; i++) sum[m][i] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + token * stride + b * units * 128;
    __m512i whole[4][4];
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < 4; i++) whole[m][i] = _mm512_setzero_si512();
    if (M == 1)
      for (int e = 0; e < units; e++, table += 128, at += 256 * bits)
        UNROLL for (int p = 0; p < bits; p++) UNROLL for (int i = 0; i < 4; i++) {
          ahead(at + p * 256 + i * 64);
          __m512i bytes = _mm512_loadu_si512(at + p * 256 + i * 64);
          for (int half = 0; half < 2; half++, bytes = _mm512_srli_epi16(bytes, 4)) {
            __m512i entry = _mm512_ternarylogic_epi32(bytes, low, group, 0xEA);
            __m512i found = _mm512_permutexvar_epi8(entry, _mm512_loadu_si512(table + half * 64));
            whole[0][i] = _mm512_dpbusd_epi32(whole[0][i], _mm512_set1_epi8(1 << p), found);
          }
        }
    else
      UNROLL for (int e = 0; e < units; e++, table += 128, at += 256 * bits)
        UNROLL for (int half = 0; half < 2; half++) {  // one after the other: the tables of four tokens stay in registers
          __m512i entries[4];
          UNROLL for (int m = 0; m < M; m++) entries[m] = _mm512_loadu_si512(table + m * stride + half * 64);
          UNROLL for (int p = 0; p < bits; p++) UNROLL for (int i = 0; i < 4; i++) {
            if (!half) ahead(at + p * 256 + i * 64);
            __m512i bytes = _mm512_loadu_si512(at + p * 256 + i * 64);
            if (half) bytes = _mm512_srli_epi16(bytes, 4);
            bytes = _mm512_ternarylogic_epi32(bytes, low, group, 0xEA);
            UNROLL for (int m = 0; m < M; m++)
              whole[m][i] = _mm512_dpbusd_epi32(whole[m][i], _mm512_set1_epi8(1 << p),
                                                _mm512_permutexvar_epi8(bytes, entries[m]));
          }
        }
    UNROLL for (int i = 0; i < 4; i++) {
      int64_t place = (number * blocks + b) * LOOKUP_PANEL + i * 16;
      __m512 scale = scales(w, place);
      UNROLL for (int m = 0; m < M; m++) {
        int64_t block = (token + m) * blocks + b;
        __m512 half = _mm512_set1_ps(0.5f * t->step[block]);
        __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[m][i]), half, offset(w, place, middle, t->total[block]));
        sum[m][i] = _mm512_fmadd_ps(scale, value, sum[m][i]);
      }
    }
  }
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int i = 0; i < 4; i++)
    store(w, number * LOOKUP_PANEL + i * 16, y + (token + m) * w->outputs, sum[m][i]);
}

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits, const int units, const int64_t inputs) {
  for (int64_t n = from; n < to; n++) {
    int64_t m = 0;
    for (; m + 4 <= tokens; m += 4) panel(w, t, m, n, y, bits, 4, units, inputs);
    for (; m + 2 <= tokens; m += 2) panel(w, t, m, n, y, bits, 2, units, inputs);
    for (; m < tokens; m++) panel(w, t, m, n, y, bits, 1, units, inputs);
  }
}

#define panels_attribute
#define panels_gains(w, tokens) ((tokens) > 1 || (w)->block == 32)  // one token and longer blocks: up to 7 percent slower
LOOKUP_PRODUCT(multiply, panels)
LOOKUP_WORDS(multiply_wide, multiply)

static const LookupKernels kernels = {
    "avx512", {tables, word_tables, exact_tables}, {multiply, multiply_wide, multiply_exact}, dequantise};

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
