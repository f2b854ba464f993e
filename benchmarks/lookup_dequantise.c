// Weights out of bit planes beside weights out of integers packed row by row, both by AVX-512, one thread.
//
//     lookup_dequantise N K BLOCK ROUNDS    ->    a line "BITS planes_ns packed_ns" for 1 to 4 bits; 3 are packed in 4
//
// The packed side is written by us: 16 integers are spread over a register and number one of their block's values. Its result is
// [N, K], that of the planes [K, N].
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lookup.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void* room(size_t bytes) {
  void* made = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!made) exit(1);
  return memset(made, 1, bytes);
}

static inline __attribute__((always_inline)) void packed(const uint8_t* q, const uint16_t* scale, int64_t n, int64_t k,
                                                          int block, const int bits, float* out) {
  const __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i mask = _mm512_set1_epi32((1 << bits) - 1);
  const __m512i shift = bits == 4 ? _mm512_slli_epi32(_mm512_and_si512(number, _mm512_set1_epi32(7)), 2)
                                  : _mm512_mullo_epi32(number, _mm512_set1_epi32(bits));
  const __m512i dword = _mm512_srli_epi32(number, 3);
  const __m512 integers = _mm512_cvtepi32_ps(_mm512_and_si512(number, mask)), middle = _mm512_set1_ps((float)(1 << bits >> 1));
  for (int64_t row = 0; row < n; row++)
    for (int64_t b = 0; b < k / block; b++) {
      const __m512 value = _mm512_mul_ps(_mm512_sub_ps(integers, middle), _mm512_set1_ps(lookup_half(scale[row * (k / block) + b])));
      const uint8_t* from = q + (row * k + b * block) * bits / 8;
      float* to = out + row * k + b * block;
      for (int i = 0; i < block; i += 16, from += 2 * bits) {
        uint64_t held = 0;
        memcpy(&held, from, (size_t)(2 * bits));
        __m512i spread = _mm512_permutexvar_epi32(bits == 4 ? dword : _mm512_setzero_si512(), _mm512_set1_epi64((long long)held));
        _mm512_storeu_ps(to + i, _mm512_permutexvar_ps(_mm512_srlv_epi32(spread, shift), value));
      }
    }
}

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  const int64_t n = atoi(argv[1]), k = atoi(argv[2]);
  const int block = atoi(argv[3]), rounds = atoi(argv[4]);
  const LookupKernels* kernels = lookup_best();
  float* out = room((size_t)(n * k) * sizeof(float));
  uint8_t *planes = room((size_t)((n + 63) / 64 * 64 * k / 2)), *q = room((size_t)(n * k / 2));
  uint16_t* scale = room((size_t)((n + 63) / 64 * 64 * (k / block)) * 2);
  for (int bits = 1; bits <= 4; bits++) {
    const LookupLinear w = {planes, scale, NULL, (uint8_t)(1 << bits), n, k, bits, block};
    double best[2] = {1e18, 1e18};
    for (int round = 0; round < rounds; round++) {
      double begun = now();
      kernels->dequantise(&w, 0, (n + 63) / 64, out);
      double between = now();
      if (bits == 1)
        packed(q, scale, n, k, block, 1, out);
      else if (bits == 2)
        packed(q, scale, n, k, block, 2, out);
      else
        packed(q, scale, n, k, block, 4, out);
      double end = now();
      if (between - begun < best[0]) best[0] = between - begun;
      if (end - between < best[1]) best[1] = end - between;
    }
    printf("%d %.0f %.0f\n", bits, best[0], best[1]);
  }
  return 0;
}
