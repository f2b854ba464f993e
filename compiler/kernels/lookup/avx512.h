// What both AVX-512 kernels share: tables, the product with tables of floats, and the weights themselves.
#ifndef EDGEC_LOOKUP_AVX512_H
#define EDGEC_LOOKUP_AVX512_H

#include <immintrin.h>

#include "words.h"

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

// The largest sum of four magnitudes, and the sum of all.
INLINE float largest_of_block(const float* in, int block, float* sum) {
  __m512 total = _mm512_setzero_ps(), largest = _mm512_setzero_ps();
  for (int k = 0; k < block; k += 16) {
    __m512 v = _mm512_loadu_ps(in + k), a = _mm512_abs_ps(v);
    total = _mm512_add_ps(total, v);
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0xB1));
    a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4E));
    largest = _mm512_max_ps(a, largest);
  }
  *sum = _mm512_reduce_add_ps(total);
  return _mm512_reduce_max_ps(largest);
}

// Two groups at once: of each the eight sums whose last input is added. The other eight are these, negated, from the last to
// the first, and so are their roundings.
static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  __m512 sign[4];
  signs(sign);
  const __m512i second = _mm512_set_epi32(4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i place = _mm256_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 15, 14, 13, 12, 11, 10, 9, 8, 8, 9,
                                         10, 11, 12, 13, 14, 15);
  const __m256i mirrored = _mm256_set_epi64x(0x0101010101010101, -1, 0x0101010101010101, -1);
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    float largest = largest_of_block(in, w->block, &t->total[b]);
    t->step[b] = largest / 127.0f;
    __m512 inverse = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0);
    for (int k = 0; k < w->block; k += 8) {
      const __m512 eight = _mm512_castps256_ps512(_mm256_loadu_ps(in + k));
      __m512 sum = _mm512_xor_ps(_mm512_permutexvar_ps(second, eight), sign[0]);
      UNROLL for (int i = 1; i < 4; i++) {
        __m512 input = _mm512_permutexvar_ps(_mm512_add_epi32(second, _mm512_set1_epi32(i)), eight);
        sum = _mm512_add_ps(sum, i < 3 ? _mm512_xor_ps(input, sign[i]) : input);
      }
      __m128i rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(sum, inverse)));
      __m256i both = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(rounded), place);
      _mm256_storeu_si256((__m256i*)(t->sums + (b * w->block + k) * 4), _mm256_sign_epi8(both, mirrored));
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

// Tables of floats.
static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  const int64_t blocks = w->inputs / w->block;
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  for (int64_t n = from; n < to; n++)
    for (int64_t m = 0; m < tokens; m++) {
      const uint8_t* at = w->planes + n * lookup_panel_bytes(w);
      int64_t entry = m * w->inputs * 4;
      __m512 sum[4];
      for (int i = 0; i < 4; i++) sum[i] = _mm512_setzero_ps();
      for (int64_t b = 0; b < blocks; b++) {
        __m512 value[4];
        for (int i = 0; i < 4; i++) value[i] = _mm512_setzero_ps();
        for (int e = 0; e < w->block / 32; e++, entry += 128) {
          __m512 table[8];
          UNROLL for (int g = 0; g < 8; g++) table[g] = _mm512_loadu_ps(t->exact + entry + g * 16);
          for (int p = 0; p < w->bits; p++, at += 256) {
            const __m512 weight = _mm512_set1_ps(0.5f * (float)(1 << p));
            UNROLL for (int i = 0; i < 4; i++) {
              __m512i bytes = _mm512_loadu_si512(at + i * 64);  // VPERMPS reads the low four bits of each lane
              __m512 found = _mm512_setzero_ps();
              UNROLL for (int g = 0; g < 8; g++) {
                __m512i number = _mm512_srli_epi32(bytes, g < 4 ? 8 * g : 8 * (g - 4) + 4);
                found = _mm512_add_ps(found, _mm512_permutexvar_ps(number, table[g]));
              }
              value[i] = _mm512_fmadd_ps(found, weight, value[i]);
            }
          }
        }
        const __m512 step = _mm512_set1_ps(t->step[m * blocks + b]);
        for (int i = 0; i < 4; i++) {
          int64_t place = (n * blocks + b) * LOOKUP_PANEL + i * 16;
          value[i] = _mm512_fmadd_ps(value[i], step, offset(w, place, middle, t->total[m * blocks + b]));
          sum[i] = _mm512_fmadd_ps(scales(w, place), value[i], sum[i]);
        }
      }
      for (int i = 0; i < 4; i++) store(w, n * LOOKUP_PANEL + i * 16, y + m * w->outputs, sum[i]);
    }
}

INLINE __m512i bit_table(int i, int p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)lookup_bit[4 * p + i]));
}

// Sixteen outputs of the 16 inputs of one `half` of 32. The first level of lookup makes four integers of each four bits of a plane; the second is
// one multiply-add, exact: an integer of four bits times a scale of eleven.
INLINE void dequantise_tile(const uint8_t* at, __m512 scale, __m512 shift, int64_t stride, float* out, __mmask16 some,
                            const int half, const int past, const int bits) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512i u[4];
  UNROLL for (int i = 0; i < 4; i++) u[i] = _mm512_setzero_si512();
  UNROLL for (int p = 0; p < bits; p++) {
    __m512i bytes = _mm512_loadu_si512(at + p * 256);
    bytes = _mm512_and_si512(half ? _mm512_srli_epi16(bytes, 4) : bytes, low);
    UNROLL for (int i = 0; i < 4; i++) u[i] = _mm512_or_si512(u[i], _mm512_shuffle_epi8(bit_table(i, p), bytes));
  }
  UNROLL for (int g = 0; g < 4; g++) UNROLL for (int i = 0; i < 4; i++) {
    __m512i one = _mm512_and_si512(_mm512_srli_epi32(u[i], 8 * g), _mm512_set1_epi32(15));
    const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), scale, shift);
    if (past)
      _mm512_stream_ps(out + (g * 4 + i) * stride, value);
    else
      _mm512_mask_storeu_ps(out + (g * 4 + i) * stride, some, value);
  }
}

// `past`: past the caches, for a result that none holds; rows of it begin a cache line.
INLINE void dequantise_panels(const LookupLinear* w, int64_t from, int64_t to, float* out, const int bits, const int past) {
  const int64_t blocks = w->inputs / w->block;
  for (int64_t e = 0; e < w->inputs / 16; e++)  // 16 rows of the result at a time, each from end to end
    for (int64_t n = from; n < to; n++) {
      const uint8_t* at = w->planes + n * lookup_panel_bytes(w) + e / 2 * bits * 256;
      for (int i = 0; i < 4; i++) {
        const int64_t place = (n * blocks + e * 16 / w->block) * LOOKUP_PANEL + i * 16, first = n * LOOKUP_PANEL + i * 16;
        const int64_t left = w->outputs - first;
        if (left <= 0) break;
        const __m512 scale = scales(w, place), shift = _mm512_mul_ps(scale, offset(w, place, 0, 1));
        const __mmask16 some = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
        float* row = out + e * 16 * w->outputs + first;
        if (e & 1)
          dequantise_tile(at + i * 64, scale, shift, w->outputs, row, some, 1, past, bits);
        else
          dequantise_tile(at + i * 64, scale, shift, w->outputs, row, some, 0, past, bits);
      }
    }
  if (past) _mm_sfence();
}

#define LARGE (4 << 20)  // bytes

static void dequantise(const LookupLinear* w, int64_t from, int64_t to, float* out) {
  const int past = w->inputs * w->outputs * 4 > LARGE && w->outputs % 16 == 0 && ((uintptr_t)out & 63) == 0;
  switch (w->bits * 2 + past) {
    case 2: dequantise_panels(w, from, to, out, 1, 0); break;
    case 3: dequantise_panels(w, from, to, out, 1, 1); break;
    case 4: dequantise_panels(w, from, to, out, 2, 0); break;
    case 5: dequantise_panels(w, from, to, out, 2, 1); break;
    case 6: dequantise_panels(w, from, to, out, 3, 0); break;
    case 7: dequantise_panels(w, from, to, out, 3, 1); break;
    case 8: dequantise_panels(w, from, to, out, 4, 0); break;
    default: dequantise_panels(w, from, to, out, 4, 1);
  }
}

#endif
