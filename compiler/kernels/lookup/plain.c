// The lookup product in plain C: the reference that the vector kernels are held against, and what any processor runs.
#include "lookup.h"

#include <string.h>

static float signed_sum(const float* four, int pattern) {
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += pattern >> i & 1 ? four[i] : -four[i];
  return sum;
}

static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    float largest = 0, total = 0;
    for (int k = 0; k < w->block; k += 4) {
      float sum = 0;
      for (int i = 0; i < 4; i++) sum += __builtin_fabsf(in[k + i]), total += in[k + i];
      if (sum > largest) largest = sum;
    }
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
static float one(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t panel, int lane, int exact) {
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
          if (exact)
            sum += t->exact[entry] * (float)(1 << p);
          else
            whole += t->sums[entry] * (1 << p);
        }
      }
    int64_t place = (panel * blocks + b) * LOOKUP_PANEL + lane;
    float zero = 0.5f * (w->zero_point ? w->zero_point[place] : w->zero);
    float value = (exact ? sum : (float)whole) * 0.5f * t->step[first + b] + (middle - zero) * t->total[first + b];
    y += lookup_half(w->scale[place]) * value;
  }
  return y;
}

static void all(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y, int exact) {
  for (int64_t m = 0; m < tokens; m++)
    for (int64_t n = from * LOOKUP_PANEL; n < to * LOOKUP_PANEL && n < w->outputs; n++)
      y[m * w->outputs + n] = one(w, t, m, n / LOOKUP_PANEL, (int)(n % LOOKUP_PANEL), exact);
}

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  all(w, t, tokens, from, to, y, 0);
}

static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  all(w, t, tokens, from, to, y, 1);
}

const LookupKernels lookup_plain = {"plain", tables, exact_tables, multiply, multiply_exact};

// From the fastest to the one that any processor runs.
static const LookupKernels* able(int i) {
  switch (i) {
    case 0: return lookup_avx512();
    case 1: return lookup_avx2();
    case 2: return lookup_neon_dot();
    case 3: return lookup_neon();
    case 4: return lookup_hvx();
    default: return &lookup_plain;
  }
}

const LookupKernels* lookup_best(void) {
  const LookupKernels* found = NULL;
  for (int i = 0; !found; i++) found = able(i);
  return found;
}

const LookupKernels* lookup_named(const char* name) {
  for (int i = 0; i < 6; i++)
    if (able(i) && !strcmp(able(i)->name, name)) return able(i);
  return NULL;
}
