// A linear whose weights lie in bit planes, multiplied by table lookup.
//
//     y[m, n] = sum over k of x[m, k] * scale[n, k / block] * (u[n, k] - zero[n, k / block])      0 <= u < 2^bits
//
// Inputs are taken in groups of four. A plane has one bit of each u, so four bits of one plane and one output are the
// number of an entry in a table of 16: the sums of the four inputs, each with the sign of its bit (set: +, clear: -).
//
//     u = (2^bits - 1) / 2 + sum over p of 2^p * t_p / 2        t_p = +1 or -1
//     y = sum over blocks of scale * (sum over p of 2^p * lookup_p / 2  +  ((2^bits - 1) / 2 - zero) * sum of x)
//
// Layout of the planes: [ceil(N / 64)][K / 32][bits][4][64] bytes. A panel has 64 outputs in four tiles of 16; the 64
// bytes of a tile are [16 outputs][4 groups], the low half of a byte being group g of the 32 inputs, the high half group
// g + 4. Scales (float16) and zero points (uint8, twice their value) are [ceil(N / 64)][K / block][64]. Outputs beyond N are padding.
#ifndef EDGEC_LOOKUP_H
#define EDGEC_LOOKUP_H

#include <stddef.h>
#include <stdint.h>

// The shapes that products are specialised for: LOOKUP_SHAPES(X, of) is X(of, inputs, bits, block) for each. edgec writes the
// file for the linears of a model; without it every product takes its shape at run time.
#if defined(__has_include)
#if __has_include("shapes.h")
#include "shapes.h"
#endif
#endif
#ifndef LOOKUP_SHAPES
#define LOOKUP_SHAPES(X, of)
#endif

#define LOOKUP_PANEL 64   // outputs of a panel
#define LOOKUP_TOKENS 64  // rows of x for which tables are held at a time

typedef struct {
  const uint8_t* planes;
  const uint16_t* scale;      // float16 bits
  const uint8_t* zero_point;  // in halves; NULL: `zero` holds for all
  uint8_t zero;               // in halves
  int64_t outputs, inputs;  // N; K, a multiple of 32 and of `block`
  int bits;                 // 1 to 4
  int block;                // 32, 64 or 128
} LookupLinear;

// How a sum is held. As int8, sum = step * int8; in 16 bits, as two tables of int8 (words.h); as float: the steps are 1.
typedef enum { LOOKUP_INT8, LOOKUP_WORD, LOOKUP_FLOAT, LOOKUP_KINDS } LookupKind;

// Tables of `tokens` rows: `sums` or `exact` [tokens][K / 4][16], step and total [tokens][K / block]. In 16 bits each token
// has two rows of `sums`, `step` and `total`.
typedef struct {
  int8_t* sums;
  float* exact;
  float* step;
  float* total;
} LookupTables;

typedef void (*LookupMakeTables)(const LookupLinear*, const float* x, int64_t tokens, LookupTables*);
// outputs of panels [first, last) for all tokens: y[token * outputs + n]
typedef void (*LookupMultiply)(const LookupLinear*, const LookupTables*, int64_t tokens, int64_t first, int64_t last, float* y);
// the weights themselves, of panels [first, last): w[k * outputs + n], exact in float32
typedef void (*LookupDequantise)(const LookupLinear*, int64_t first, int64_t last, float* w);

// What one kind of processor has of its own.
typedef struct {
  const char* name;
  LookupMakeTables tables[LOOKUP_KINDS];
  LookupMultiply multiply[LOOKUP_KINDS];
  LookupDequantise dequantise;
} LookupKernels;

extern const LookupKernels lookup_plain;
const LookupKernels* lookup_avx2(void);    // NULL where the library was built without it, or the processor lacks it
const LookupKernels* lookup_avx512(void);  // the same; VBMI and VNNI
const LookupKernels* lookup_avx512_bw(void);  // without them
const LookupKernels* lookup_neon(void);
const LookupKernels* lookup_neon_dot(void);  // with dot products
const LookupKernels* lookup_hvx(void);
const LookupKernels* lookup_best(void);
const LookupKernels* lookup_named(const char* name);  // NULL if this processor cannot run it

// Defines the product `name` of `panels`, an inlined function that takes bits, units of 32 inputs in a block, and inputs last:
// once for each width, and once for each shape with constants in their place, used where `panels_gains(w, tokens)` says so.
// `panels_attribute` is what a function needs that inlines it.
#define LOOKUP_ARGUMENTS \
  const LookupLinear *w, const LookupTables *t, int64_t tokens, int64_t from, int64_t to, float *y
#define LOOKUP_SPECIALISE(panels, inputs, bits, block)           \
  panels##_attribute static void panels##_##inputs##_##bits##_##block(LOOKUP_ARGUMENTS) { \
    panels(w, t, tokens, from, to, y, bits, block / 32, inputs); \
  }
#define LOOKUP_TAKE(panels, K, B, S)                                                       \
  if (w->inputs == K && w->bits == B && w->block == S && panels##_gains(w, tokens)) { \
    panels##_##K##_##B##_##S(w, t, tokens, from, to, y);                                   \
    return;                                                                                \
  }
#define LOOKUP_PRODUCT(name, panels)                                                   \
  LOOKUP_SHAPES(LOOKUP_SPECIALISE, panels)                                             \
  panels##_attribute static void name(LOOKUP_ARGUMENTS) {                              \
    LOOKUP_SHAPES(LOOKUP_TAKE, panels)                                                 \
    const int units = w->block / 32;                                                   \
    switch (w->bits) {                                                                 \
      case 1: panels(w, t, tokens, from, to, y, 1, units, w->inputs); break;           \
      case 2: panels(w, t, tokens, from, to, y, 2, units, w->inputs); break;           \
      case 3: panels(w, t, tokens, from, to, y, 3, units, w->inputs); break;           \
      default: panels(w, t, tokens, from, to, y, 4, units, w->inputs);                 \
    }                                                                                  \
  }

// Of each number of four bits bit i, times 2^p: lookup_bit[4 p + i][number]. The first level of dequantisation.
static const uint8_t lookup_bit[16][16] = {
    {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1},
    {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1},
    {0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
    {0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2},
    {0, 0, 2, 2, 0, 0, 2, 2, 0, 0, 2, 2, 0, 0, 2, 2},
    {0, 0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 2, 2, 2, 2},
    {0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2},
    {0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4},
    {0, 0, 4, 4, 0, 0, 4, 4, 0, 0, 4, 4, 0, 0, 4, 4},
    {0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4},
    {0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4},
    {0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8},
    {0, 0, 8, 8, 0, 0, 8, 8, 0, 0, 8, 8, 0, 0, 8, 8},
    {0, 0, 0, 0, 8, 8, 8, 8, 0, 0, 0, 0, 8, 8, 8, 8},
    {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8},
};

static inline size_t lookup_panel_bytes(const LookupLinear* w) { return (size_t)w->inputs * 8 * w->bits; }

static inline float lookup_half(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | fraction << 13;
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {  // zero or subnormal: fraction * 2^-24, exact in float
    float value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
  }
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

#endif
