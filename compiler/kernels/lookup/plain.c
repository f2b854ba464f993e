// The lookup product in plain C: the reference that the vector kernels are held against, and what any processor runs.
#include "words.h"

#include <string.h>

static float signed_sum(const float* four, int pattern) {
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += pattern >> i & 1 ? four[i] : -four[i];
  return sum;
}

static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    float total, largest = lookup_largest_four(in, w->block, &total);
    float inverse = largest > 0 ? 127.0f / largest : 0;
    t->step[b] = largest / 127.0f, t->total[b] = total;
    for (int k = 0; k < w->block; k += 4)
      for (int p = 0; p < 16; p++)
        t->sums[(b * w->block + k) * 4 + p] = (int8_t)__builtin_rintf(signed_sum(in + k, p) * inverse);
  }
}

static void exact_tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    t->step[b] = 1, t->total[b] = 0;
    for (int k = 0; k < w->block; k++) t->total[b] += in[k];
    for (int k = 0; k < w->block; k += 4)
      for (int p = 0; p < 16; p++) t->exact[(b * w->block + k) * 4 + p] = signed_sum(in + k, p);
  }
}

// One output for one token. `at` is the panel's first byte, `lane` the output within the panel.
static float one(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t panel, int lane, LookupKind kind) {
  const uint8_t* at = w->planes + panel * lookup_panel_bytes(w);
  int64_t blocks = w->inputs / w->block, first = token * blocks;
  float y = 0, middle = ((1 << w->bits) - 1) / 2.0f;
  for (int64_t b = 0; b < blocks; b++) {
    float sum = 0;
    int whole = 0;
    for (int64_t e = b * w->block / 32; e < (b + 1) * w->block / 32; e++)
      for (int p = 0; p < w->bits; p++) {
        const uint8_t* bytes = at + (e * w->bits + p) * 256 + lane * 4;
        for (int g = 0; g < 8; g++) {
          int pattern = bytes[g & 3] >> (g < 4 ? 0 : 4) & 15;
          int64_t entry = (token * w->inputs + e * 32 + g * 4) * 4 + pattern;
          if (kind == LOOKUP_INT8)
            whole += t->sums[entry] * (1 << p);
          else
            sum += t->exact[entry] * (float)(1 << p);
        }
      }
    int64_t place = (panel * blocks + b) * LOOKUP_PANEL + lane;
    float zero = 0.5f * (w->zero_point ? w->zero_point[place] : w->zero);
    float value = (kind == LOOKUP_INT8 ? (float)whole : sum) * 0.5f * t->step[first + b] + (middle - zero) * t->total[first + b];
    y += lookup_half(w->scale[place]) * value;
  }
  return y;
}

static void all(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y, LookupKind kind) {
  for (int64_t m = 0; m < tokens; m++)
    for (int64_t n = from * LOOKUP_PANEL; n < to * LOOKUP_PANEL && n < w->outputs; n++)
      y[m * w->outputs + n] = one(w, t, m, n / LOOKUP_PANEL, (int)(n % LOOKUP_PANEL), kind);
}

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  all(w, t, tokens, from, to, y, LOOKUP_INT8);
}

LOOKUP_WORDS(multiply_wide, multiply)

static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  all(w, t, tokens, from, to, y, LOOKUP_FLOAT);
}

// Two levels of lookup. The first: four bits of each plane give that bit of four integers, one byte each. The second: the
// integers of a block and an output number its 2^bits values.
static void dequantise(const LookupLinear* w, int64_t from, int64_t to, float* out) {
  static const uint32_t four[16] = {0x00000000, 0x00000001, 0x00000100, 0x00000101, 0x00010000, 0x00010001,
                                    0x00010100, 0x00010101, 0x01000000, 0x01000001, 0x01000100, 0x01000101,
                                    0x01010000, 0x01010001, 0x01010100, 0x01010101};
  const int64_t blocks = w->inputs / w->block;
  for (int64_t n = from * LOOKUP_PANEL; n < to * LOOKUP_PANEL && n < w->outputs; n++) {
    const uint8_t* at = w->planes + n / LOOKUP_PANEL * lookup_panel_bytes(w) + n % LOOKUP_PANEL * 4;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t place = (n / LOOKUP_PANEL * blocks + b) * LOOKUP_PANEL + n % LOOKUP_PANEL;
      const float scale = lookup_half(w->scale[place]), zero = 0.5f * (w->zero_point ? w->zero_point[place] : w->zero);
      float value[16];
      for (int u = 0; u < 1 << w->bits; u++) value[u] = ((float)u - zero) * scale;
      for (int64_t e = b * w->block / 32; e < (b + 1) * w->block / 32; e++)
        for (int g = 0; g < 8; g++) {
          uint32_t u = 0;
          for (int p = 0; p < w->bits; p++)
            u |= four[at[(e * w->bits + p) * 256 + (g & 3)] >> (g < 4 ? 0 : 4) & 15] << p;
          for (int i = 0; i < 4; i++) out[(e * 32 + g * 4 + i) * w->outputs + n] = value[u >> 8 * i & 15];
        }
    }
  }
}

const LookupKernels lookup_plain = {
    "plain", {tables, word_tables, exact_tables}, {multiply, multiply_wide, multiply_exact}, dequantise};

// From the fastest to the one that any processor runs.
static const LookupKernels* able(int i) {
  switch (i) {
    case 0: return lookup_avx512();
    case 1: return lookup_avx512_bw();
    case 2: return lookup_avx2();
    case 3: return lookup_neon_dot();
    case 4: return lookup_neon();
    case 5: return lookup_hvx();
    default: return &lookup_plain;
  }
}

const LookupKernels* lookup_best(void) {
  const LookupKernels* found = NULL;
  for (int i = 0; !found; i++) found = able(i);
  return found;
}

const LookupKernels* lookup_named(const char* name) {
  for (int i = 0; i < 7; i++)
    if (able(i) && !strcmp(able(i)->name, name)) return able(i);
  return NULL;
}
