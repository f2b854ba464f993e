// The lookup product for AArch64. With dot products: TBL over the tables of four groups, SDOT sums them (64 bytes of
// tables, four instructions a tile). Without: groups are taken apart by LD4 and one TBL serves 16 outputs of one group.
#include "lookup.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__linux__)
#include <sys/auxv.h>
#define HAS_DOT_PRODUCT (1ul << 20)  // HWCAP_ASIMDDP
#endif

#define INLINE static inline __attribute__((always_inline))

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

INLINE void plain_tile(const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y,
                       const int bits) {
  const int64_t blocks = w->inputs / w->block;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w) + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + (token * w->inputs + b * w->block) * 4;
    int16x8_t part[4][2];  // of each plane: 32 lookups of 127 at most
    for (int p = 0; p < bits; p++) part[p][0] = part[p][1] = vdupq_n_s16(0);
    for (int e = 0; e < w->block / 32; e++, table += 128)
      for (int p = 0; p < bits; p++, at += 256) {
        uint8x16x4_t bytes = vld4q_u8(at);
        for (int g = 0; g < 4; g++) {
          int8x16_t a = vqtbl1q_s8(vld1q_s8(table + g * 16), vandq_u8(bytes.val[g], vdupq_n_u8(15)));
          int8x16_t c = vqtbl1q_s8(vld1q_s8(table + 64 + g * 16), vshrq_n_u8(bytes.val[g], 4));
          part[p][0] = vaddq_s16(part[p][0], vaddl_s8(vget_low_s8(a), vget_low_s8(c)));
          part[p][1] = vaddq_s16(part[p][1], vaddl_high_s8(a, c));
        }
      }
    int32x4_t whole[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int p = 0; p < bits; p++)
      for (int h = 0; h < 2; h++) {
        whole[h * 2] = vmlal_n_s16(whole[h * 2], vget_low_s16(part[p][h]), (int16_t)(1 << p));
        whole[h * 2 + 1] = vmlal_high_n_s16(whole[h * 2 + 1], part[p][h], (int16_t)(1 << p));
      }
    int64_t block = token * blocks + b;
    add_block(w, (number * blocks + b) * LOOKUP_PANEL + tile * 16, whole, 0.5f * t->step[block], middle, t->total[block], sum);
  }
  store(w, number * LOOKUP_PANEL + tile * 16, y + token * w->outputs, sum);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) static inline void dot_tile(
    const LookupLinear* w, const LookupTables* t, int64_t token, int64_t number, int tile, float* y, const int bits) {
  const int64_t blocks = w->inputs / w->block;
  const uint8_t* at = w->planes + number * lookup_panel_bytes(w) + tile * 64;
  const float middle = ((1 << bits) - 1) / 2.0f;
  const uint8x16_t group = vreinterpretq_u8_u32(vdupq_n_u32(0x30201000)), low = vdupq_n_u8(15);
  float32x4_t sum[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  for (int64_t b = 0; b < blocks; b++) {
    const int8_t* table = t->sums + (token * w->inputs + b * w->block) * 4;
    int32x4_t whole[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int e = 0; e < w->block / 32; e++, table += 128) {
      int8x16x4_t first = vld1q_s8_x4(table), second = vld1q_s8_x4(table + 64);
      for (int p = 0; p < bits; p++, at += 256) {
        const int8x16_t weight = vdupq_n_s8((int8_t)(1 << p));
        for (int q = 0; q < 4; q++) {
          uint8x16_t bytes = vld1q_u8(at + q * 16);
          int8x16_t a = vqtbl4q_s8(first, vorrq_u8(vandq_u8(bytes, low), group));
          int8x16_t c = vqtbl4q_s8(second, vorrq_u8(vshrq_n_u8(bytes, 4), group));
          whole[q] = vdotq_s32(vdotq_s32(whole[q], a, weight), c, weight);
        }
      }
    }
    int64_t block = token * blocks + b;
    add_block(w, (number * blocks + b) * LOOKUP_PANEL + tile * 16, whole, 0.5f * t->step[block], middle, t->total[block], sum);
  }
  store(w, number * LOOKUP_PANEL + tile * 16, y + token * w->outputs, sum);
}

#define OVER_BITS(tile)                                                                                               \
  for (int64_t n = from; n < to; n++)                                                                                 \
    for (int64_t m = 0; m < tokens; m++)                                                                              \
      for (int i = 0; i < 4; i++) switch (w->bits) {                                                                  \
          case 1: tile(w, t, m, n, i, y, 1); break;                                                                   \
          case 2: tile(w, t, m, n, i, y, 2); break;                                                                   \
          case 3: tile(w, t, m, n, i, y, 3); break;                                                                   \
          default: tile(w, t, m, n, i, y, 4);                                                                         \
        }

static void multiply(const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  OVER_BITS(plain_tile)
}

__attribute__((target("arch=armv8.2-a+dotprod"))) static void multiply_dot(
    const LookupLinear* w, const LookupTables* t, int64_t tokens, int64_t from, int64_t to, float* y) {
  OVER_BITS(dot_tile)
}

static LookupKernels kernels, dot_kernels;

const LookupKernels* lookup_neon(void) {
  kernels = lookup_plain;  // its tables, and its exact product
  kernels.name = "neon", kernels.multiply = multiply;
  return &kernels;
}

const LookupKernels* lookup_neon_dot(void) {
#if defined(__linux__)
  if (!(getauxval(AT_HWCAP) & HAS_DOT_PRODUCT)) return NULL;
#elif !defined(__APPLE__)
  return NULL;
#endif
  dot_kernels = lookup_plain;
  dot_kernels.name = "neon_dot", dot_kernels.multiply = multiply_dot;
  return &dot_kernels;
}
#else
const LookupKernels* lookup_neon(void) { return NULL; }
const LookupKernels* lookup_neon_dot(void) { return NULL; }
#endif
