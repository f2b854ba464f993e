// Random cases of one kernel beside the plain one, in a process of their own: for processors that are emulated.
//
//     cases NAME COUNT SEED    ->    prints "NAME: COUNT cases, W wrong, largest difference D in 10^9, in 16 bits H, bytes of the outputs S"
//     cases NAME WHAT K N BITS BLOCK [TOKENS]    ->    runs once, so that an emulator can count its instructions: WHAT is int8, word or
//                                             float (a product with such tables), tables (of int8) or dequantise
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

static uint64_t state = 1;

static uint32_t random32(void) {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(state >> 33) ^ (uint32_t)(state >> 12);
}

static int between(int low, int high) { return low + (int)(random32() % (uint32_t)(high - low + 1)); }

typedef struct {
  LookupLinear w;
  LookupTables t;
  int64_t tokens, panels;
  float *x, typical;
} Case;

static int quick;  // weights of zeros: they are only counted
static uint8_t arena[48 << 20] __attribute__((aligned(128)));
static size_t used;

static void* zeros(size_t bytes) {
  void* made = arena + used;
  used += (bytes + 127) / 128 * 128;
  if (used > sizeof(arena)) exit(3);
  return memset(made, 0, bytes);
}

static void* filled(size_t bytes) {
  uint8_t* made = zeros(bytes);
  if (quick) return made;
  for (size_t i = 0; i < bytes; i++) made[i] = (uint8_t)(random32() >> 7);
  return made;
}

static Case make(int64_t inputs, int64_t outputs, int bits, int block, int tokens, int symmetric) {
  Case c = {.tokens = tokens, .panels = (outputs + 63) / 64};
  size_t scales = (size_t)(c.panels * (inputs / block) * 64), sums = (size_t)(tokens * inputs * 4);
  uint16_t* scale = filled(scales * 2);
  int small = between(0, 7) == 0;  // some cases have scales of zero and subnormal ones
  for (size_t i = 0; i < scales; i++) {
    scale[i] = (uint16_t)(0x1400 + scale[i] % 0x1000) | (scale[i] >> 15 << 15);  // 0.001 to 0.016, also below zero
    if (small && i % 5 == 0) scale[i] &= 0x83ff;
  }
  uint8_t* zero = symmetric ? NULL : filled(scales);
  for (size_t i = 0; zero && i < scales; i++) zero[i] %= 2 << bits;
  c.w = (LookupLinear){filled((size_t)(c.panels * inputs * 8 * bits)), scale, zero, (uint8_t)(1 << bits), outputs, inputs, bits, block};
  c.t = (LookupTables){zeros(sums * 2), zeros(sums * 4), zeros(sums), zeros(sums)};
  c.x = zeros((size_t)(tokens * inputs) * sizeof(float));
  for (int64_t i = 0; i < tokens * inputs; i++) c.x[i] = (float)between(-1000, 1000) / 300.0f;
  return c;
}

static float root(float square) {  // without a library of mathematics
  float found = square > 1 ? square : 1;
  for (int i = 0; i < 60; i++) found = 0.5f * (found + square / found);
  return found;
}

// What an output is typically: the largest root of the sum of its squared summands.
static float typical(const Case* c) {
  const int64_t n = c->w.outputs;
  float *w = zeros((size_t)(c->w.inputs * n) * sizeof(float)), largest = 1e-18f;
  lookup_plain.dequantise(&c->w, 0, c->panels, w);
  for (int64_t m = 0; m < c->tokens; m++)
    for (int64_t o = 0; o < n; o++) {
      float squares = 0;
      for (int64_t k = 0; k < c->w.inputs; k++) {
        float part = c->x[m * c->w.inputs + k] * w[k * n + o];
        squares += part * part;
      }
      if (squares > largest) largest = squares;
    }
  return root(largest);
}

static uint32_t bytes = 1;  // of all outputs by tables of int8, mixed

static void mix(const float* y, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint32_t held;
    memcpy(&held, y + i, 4);
    bytes = (bytes ^ held) * 16777619u;
  }
}

static float apart(const float* ours, const float* plain, const Case* c) {
  float worst = 0;
  for (int64_t i = 0; i < c->tokens * c->w.outputs; i++) {
    float difference = __builtin_fabsf(ours[i] - plain[i]);
    if (!(difference <= worst)) worst = difference;
  }
  return worst / c->typical;
}

// Of the kernel's product, over the plain kernel's tables; with `own`, of the plain product over the kernel's tables.
// Tables of 16 bits are held against those of floats: their bound is that of the exact product.
static float compared(const LookupKernels* k, Case* c, LookupKind kind, int own) {
  size_t count = (size_t)(c->tokens * c->w.outputs);
  float *ours = zeros(count * sizeof(float)), *plain = zeros(count * sizeof(float));
  const LookupKind other = kind == LOOKUP_WORD ? LOOKUP_FLOAT : kind;
  lookup_plain.tables[other](&c->w, c->x, c->tokens, &c->t);
  lookup_plain.multiply[other](&c->w, &c->t, c->tokens, 0, c->panels, plain);
  if (other != kind) lookup_plain.tables[kind](&c->w, c->x, c->tokens, &c->t);
  if (own) k->tables[kind](&c->w, c->x, c->tokens, &c->t);
  (own ? lookup_plain.multiply : k->multiply)[kind](&c->w, &c->t, c->tokens, 0, c->panels, ours);
  if (kind == LOOKUP_INT8 && !own) mix(ours, count);
  return apart(ours, plain, c);
}

// How many of the weights are not the same number.
static int unequal(const LookupKernels* k, Case* c) {
  size_t count = (size_t)(c->w.inputs * c->w.outputs);
  float *ours = zeros(count * sizeof(float)), *plain = zeros(count * sizeof(float));
  lookup_plain.dequantise(&c->w, 0, c->panels, plain);
  k->dequantise(&c->w, 0, c->panels, ours);
  int found = 0;
  for (size_t i = 0; i < count; i++) found += !(ours[i] == plain[i]);
  return found;
}

static void once(const LookupKernels* k, const char* what, Case* c) {
  const int64_t rows = strcmp(what, "dequantise") ? c->tokens : c->w.inputs;
  const char* kinds[LOOKUP_KINDS] = {"int8", "word", "float"};
  float* y = zeros((size_t)(c->w.outputs * rows) * sizeof(float));
  if (!strcmp(what, "dequantise")) k->dequantise(&c->w, 0, c->panels, y);
  if (!strcmp(what, "tables")) k->tables[LOOKUP_INT8](&c->w, c->x, c->tokens, &c->t);
  for (int kind = 0; kind < LOOKUP_KINDS; kind++)
    if (!strcmp(what, kinds[kind])) {
      lookup_plain.tables[kind](&c->w, c->x, c->tokens, &c->t);
      k->multiply[kind](&c->w, &c->t, c->tokens, 0, c->panels, y);
    }
  printf("%d\n", (int)y[0]);
}

int main(int argc, char** argv) {
  const LookupKernels* k = argc > 1 ? lookup_named(argv[1]) : NULL;
  if (!k) return printf("no kernel `%s` here\n", argc > 1 ? argv[1] : ""), 2;
  if (argc > 6) {
    quick = 1;
    Case c = make(atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), argc > 7 ? atoi(argv[7]) : 1, 1);
    return once(k, argv[2], &c), 0;
  }
  int count = argc > 2 ? atoi(argv[2]) : 100, wrong = 0;
  state = argc > 3 ? (uint64_t)atoi(argv[3]) : 1;
  float worst[LOOKUP_KINDS] = {0};
  for (int i = 0; i < count; i++) {
    used = 0;
    int block = 32 << between(0, 2);
    Case c = make(block * between(1, 4), between(1, 150), between(1, 4), block, between(1, 7), between(0, 1));
    // A table's entry of int8 may be the next one where two roundings are as near.
    const float allowed[LOOKUP_KINDS] = {1e-5f, 2e-4f, 1e-5f}, rounded[LOOKUP_KINDS] = {2e-2f, 2e-4f, 1e-5f};
    int bad = unequal(k, &c) != 0;
    c.typical = typical(&c);
    for (int kind = 0; kind < LOOKUP_KINDS; kind++) {
      if (k->multiply[kind] != lookup_plain.multiply[kind] || k == &lookup_plain) {
        float off = compared(k, &c, kind, 0);
        if (!(off <= worst[kind])) worst[kind] = off;
        bad |= !(off < allowed[kind]);
      }
      if (k->tables[kind] != lookup_plain.tables[kind]) bad |= !(compared(k, &c, kind, 1) < rounded[kind]);
    }
    wrong += bad;
  }
  printf("%s: %d cases, %d wrong, largest difference %d in 10^9, in 16 bits %d, bytes of the outputs %d\n", k->name, count, wrong,
         (int)(worst[LOOKUP_INT8] * 1e9f), (int)(worst[LOOKUP_WORD] * 1e9f), (int)bytes);
  return wrong != 0;
}
