// The lookup product for Hexagon's vector unit (HVX, 128 bytes, v66 and later): VLUT32 looks up 128 bytes, each in a table
// of 32, which is those of two groups; VMPY of bytes adds them up, times the weight of the plane, in 16 bits.
//
// It runs in an emulator of the instruction set. To run on a phone it has to be called from there: as an op package of
// QNN or through FastRPC, both of which need Qualcomm's Hexagon SDK.
#include "lookup.h"

#if defined(__hexagon__) && defined(__HVX__)
#include <hexagon_types.h>
#include <hvx_hexagon_protos.h>

#define GROUPS_OF_A_TABLE 8  // 32 inputs: 128 sums, a vector
#define LARGEST_INPUTS 32768

static int8_t arranged[LARGEST_INPUTS * 4] __attribute__((aligned(128)));
static int32_t whole[4][32] __attribute__((aligned(128)));  // of output 4 j + q: whole[q][j]
static float scales[LOOKUP_PANEL] __attribute__((aligned(128)));
static float sum[LOOKUP_PANEL];

// Sums of one token, 128 bytes for every 32 inputs, as VLUT32 reads them: of halfword h the low byte is entry h of the tables
// of groups 0, 2, 4, 6, the high byte that of groups 1, 3, 5, 7.
static void arrange(const int8_t* sums, int64_t inputs) {
  for (int64_t e = 0; e < inputs / 32; e++)
    for (int g = 0; g < GROUPS_OF_A_TABLE; g++)
      for (int i = 0; i < 16; i++) arranged[e * 128 + ((g >> 1) * 16 + i) * 2 + (g & 1)] = sums[(e * 8 + g) * 16 + i];
}

static inline HVX_Vector splat(int byte) { return Q6_V_vsplat_R(byte * 0x01010101); }

// The lookups of one block for the 64 outputs of a panel, in `whole`.
static inline const uint8_t* block_sums(const uint8_t* at, const int8_t* table, int extents, int bits, HVX_Vector upper) {
  const HVX_Vector low = splat(15);
  const HVX_Vector place[4] = {upper, Q6_V_vor_VV(upper, splat(32)), Q6_V_vor_VV(upper, splat(64)), Q6_V_vor_VV(upper, splat(96))};
  HVX_VectorPair sums = Q6_W_vcombine_VV(Q6_V_vzero(), Q6_V_vzero());
  for (int e = 0; e < extents; e++, table += 128) {
    const HVX_Vector entries = *(const HVX_Vector*)table;
    for (int p = 0; p < bits; p++, at += 256) {
      const HVX_Vector weight = splat(1 << p);
      const HVX_UVector* bytes = (const HVX_UVector*)at;
      HVX_VectorPair apart = Q6_W_vdeal_VVR(bytes[1], bytes[0], -1);  // groups 0 2 and 1 3
      HVX_Vector even = Q6_Vb_vdeal_Vb(Q6_V_lo_W(apart)), odd = Q6_Vb_vdeal_Vb(Q6_V_hi_W(apart));
      HVX_Vector a = Q6_V_vor_VV(Q6_V_vand_VV(even, low), place[0]), c = Q6_V_vor_VV(Q6_V_vand_VV(odd, low), place[2]);
      even = Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(even, 4), low), odd = Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(odd, 4), low);
      sums = Q6_Wh_vmpyacc_WhVbVb(sums, Q6_Vb_vlut32_VbVbR(a, entries, 0), weight);
      sums = Q6_Wh_vmpyacc_WhVbVb(sums, Q6_Vb_vlut32_VbVbR(Q6_V_vor_VV(even, place[1]), entries, 1), weight);
      sums = Q6_Wh_vmpyacc_WhVbVb(sums, Q6_Vb_vlut32_VbVbR(c, entries, 2), weight);
      sums = Q6_Wh_vmpyacc_WhVbVb(sums, Q6_Vb_vlut32_VbVbR(Q6_V_vor_VV(odd, place[3]), entries, 3), weight);
    }
  }
  for (int odd = 0; odd < 2; odd++) {  // 16 bits of each half hold 16 lookups of 127 times 15 at most: 30,480
    HVX_Vector part = odd ? Q6_V_hi_W(sums) : Q6_V_lo_W(sums);
    HVX_VectorPair both = Q6_Ww_vadd_VhVh(part, Q6_V_vror_VR(part, 64));
    *(HVX_Vector*)whole[odd] = Q6_V_lo_W(both);
    *(HVX_Vector*)whole[odd + 2] = Q6_V_hi_W(both);
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

// `plainly`: scales are converted one by one. Returns 0 if they have to be.
static int panel(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, float* y, HVX_Vector upper,
                 int plainly) {
  const int64_t blocks = w->inputs / w->block;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w);
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  HVX_Vector odd = Q6_V_vzero();
  for (int n = 0; n < LOOKUP_PANEL; n++) sum[n] = 0;
  for (int64_t b = 0; b < blocks; b++) {
    at = block_sums(at, arranged + b * w->block * 4, w->block / 32, w->bits, upper);
    const float half = 0.5f * t->step[token * blocks + b], total = t->total[token * blocks + b];
    const uint16_t* held = w->scale + (number * blocks + b) * LOOKUP_PANEL;
    if (plainly)
      for (int n = 0; n < LOOKUP_PANEL; n++) scales[n] = lookup_half(held[n]);
    else
      odd = Q6_V_vor_VV(odd, convert(held));
    if (w->zero_point) {
      const uint8_t* zero = w->zero_point + (number * blocks + b) * LOOKUP_PANEL;
      for (int n = 0; n < LOOKUP_PANEL; n++)
        sum[n] += scales[n] * ((float)whole[n & 3][n >> 2] * half + (middle - 0.5f * zero[n]) * total);
    } else {
      const float offset = (middle - 0.5f * w->zero) * total;
      for (int q = 0; q < 4; q++)
        for (int j = 0; j < 16; j++) sum[4 * j + q] += scales[4 * j + q] * ((float)whole[q][j] * half + offset);
    }
  }
  if (any(odd)) return 0;
  for (int64_t n = 0; n < LOOKUP_PANEL && number * LOOKUP_PANEL + n < w->outputs; n++)
    y[token * w->outputs + number * LOOKUP_PANEL + n] = sum[n];
  return 1;
}

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  if (w->inputs > LARGEST_INPUTS) {
    lookup_plain.multiply[LOOKUP_INT8](w, t, tokens, from, to, y);
    return;
  }
  // 16 in the upper half: the second of the two groups in a table
  HVX_Vector upper = Q6_V_vmux_QVV(Q6_Q_vsetq_R(64), Q6_V_vzero(), splat(16));
  for (int64_t m = 0; m < tokens; m++) {
    arrange(t->sums + m * w->inputs * 4, w->inputs);
    for (int64_t n = from; n < to; n++)
      if (!panel(w, t, m, n, y, upper, 0)) panel(w, t, m, n, y, upper, 1);
  }
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
  kernels = lookup_plain;  // its tables, and its products with tables of floats
  kernels.name = "hvx", kernels.multiply[LOOKUP_INT8] = multiply, kernels.dequantise = dequantise;
  return &kernels;
}
#else
const LookupKernels* lookup_hvx(void) { return NULL; }
#endif
