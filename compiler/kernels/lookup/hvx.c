// The lookup product for Hexagon's vector unit (HVX, 128 bytes, v66 and later): VLUT32 looks up 128 bytes, each in a table
// of 32, which is those of two groups; VMPY of bytes adds them up, times the weight of the plane, in 16 bits.
//
// It runs in an emulator of the instruction set. To run on a phone it has to be called from there: as an op package of
// QNN or through FastRPC, both of which need Qualcomm's Hexagon SDK.
#include "lookup.h"

#if defined(__hexagon__) && defined(__HVX__)
#include <hexagon_types.h>
#include <hvx_hexagon_protos.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define LARGEST_INPUTS 32768

static int8_t arranged[2][LARGEST_INPUTS * 4] __attribute__((aligned(128)));
static int32_t whole[2][4][32] __attribute__((aligned(128)));  // of output 4 j + q: whole[..][q][j]
static float scales[LOOKUP_PANEL] __attribute__((aligned(128)));
static float sum[2][LOOKUP_PANEL];

// Sums of one token, 128 bytes for every 32 inputs, as VLUT32 reads them: of halfword h the low byte is entry h of the tables
// of groups 0, 2, 4, 6, the high byte that of groups 1, 3, 5, 7.
static void arrange(const int8_t* sums, int64_t inputs, int8_t* out) {
  for (int64_t e = 0; e < inputs / 32; e += 2) {
    const HVX_UVector* from = (const HVX_UVector*)(sums + e * 128);
    const HVX_Vector next = e + 1 < inputs / 32 ? from[1] : from[0];
    const HVX_VectorPair groups = Q6_W_vdeal_VVR(next, from[0], -16);  // even ones, odd ones
    const HVX_VectorPair mixed = Q6_W_vshuff_VVR(Q6_V_hi_W(groups), Q6_V_lo_W(groups), -1);
    *(HVX_Vector*)(out + e * 128) = Q6_V_lo_W(mixed);
    if (e + 1 < inputs / 32) *(HVX_Vector*)(out + e * 128 + 128) = Q6_V_hi_W(mixed);
  }
}

static inline HVX_Vector splat(int byte) { return Q6_V_vsplat_R(byte * 0x01010101); }

// The lookups of one block for the 64 outputs of a panel by M tables, in `whole`: bytes are put in order once for all.
INLINE const uint8_t* block_sums(const uint8_t* at, int64_t table, HVX_Vector upper, const int bits, const int M, const int units) {
  const HVX_Vector low = splat(15);
  const HVX_Vector place[4] = {upper, Q6_V_vor_VV(upper, splat(32)), Q6_V_vor_VV(upper, splat(64)), Q6_V_vor_VV(upper, splat(96))};
  HVX_VectorPair sums[2];
  UNROLL for (int m = 0; m < M; m++) sums[m] = Q6_W_vcombine_VV(Q6_V_vzero(), Q6_V_vzero());
  for (int e = 0; e < units; e++, table += 128) {
    HVX_Vector entries[2];
    UNROLL for (int m = 0; m < M; m++) entries[m] = *(const HVX_Vector*)(arranged[m] + table);
    UNROLL for (int p = 0; p < bits; p++, at += 256) {
      const HVX_UVector* bytes = (const HVX_UVector*)at;
      HVX_VectorPair apart = Q6_W_vdeal_VVR(bytes[1], bytes[0], -1);  // groups 0 2 and 1 3
      HVX_Vector even = Q6_Vb_vdeal_Vb(Q6_V_lo_W(apart)), odd = Q6_Vb_vdeal_Vb(Q6_V_hi_W(apart));
      HVX_Vector a = Q6_V_vor_VV(Q6_V_vand_VV(even, low), place[0]), c = Q6_V_vor_VV(Q6_V_vand_VV(odd, low), place[2]);
      even = Q6_V_vor_VV(Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(even, 4), low), place[1]);
      odd = Q6_V_vor_VV(Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(odd, 4), low), place[3]);
      const int weight = 0x01010101 << p;
      UNROLL for (int m = 0; m < M; m++) {
        sums[m] = Q6_Wh_vmpyacc_WhVbVb(sums[m], Q6_Vb_vlut32_VbVbR(a, entries[m], 0), Q6_V_vsplat_R(weight));
        sums[m] = Q6_Wh_vmpyacc_WhVbVb(sums[m], Q6_Vb_vlut32_VbVbR(even, entries[m], 1), Q6_V_vsplat_R(weight));
        sums[m] = Q6_Wh_vmpyacc_WhVbVb(sums[m], Q6_Vb_vlut32_VbVbR(c, entries[m], 2), Q6_V_vsplat_R(weight));
        sums[m] = Q6_Wh_vmpyacc_WhVbVb(sums[m], Q6_Vb_vlut32_VbVbR(odd, entries[m], 3), Q6_V_vsplat_R(weight));
      }
    }
  }
  UNROLL for (int m = 0; m < M; m++)
    for (int side = 0; side < 2; side++) {  // 16 bits of each half hold 16 lookups of 128 times 15 at most: 30,720
      HVX_Vector part = side ? Q6_V_hi_W(sums[m]) : Q6_V_lo_W(sums[m]);
      HVX_VectorPair both = Q6_Ww_vadd_VhVh(part, Q6_V_vror_VR(part, 64));
      *(HVX_Vector*)whole[m][side] = Q6_V_lo_W(both);
      *(HVX_Vector*)whole[m][side + 2] = Q6_V_hi_W(both);
    }
  return at;
}

// float16 to float for the 64 scales of a block, in `scales`; returns lanes that are not zero where that is not so simple:
// zeros, subnormal numbers, infinities.
static inline HVX_Vector convert(const uint16_t* from) {
  const HVX_Vector half = *(const HVX_UVector*)from, mask = Q6_V_vsplat_R(0x7c007c00);
  HVX_Vector exponent = Q6_V_vand_VV(half, mask);
  HVX_VectorPred other = Q6_Q_or_QQ(Q6_Q_vcmp_eq_VhVh(exponent, Q6_V_vzero()), Q6_Q_vcmp_eq_VhVh(exponent, mask));
  HVX_VectorPair wide = Q6_Wuw_vunpack_Vuh(half);
  for (int h = 0; h < 2; h++) {
    HVX_Vector one = h ? Q6_V_hi_W(wide) : Q6_V_lo_W(wide);
    HVX_Vector sign = Q6_Vw_vasl_VwR(Q6_V_vand_VV(one, Q6_V_vsplat_R(0x8000)), 16);
    HVX_Vector rest = Q6_Vw_vasl_VwR(Q6_V_vand_VV(one, Q6_V_vsplat_R(0x7fff)), 13);
    ((HVX_Vector*)scales)[h] = Q6_V_vor_VV(sign, Q6_Vw_vadd_VwVw(rest, Q6_V_vsplat_R(112 << 23)));
  }
  return Q6_V_vand_QR(other, 0x01010101);
}

static int any(HVX_Vector lanes) {
  uint32_t held[32] __attribute__((aligned(128))), found = 0;
  *(HVX_Vector*)held = lanes;
  for (int i = 0; i < 32; i++) found |= held[i];
  return found != 0;
}

// sum += scale * (whole * half + (middle - zero) * total) for the 64 outputs of one block
INLINE void add_block(const LookupLinear* w, int64_t place, int m, float half, float middle, float total) {
  if (w->zero_point) {
    const uint8_t* zero = w->zero_point + place;
    for (int n = 0; n < LOOKUP_PANEL; n++)
      sum[m][n] += scales[n] * ((float)whole[m][n & 3][n >> 2] * half + (middle - 0.5f * zero[n]) * total);
    return;
  }
  const float offset = (middle - 0.5f * w->zero) * total;
  for (int j = 0; j < 16; j++)
    for (int q = 0; q < 4; q++) {
      const int n = 4 * j + q;
      sum[m][n] = __builtin_fmaf(scales[n], __builtin_fmaf((float)whole[m][q][j], half, offset), sum[m][n]);
    }
}

// One panel by M tables, those of `token` and the next; with `words` both are of one token, which takes their sum. `plainly`:
// scales are converted one by one. Returns 0 if they have to be.
INLINE int panel(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, float* y, int plainly,
                 const int bits, const int M, const int words, const int units, const int64_t inputs) {
  const int64_t blocks = inputs / (32 * units);
  const uint8_t* at = w->planes + number * inputs * 8 * bits;
  const float middle = ((1 << bits) - 1) / 2.0f;
  // 16 in the upper half: the second of the two groups in a table
  const HVX_Vector upper = Q6_V_vmux_QVV(Q6_Q_vsetq_R(64), Q6_V_vzero(), splat(16));
  HVX_Vector odd = Q6_V_vzero();
  for (int m = 0; m < M; m++)
    for (int n = 0; n < LOOKUP_PANEL; n++) sum[m][n] = 0;
  for (int64_t b = 0; b < blocks; b++) {
    at = block_sums(at, b * units * 128, upper, bits, M, units);
    const int64_t place = (number * blocks + b) * LOOKUP_PANEL;
    if (plainly)
      for (int n = 0; n < LOOKUP_PANEL; n++) scales[n] = lookup_half(w->scale[place + n]);
    else
      odd = Q6_V_vor_VV(odd, convert(w->scale + place));
    for (int m = 0; m < M; m++) {
      const int64_t block = (token + m) * blocks + b;
      add_block(w, place, m, 0.5f * t->step[block], middle, t->total[block]);
    }
  }
  if (any(odd)) return 0;
  const int64_t first = number * LOOKUP_PANEL, left = w->outputs - first, count = left < LOOKUP_PANEL ? left : LOOKUP_PANEL;
  for (int64_t n = 0; n < count; n++)
    if (words)
      y[token / 2 * w->outputs + first + n] = sum[0][n] + sum[1][n];
    else
      for (int m = 0; m < M; m++) y[(token + m) * w->outputs + first + n] = sum[m][n];
  return 1;
}

// All panels by M tables from `token` on.
INLINE void tables_over_panels(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t from, int64_t to, float* y,
                               const int bits, const int M, const int words, const int units, const int64_t inputs) {
  for (int m = 0; m < M; m++) arrange(t->sums + (token + m) * inputs * 4, inputs, arranged[m]);
  for (int64_t n = from; n < to; n++)
    for (int plainly = 0; !panel(w, t, token, n, y, plainly, bits, M, words, units, inputs); plainly = 1) continue;
}

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits, const int units, const int64_t inputs) {
  int64_t m = 0;
  for (; m + 2 <= tokens; m += 2) tables_over_panels(w, t, m, from, to, y, bits, 2, 0, units, inputs);
  for (; m < tokens; m++) tables_over_panels(w, t, m, from, to, y, bits, 1, 0, units, inputs);
}

INLINE void word_panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                        const int bits, const int units, const int64_t inputs) {
  for (int64_t m = 0; m < tokens; m++) tables_over_panels(w, t, 2 * m, from, to, y, bits, 2, 1, units, inputs);
}

#define panels_attribute
#define panels_gains(w, tokens) 0  // a product with its shape as constants takes as many packets
LOOKUP_PRODUCT(held_sums, panels)
#define word_panels_attribute
#define word_panels_gains(w, tokens) 0
LOOKUP_PRODUCT(held_words, word_panels)

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  (w->inputs > LARGEST_INPUTS ? lookup_plain.multiply[LOOKUP_INT8] : held_sums)(w, t, tokens, from, to, y);
}

static void multiply_wide(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  (w->inputs > LARGEST_INPUTS ? lookup_plain.multiply[LOOKUP_WORD] : held_words)(w, t, tokens, from, to, y);
}

static int32_t integers[32][LOOKUP_PANEL] __attribute__((aligned(128)));  // of 32 inputs
static float values[16][LOOKUP_PANEL] __attribute__((aligned(128)));          // of a block: by integer and output
static uint8_t bit_tables[4][128] __attribute__((aligned(128)));              // bit i of a pattern, times 2^p: table i of vector p

static void make_bit_tables(void) {
  for (int p = 0; p < 4; p++)
    for (int i = 0; i < 4; i++)  // table 0 and 1: low bytes of halfwords; 2 and 3: high bytes
      for (int u = 0; u < 32; u++) bit_tables[p][((i & 1) * 32 + u) * 2 + (i >> 1)] = lookup_bit[4 * p + i][u & 15];
}

// The first level of lookup: four integers of each four bits of a plane. Bytes are [32 outputs][4 groups], twice.
static inline void panel_integers(const uint8_t* at, int bits) {
  const HVX_Vector low = splat(15);
  for (int side = 0; side < 2; side++)
    for (int half = 0; half < 2; half++) {
      HVX_Vector u[4] = {Q6_V_vzero(), Q6_V_vzero(), Q6_V_vzero(), Q6_V_vzero()};
      for (int p = 0; p < bits; p++) {
        const HVX_Vector bytes = *(const HVX_UVector*)(at + p * 256 + side * 128), table = *(const HVX_Vector*)bit_tables[p];
        const HVX_Vector pattern = Q6_V_vand_VV(half ? Q6_Vuh_vlsr_VuhR(bytes, 4) : bytes, low);
        u[0] = Q6_V_vor_VV(u[0], Q6_Vb_vlut32_VbVbR(pattern, table, 0));
        u[1] = Q6_V_vor_VV(u[1], Q6_Vb_vlut32_VbVbR(Q6_V_vor_VV(pattern, splat(32)), table, 1));
        u[2] = Q6_V_vor_VV(u[2], Q6_Vb_vlut32_VbVbR(Q6_V_vor_VV(pattern, splat(64)), table, 2));
        u[3] = Q6_V_vor_VV(u[3], Q6_Vb_vlut32_VbVbR(Q6_V_vor_VV(pattern, splat(96)), table, 3));
      }
      for (int i = 0; i < 4; i++)
        for (int g = 0; g < 4; g++)
          *(HVX_Vector*)(integers[half * 16 + g * 4 + i] + side * 32) =
              Q6_V_vand_VV(Q6_Vuw_vlsr_VuwR(u[i], 8 * g), Q6_V_vsplat_R(15));
    }
}

// The second level: of 32 outputs the values that their integers number.
static inline HVX_Vector chosen(const int32_t* u, int side, int count) {
  const HVX_Vector number = *(const HVX_Vector*)u;
  HVX_Vector made = *(const HVX_Vector*)(values[0] + side * 32);
  for (int c = 1; c < count; c++)
    made = Q6_V_vmux_QVV(Q6_Q_vcmp_eq_VwVw(number, Q6_V_vsplat_R(c)), *(const HVX_Vector*)(values[c] + side * 32), made);
  return made;
}

static void dequantise(const LookupLinear* w, int64_t from, int64_t to, float* out) {
  const int64_t blocks = w->inputs / w->block;
  make_bit_tables();
  for (int64_t n = from; n < to; n++) {
    const uint8_t* at = w->planes + n * lookup_panel_bytes(w);
    const int64_t left = w->outputs - n * LOOKUP_PANEL;
    for (int64_t b = 0; b < blocks; b++) {
      for (int i = 0; i < LOOKUP_PANEL; i++) {
        const int64_t place = (n * blocks + b) * LOOKUP_PANEL + i;
        const float scale = lookup_half(w->scale[place]), zero = 0.5f * (w->zero_point ? w->zero_point[place] : w->zero);
        for (int u = 0; u < 1 << w->bits; u++) values[u][i] = ((float)u - zero) * scale;
      }
      for (int64_t e = b * w->block / 32; e < (b + 1) * w->block / 32; e++) {
        panel_integers(at + e * w->bits * 256, w->bits);
        for (int k = 0; k < 32; k++) {
          float* row = out + (e * 32 + k) * w->outputs + n * LOOKUP_PANEL;
          float held[LOOKUP_PANEL] __attribute__((aligned(128)));
          for (int side = 0; side < 2; side++) {
            HVX_Vector made = chosen(integers[k] + side * 32, side, 1 << w->bits);
            if (left >= LOOKUP_PANEL)
              *(HVX_UVector*)(row + side * 32) = made;
            else
              *(HVX_Vector*)(held + side * 32) = made;
          }
          for (int64_t i = 0; left < LOOKUP_PANEL && i < left; i++) row[i] = held[i];
        }
      }
    }
  }
}

static LookupKernels kernels;

const LookupKernels* lookup_hvx(void) {
  kernels = lookup_plain;  // its tables, and its product with tables of floats
  kernels.name = "hvx", kernels.multiply[LOOKUP_INT8] = multiply, kernels.multiply[LOOKUP_WORD] = multiply_wide;
  kernels.dequantise = dequantise;
  return &kernels;
}
#else
const LookupKernels* lookup_hvx(void) { return NULL; }
#endif
