// Random cases of one kernel beside the plain one, in a process of their own: for processors that are emulated.
//
//     cases NAME COUNT SEED    ->    prints "NAME: COUNT cases, W wrong, largest difference D in 10^9"
//     cases NAME time K N BITS BLOCK    ->    multiplies once, so that an emulator can count its instructions
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
  float* x;
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
  c.t = (LookupTables){zeros(sums), zeros(sums * 4), zeros(sums), zeros(sums)};
  c.x = zeros((size_t)(tokens * inputs) * sizeof(float));
  for (int64_t i = 0; i < tokens * inputs; i++) c.x[i] = (float)between(-1000, 1000) / 300.0f;
  return c;
}

// The largest difference over the largest value; the tables are the plain kernel's, so sums of lookups are the same.
static float difference(const LookupKernels* k, Case* c) {
  size_t count = (size_t)(c->tokens * c->w.outputs);
  float *ours = zeros(count * sizeof(float)), *plain = zeros(count * sizeof(float));
  lookup_plain.tables(&c->w, c->x, c->tokens, &c->t);
  lookup_plain.multiply(&c->w, &c->t, c->tokens, 0, c->panels, plain);
  k->multiply(&c->w, &c->t, c->tokens, 0, c->panels, ours);
  float worst = 0, largest = 1e-9f;
  for (size_t i = 0; i < count; i++) {
    float apart = __builtin_fabsf(ours[i] - plain[i]);
    if (!(apart <= worst)) worst = apart;
    if (__builtin_fabsf(plain[i]) > largest) largest = __builtin_fabsf(plain[i]);
  }
  return worst / largest;
}

int main(int argc, char** argv) {
  const LookupKernels* k = argc > 1 ? lookup_named(argv[1]) : NULL;
  if (!k) return printf("no kernel `%s` here\n", argc > 1 ? argv[1] : ""), 2;
  if (argc > 6 && !strcmp(argv[2], "time")) {
    quick = 1;
    Case c = make(atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), 1, 1);
    float* y = zeros((size_t)c.w.outputs * sizeof(float));
    lookup_plain.tables(&c.w, c.x, 1, &c.t);
    k->multiply(&c.w, &c.t, 1, 0, c.panels, y);
    return printf("%d\n", (int)y[0]), 0;
  }
  int count = argc > 2 ? atoi(argv[2]) : 100, wrong = 0;
  state = argc > 3 ? (uint64_t)atoi(argv[3]) : 1;
  float worst = 0;
  for (int i = 0; i < count; i++) {
    used = 0;
    int block = 32 << between(0, 2);
    Case c = make(block * between(1, 4), between(1, 150), between(1, 4), block, between(1, 3), between(0, 1));
    float apart = difference(k, &c);
    if (!(apart <= worst)) worst = apart;
    wrong += !(apart < 1e-5f);
  }
  printf("%s: %d cases, %d wrong, largest difference %d in 10^9\n", k->name, count, wrong, (int)(worst * 1e9f));
  return wrong != 0;
}
