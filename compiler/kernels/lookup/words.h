// Sums of 16 bits: sum = step * (256 * high + low), as two tables of int8 under one number of an entry.
//
// A token is then two of a product with tables of int8: the first has the low parts, the block's step and the sum of its inputs,
// the second the high parts and 256 times the step. Their outputs, added, are the token's. An entry is off by half a step at
// most, step being the block's largest sum of four magnitudes over 32,639.
#ifndef EDGEC_LOOKUP_WORDS_H
#define EDGEC_LOOKUP_WORDS_H

#include "lookup.h"

#define LOOKUP_LARGEST_WORD 32639  // 127 * 257
#define LOOKUP_TOGETHER 4          // tokens

// The largest |a| + |b| + |c| + |d| of the fours of a block, and in `total` the sum of all.
static inline float lookup_largest_four(const float* in, int block, float* total) {
  float largest = 0;
  *total = 0;
  for (int k = 0; k < block; k += 4) {
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += __builtin_fabsf(in[k + i]), *total += in[k + i];
    if (sum > largest) largest = sum;
  }
  return largest;
}

static inline void word_tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  static const float sign[4][16] = {{-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1},
                                    {-1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1},
                                    {-1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1},
                                    {-1, -1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, 1, 1}};
  const int64_t blocks = w->inputs / w->block;
  for (int64_t m = 0; m < tokens; m++)
    for (int64_t b = 0; b < blocks; b++) {
      const float* in = x + m * w->inputs + b * w->block;
      int8_t *low = t->sums + (2 * m * w->inputs + b * w->block) * 4, *high = low + w->inputs * 4;
      float total;
      const float largest = lookup_largest_four(in, w->block, &total), step = largest / LOOKUP_LARGEST_WORD;
      const float inverse = largest > 0 ? LOOKUP_LARGEST_WORD / largest : 0;
      t->step[2 * m * blocks + b] = step, t->step[(2 * m + 1) * blocks + b] = 256 * step;
      t->total[2 * m * blocks + b] = total, t->total[(2 * m + 1) * blocks + b] = 0;
      for (int k = 0; k < w->block; k += 4, low += 16, high += 16)
        for (int p = 0; p < 16; p++) {
          const float sum = in[k] * sign[0][p] + in[k + 1] * sign[1][p] + in[k + 2] * sign[2][p] + in[k + 3] * sign[3][p];
          const int32_t value = (int32_t)__builtin_rintf(sum * inverse), upper = (value + 128) >> 8;
          high[p] = (int8_t)upper, low[p] = (int8_t)(value - upper * 256);
        }
    }
}

// By `multiply`, a product with tables of int8, a panel at a time.
static inline void multiply_words(LookupMultiply multiply, const LookupLinear* w, const LookupTables* t, int64_t tokens,
                                  int64_t from, int64_t to, float* y) {
  const int64_t blocks = w->inputs / w->block;
  float parts[2 * LOOKUP_TOGETHER * LOOKUP_PANEL];
  for (int64_t n = from; n < to; n++) {
    LookupLinear one = *w;
    one.planes += n * (int64_t)lookup_panel_bytes(w), one.scale += n * blocks * LOOKUP_PANEL;
    if (w->zero_point) one.zero_point += n * blocks * LOOKUP_PANEL;
    const int64_t left = w->outputs - n * LOOKUP_PANEL;
    one.outputs = left < LOOKUP_PANEL ? left : LOOKUP_PANEL;
    for (int64_t m = 0; m < tokens; m += LOOKUP_TOGETHER) {
      const int64_t count = tokens - m < LOOKUP_TOGETHER ? tokens - m : LOOKUP_TOGETHER;
      const LookupTables some = {t->sums + 2 * m * w->inputs * 4, NULL, t->step + 2 * m * blocks, t->total + 2 * m * blocks};
      multiply(&one, &some, 2 * count, 0, 1, parts);
      for (int64_t i = 0; i < count; i++)
        for (int64_t o = 0; o < one.outputs; o++)
          y[(m + i) * w->outputs + n * LOOKUP_PANEL + o] = parts[2 * i * one.outputs + o] + parts[(2 * i + 1) * one.outputs + o];
    }
  }
}

// `name`: the product with tables of 16 bits that a processor has by its `multiply`.
#define LOOKUP_WORDS(name, multiply)                                                                                          \
  static void name(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) { \
    multiply_words(multiply, w, t, tokens, from, to, y);                                                                     \
  }

#endif
