// The lookup product for AArch64. With dot products: TBL over the tables of four groups, SDOT sums them (64 bytes of
// tables, four instructions a tile). Without: groups are taken apart by LD4 and one TBL serves 16 outputs of one group.
#include "words.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__linux__)
#include <sys/auxv.h>
#define HAS_DOT_PRODUCT (1ul << 20)  // HWCAP_ASIMDDP
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

INLINE void store(const LookupLinear* w, int64_t n, float* y, const float32x4_t value[4]) {
  float found[16];
  for (int q = 0; q < 4; q++) vst1q_f32(found + q * 4, value[q]);
  for (int i = 0; i < 16 && n + i < w->outputs; i++) y[n + i] = found[i];
}

// sum += scale * (whole * half + (middle - zero) * total) for sixteen outputs of one block
INLINE void add_block(const LookupLinear* w, int64_t place, const int32x4_t whole[4], float half, float middle,
                      float total, float32x4_t sum[4]) {
  for (int q = 0; q < 4; q++) {
    float32x4_t offset = vdupq_n_f32((middle - 0.5f * w->zero) * total);
    if (w->zero_point) {
      uint16x4_t zero = {0};
      for (int i = 0; i < 4; i++) zero[i] = w->zero_point[place + q * 4 + i];
      float32x4_t apart = vfmsq_n_f32(vdupq_n_f32(middle), vcvtq_f32_u32(vmovl_u16(zero)), 0.5f);
      offset = vmulq_n_f32(apart, total);
    }
    float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(w->scale + place + q * 4)));
    sum[q] = vfmaq_f32(sum[q], scale, vfmaq_n_f32(offset, vcvtq_f32_s32(whole[q]), half));
  }
}

// One tile of a panel for M tokens from `token` on, `units` times 32 inputs a block: bytes are put in order once for all tokens.
INLINE void plain_tile(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                       const int bits, const int M, const int units, const int64_t inputs) {
  const int64_t blocks = inputs / (32 * units), stride = inputs * 4;
  const uint8_t* at = w->planes + number * inputs * 8 * bits + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  float32x4_t sum[2][4];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int q = 0; q < 4; q++) sum[m][q] = vdupq_n_f32(0);
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + token * stride + b * units * 128;
    int16x8_t part[2][4][2];  // of each plane: 32 lookups of 128 at most
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int p = 0; p < bits; p++)
      part[m][p][0] = part[m][p][1] = vdupq_n_s16(0);
    for (int e = 0; e < units; e++, table += 128)
      UNROLL for (int p = 0; p < bits; p++, at += 256) {
        const uint8x16x4_t bytes = vld4q_u8(at);
        UNROLL for (int g = 0; g < 4; g++) {
          const uint8x16_t first = vandq_u8(bytes.val[g], vdupq_n_u8(15)), second = vshrq_n_u8(bytes.val[g], 4);
          UNROLL for (int m = 0; m < M; m++) {
            int8x16_t a = vqtbl1q_s8(vld1q_s8(table + m * stride + g * 16), first);
            int8x16_t c = vqtbl1q_s8(vld1q_s8(table + m * stride + 64 + g * 16), second);
            part[m][p][0] = vaddq_s16(part[m][p][0], vaddl_s8(vget_low_s8(a), vget_low_s8(c)));
            part[m][p][1] = vaddq_s16(part[m][p][1], vaddl_high_s8(a, c));
          }
        }
      }
    UNROLL for (int m = 0; m < M; m++) {
      int32x4_t whole[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
      UNROLL for (int p = 0; p < bits; p++) UNROLL for (int h = 0; h < 2; h++) {
        whole[h * 2] = vmlal_n_s16(whole[h * 2], vget_low_s16(part[m][p][h]), (int16_t)(1 << p));
        whole[h * 2 + 1] = vmlal_high_n_s16(whole[h * 2 + 1], part[m][p][h], (int16_t)(1 << p));
      }
      const int64_t block = (token + m) * blocks + b, place = (number * blocks + b) * LOOKUP_PANEL + tile * 16;
      add_block(w, place, whole, 0.5f * t->step[block], middle, t->total[block], sum[m]);
    }
  }
  UNROLL for (int m = 0; m < M; m++) store(w, number * LOOKUP_PANEL + tile * 16, y + (token + m) * w->outputs, sum[m]);
}

#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))

DOT INLINE void dot_tile(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                         const int bits, const int M, const int units, const int64_t inputs) {
  const int64_t blocks = inputs / (32 * units), stride = inputs * 4;
  const uint8_t* at = w->planes + number * inputs * 8 * bits + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  const uint8x16_t group = vreinterpretq_u8_u32(vdupq_n_u32(0x30201000)), low = vdupq_n_u8(15);
  float32x4_t sum[2][4];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int q = 0; q < 4; q++) sum[m][q] = vdupq_n_f32(0);
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + token * stride + b * units * 128;
    int32x4_t whole[2][4];
    UNROLL for (int m = 0; m < M; m++) UNROLL for (int q = 0; q < 4; q++) whole[m][q] = vdupq_n_s32(0);
    for (int e = 0; e < units; e++, table += 128) {
      int8x16x4_t first[2], second[2];
      UNROLL for (int m = 0; m < M; m++)
        first[m] = vld1q_s8_x4(table + m * stride), second[m] = vld1q_s8_x4(table + m * stride + 64);
      UNROLL for (int p = 0; p < bits; p++, at += 256) {
        const int8x16_t weight = vdupq_n_s8((int8_t)(1 << p));
        UNROLL for (int q = 0; q < 4; q++) {
          const uint8x16_t bytes = vld1q_u8(at + q * 16);
          const uint8x16_t even = vorrq_u8(vandq_u8(bytes, low), group), odd = vorrq_u8(vshrq_n_u8(bytes, 4), group);
          UNROLL for (int m = 0; m < M; m++) {
            whole[m][q] = vdotq_s32(whole[m][q], vqtbl4q_s8(first[m], even), weight);
            whole[m][q] = vdotq_s32(whole[m][q], vqtbl4q_s8(second[m], odd), weight);
          }
        }
      }
    }
    UNROLL for (int m = 0; m < M; m++) {
      const int64_t block = (token + m) * blocks + b, place = (number * blocks + b) * LOOKUP_PANEL + tile * 16;
      add_block(w, place, whole[m], 0.5f * t->step[block], middle, t->total[block], sum[m]);
    }
  }
  UNROLL for (int m = 0; m < M; m++) store(w, number * LOOKUP_PANEL + tile * 16, y + (token + m) * w->outputs, sum[m]);
}

// All four tiles of each panel, two tokens at a time.
#define OVER_TILES(tile)                                                          \
  for (int64_t n = from; n < to; n++) {                                           \
    int64_t m = 0;                                                                \
    for (; m + 2 <= tokens; m += 2)                                               \
      for (int i = 0; i < 4; i++) tile(w, t, m, n, i, y, bits, 2, units, inputs); \
    for (; m < tokens; m++)                                                       \
      for (int i = 0; i < 4; i++) tile(w, t, m, n, i, y, bits, 1, units, inputs); \
  }

INLINE void panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                   const int bits, const int units, const int64_t inputs) {
  OVER_TILES(plain_tile)
}

DOT INLINE void dot_panels(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y,
                           const int bits, const int units, const int64_t inputs) {
  OVER_TILES(dot_tile)
}

#define panels_attribute
#define panels_gains(w, tokens) ((tokens) == 1)  // two tokens take as many instructions or more
LOOKUP_PRODUCT(multiply, panels)
LOOKUP_WORDS(multiply_wide, multiply)

#define dot_panels_attribute DOT
#define dot_panels_gains(w, tokens) ((tokens) == 1 && (w)->block < 128)
LOOKUP_PRODUCT(multiply_dot, dot_panels)
LOOKUP_WORDS(multiply_dot_wide, multiply_dot)

// Sums of each pattern, four to a vector: the first two inputs' signs change within one, the others' from one to the next.
INLINE void sixteen_sums(const float* four, float32x4_t out[4]) {
  const float32x4_t first = {-four[0], four[0], -four[0], four[0]}, second = {-four[1], -four[1], four[1], four[1]};
  const float32x4_t both = vaddq_f32(first, second);
  for (int q = 0; q < 4; q++) {
    float32x4_t three = vaddq_f32(both, vdupq_n_f32(q & 1 ? four[2] : -four[2]));
    out[q] = vaddq_f32(three, vdupq_n_f32(q & 2 ? four[3] : -four[3]));
  }
}

// The largest sum of four magnitudes, and the sum of all.
INLINE float largest_of_block(const float* in, int block, float* sum) {
  float32x4_t total = vdupq_n_f32(0), largest = vdupq_n_f32(0);
  for (int k = 0; k < block; k += 16) {
    float32x4x4_t v = vld4q_f32(in + k);
    float32x4_t fours = vaddq_f32(vaddq_f32(v.val[0], v.val[1]), vaddq_f32(v.val[2], v.val[3]));
    float32x4_t sizes = vaddq_f32(vaddq_f32(vabsq_f32(v.val[0]), vabsq_f32(v.val[1])),
                                  vaddq_f32(vabsq_f32(v.val[2]), vabsq_f32(v.val[3])));
    total = vaddq_f32(total, fours), largest = vmaxnmq_f32(largest, sizes);
  }
  *sum = vaddvq_f32(total);
  return vmaxvq_f32(largest);
}

static void tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    const float largest = largest_of_block(in, w->block, &t->total[b]);
    t->step[b] = largest / 127.0f;
    const float inverse = largest > 0 ? 127.0f / largest : 0;
    for (int k = 0; k < w->block; k += 4) {
      float32x4_t sums[4];
      int32x4_t whole[4];
      sixteen_sums(in + k, sums);
      for (int q = 0; q < 4; q++) whole[q] = vcvtnq_s32_f32(vmulq_n_f32(sums[q], inverse));
      int16x8_t a = vcombine_s16(vqmovn_s32(whole[0]), vqmovn_s32(whole[1]));
      int16x8_t c = vcombine_s16(vqmovn_s32(whole[2]), vqmovn_s32(whole[3]));
      vst1q_s8(t->sums + (b * w->block + k) * 4, vcombine_s8(vqmovn_s16(a), vqmovn_s16(c)));
    }
  }
}

static void exact_tables(const LookupLinear* w, const float* x, int64_t tokens, LookupTables* t) {
  for (int64_t b = 0; b < tokens * w->inputs / w->block; b++) {
    const float* in = x + b * w->block;
    largest_of_block(in, w->block, &t->total[b]);
    t->step[b] = 1;
    for (int k = 0; k < w->block; k += 4) {
      float32x4_t sums[4];
      sixteen_sums(in + k, sums);
      for (int q = 0; q < 4; q++) vst1q_f32(t->exact + (b * w->block + k) * 4 + q * 4, sums[q]);
    }
  }
}

// sum += scale * (value * step + (middle - zero) * total) for sixteen outputs of one block
INLINE void add_wide_block(const LookupLinear* w, int64_t place, const float32x4_t value[4], float step, float middle,
                           float total, float32x4_t sum[4]) {
  const int32x4_t none[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  add_block(w, place, none, 0, middle, total, sum);
  for (int q = 0; q < 4; q++) {
    float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(w->scale + place + q * 4)));
    sum[q] = vfmaq_f32(sum[q], scale, vmulq_n_f32(value[q], step));
  }
}

// Tables of floats: TBL over the 64 bytes of one group's sums, four outputs an instruction.
INLINE void exact_tile(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y) {
  const int64_t blocks = w->inputs / w->block;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w) + tile * 64;
  const float middle = ((1 << w->bits) - 1) / 2.0f;
  const uint8_t* table = (const uint8_t*)(t->exact + token * w->inputs * 4);
  const uint32x4_t bytes_of = vdupq_n_u32(0x03020100), low = vdupq_n_u32(15);
  float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  for (int64_t b = 0; b < blocks; b++) {
    float32x4_t value[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int e = 0; e < w->block / 32; e++, table += 512, at += 256 * w->bits)
      for (int g = 0; g < 8; g++) {
        const uint8x16x4_t entries = vld1q_u8_x4(table + g * 64);
        const int32x4_t shift = vdupq_n_s32(-(g < 4 ? 8 * g : 8 * (g - 4) + 4));
        for (int p = 0; p < w->bits; p++)
          for (int q = 0; q < 4; q++) {
            uint32x4_t pattern = vandq_u32(vshlq_u32(vreinterpretq_u32_u8(vld1q_u8(at + p * 256 + q * 16)), shift), low);
            uint8x16_t places = vreinterpretq_u8_u32(vmlaq_n_u32(bytes_of, pattern, 0x04040404));
            float32x4_t found = vreinterpretq_f32_u8(vqtbl4q_u8(entries, places));
            value[q] = vfmaq_n_f32(value[q], found, 0.5f * (float)(1 << p));
          }
      }
    int64_t block = token * blocks + b;
    add_wide_block(w, (number * blocks + b) * LOOKUP_PANEL + tile * 16, value, t->step[block], middle, t->total[block], sum);
  }
  store(w, number * LOOKUP_PANEL + tile * 16, y + token * w->outputs, sum);
}

static void multiply_exact(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  for (int64_t n = from; n < to; n++)
    for (int64_t m = 0; m < tokens; m++)
      for (int i = 0; i < 4; i++) exact_tile(w, t, m, n, i, y);
}

// Sixteen outputs of 32 inputs: w[k * stride + n]. The first level of lookup (TBL) makes four integers of each four bits of a
// plane; the second is one multiply-add, exact: an integer of four bits times a scale of eleven.
INLINE void dequantise_tile(const uint8_t* at, const float32x4_t scale[4], const float32x4_t shift[4], int64_t stride,
                            float* out, const int bits) {
  uint8x16x4_t bytes[4];
  for (int p = 0; p < bits; p++) bytes[p] = vld4q_u8(at + p * 256);
  UNROLL for (int g = 0; g < 8; g++) {
    uint8x16_t u[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    UNROLL for (int p = bits - 1; p >= 0; p--) {
      const uint8x16_t held = bytes[p].val[g & 3];
      const uint8x16_t patterns = g < 4 ? vandq_u8(held, vdupq_n_u8(15)) : vshrq_n_u8(held, 4);
      UNROLL for (int i = 0; i < 4; i++)
        u[i] = vsliq_n_u8(vqtbl1q_u8(vld1q_u8(lookup_bit[i]), patterns), u[i], 1);
    }
    UNROLL for (int i = 0; i < 4; i++, out += stride) {
      const uint16x8_t wide[2] = {vmovl_u8(vget_low_u8(u[i])), vmovl_high_u8(u[i])};
      UNROLL for (int q = 0; q < 4; q++) {
        const uint32x4_t whole = q & 1 ? vmovl_high_u16(wide[q >> 1]) : vmovl_u16(vget_low_u16(wide[q >> 1]));
        vst1q_f32(out + q * 4, vfmaq_f32(shift[q], vcvtq_f32_u32(whole), scale[q]));
      }
    }
  }
}

INLINE void dequantise_panels(const LookupLinear* w, int64_t from, int64_t to, float* out, const int bits) {
  const int64_t blocks = w->inputs / w->block;
  for (int64_t n = from; n < to; n++)
    for (int64_t b = 0; b < blocks; b++)
      for (int i = 0; i < 4 && n * LOOKUP_PANEL + i * 16 < w->outputs; i++) {
        const int64_t place = (n * blocks + b) * LOOKUP_PANEL + i * 16, first = n * LOOKUP_PANEL + i * 16;
        float32x4_t scale[4], shift[4];
        for (int q = 0; q < 4; q++) {
          float zero[4];
          for (int l = 0; l < 4; l++) zero[l] = -0.5f * (w->zero_point ? w->zero_point[place + q * 4 + l] : w->zero);
          scale[q] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(w->scale + place + q * 4)));
          shift[q] = vmulq_f32(scale[q], vld1q_f32(zero));
        }
        for (int64_t e = b * w->block / 32; e < (b + 1) * w->block / 32; e++) {
          const uint8_t* at = w->planes + n * lookup_panel_bytes(w) + e * bits * 256 + i * 64;
          float held[32 * 16], *to = out + e * 32 * w->outputs + first;
          if (first + 16 <= w->outputs) {
            dequantise_tile(at, scale, shift, w->outputs, to, bits);
            continue;
          }
          dequantise_tile(at, scale, shift, 16, held, bits);
          for (int k = 0; k < 32; k++)
            for (int64_t l = 0; first + l < w->outputs; l++) to[k * w->outputs + l] = held[k * 16 + l];
        }
      }
}

static void dequantise(const LookupLinear* w, int64_t from, int64_t to, float* out) {
  switch (w->bits) {
    case 1: dequantise_panels(w, from, to, out, 1); break;
    case 2: dequantise_panels(w, from, to, out, 2); break;
    case 3: dequantise_panels(w, from, to, out, 3); break;
    default: dequantise_panels(w, from, to, out, 4);
  }
}

static const LookupKernels kernels = {
    "neon", {tables, word_tables, exact_tables}, {multiply, multiply_wide, multiply_exact}, dequantise};
static const LookupKernels dot_kernels = {
    "neon_dot", {tables, word_tables, exact_tables}, {multiply_dot, multiply_dot_wide, multiply_exact}, dequantise};

const LookupKernels* lookup_neon(void) { return &kernels; }

const LookupKernels* lookup_neon_dot(void) {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HAS_DOT_PRODUCT ? &dot_kernels : NULL;
#elif defined(__APPLE__)
  return &dot_kernels;
#else
  return NULL;
#endif
}
#else
const LookupKernels* lookup_neon(void) { return NULL; }
const LookupKernels* lookup_neon_dot(void) { return NULL; }
#endif
