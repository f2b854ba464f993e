// What the lookup kernels are counted against: the same product by unpacking integers and multiplying, as plainly as a careful
// programmer would write it. One token, K inputs, 64 outputs, blocks; integers around zero.
//
//     baselines K BITS BLOCK    ->    "K inputs, BITS bits: off by D in 10^9", exit code 1 if that is wrong
//
// AArch64 with dot products: weights [64][K] in 4 bits, low half of 16 bytes first. Hexagon: weights [K / per][64] of BITS bits.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUTS 64
#define LARGEST 8192

static int8_t x[LARGEST], u[LARGEST][OUTPUTS];
static uint8_t packed[LARGEST * OUTPUTS] __attribute__((aligned(128)));
static float scale[LARGEST / 32][OUTPUTS], y[OUTPUTS], expected[OUTPUTS];
static uint32_t state = 7;

static uint32_t random32(void) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

#if defined(__aarch64__)
#include <arm_neon.h>
static void pack(int k, int bits) {
  (void)bits;  // integers of fewer bits take four
  for (int n = 0; n < OUTPUTS; n++)
    for (int i = 0; i < k; i += 32)
      for (int j = 0; j < 16; j++)
        packed[(n * k + i) / 2 + j] = (uint8_t)((u[i + j][n] + 8) | (u[i + 16 + j][n] + 8) << 4);
}

__attribute__((noinline, target("arch=armv8.2-a+dotprod"))) void baseline(int k, int bits, int block) {
  (void)bits;
  const uint8x16_t low = vdupq_n_u8(15);
  float offset[LARGEST / 32];  // 8 times the sum of a block's inputs: what integers from 0 to 15 are too much
  for (int b = 0; b < k / block; b++) {
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = b * block; i < (b + 1) * block; i += 16) sum = vdotq_s32(sum, vld1q_s8(x + i), vdupq_n_s8(8));
    offset[b] = (float)vaddvq_s32(sum);
  }
  for (int n = 0; n < OUTPUTS; n += 4) {
    float sum[4] = {0, 0, 0, 0};
    for (int b = 0; b < k / block; b++) {
      int32x4_t part[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
      for (int i = b * block; i < (b + 1) * block; i += 32) {
        int8x16_t first = vld1q_s8(x + i), second = vld1q_s8(x + i + 16);
        for (int r = 0; r < 4; r++) {
          uint8x16_t bytes = vld1q_u8(packed + ((n + r) * k + i) / 2);
          part[r] = vdotq_s32(part[r], vreinterpretq_s8_u8(vandq_u8(bytes, low)), first);
          part[r] = vdotq_s32(part[r], vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), second);
        }
      }
      for (int r = 0; r < 4; r++) sum[r] += scale[b][n + r] * ((float)vaddvq_s32(part[r]) - offset[b]);
    }
    for (int r = 0; r < 4; r++) y[n + r] = sum[r];
  }
}
#elif defined(__HVX__)
#include <hexagon_types.h>
#include <hvx_hexagon_protos.h>
static int16_t whole[2][64] __attribute__((aligned(128)));

// A byte of output n and step s holds 8 / width inputs; two steps make a vector of 128 bytes.
static int width(int bits) { return bits > 2 ? 4 : bits; }

static void pack(int k, int bits) {
  int per = 8 / width(bits);
  memset(packed, 0, sizeof(packed));
  for (int i = 0; i < k; i++)
    for (int n = 0; n < OUTPUTS; n++)
      packed[i / (2 * per) * 128 + (i / per & 1) * 64 + n] |= (uint8_t)((u[i][n] + (1 << width(bits) >> 1)) << (i % per * width(bits)));
}

__attribute__((noinline)) void baseline(int k, int bits, int block) {
  const int each = width(bits), per = 8 / each, middle = 1 << each >> 1;
  const HVX_Vector mask = Q6_V_vsplat_R(((1 << each) - 1) * 0x01010101), zero = Q6_V_vsplat_R(middle * 0x01010101);
  const HVX_VectorPred first = Q6_Q_vsetq_R(64);
  for (int n = 0; n < OUTPUTS; n++) y[n] = 0;
  for (int b = 0; b < k / block; b++) {
    HVX_VectorPair sums = Q6_W_vcombine_VV(Q6_V_vzero(), Q6_V_vzero());
    for (int i = b * block; i < (b + 1) * block; i += 2 * per) {
      HVX_Vector bytes = *(const HVX_Vector*)(packed + i / (2 * per) * 128);
      for (int j = 0; j < per; j++) {
        HVX_Vector inputs = Q6_V_vmux_QVV(first, Q6_V_vsplat_R((uint8_t)x[i + j] * 0x01010101), Q6_V_vsplat_R((uint8_t)x[i + per + j] * 0x01010101));
        HVX_Vector part = Q6_V_vand_VV(Q6_Vuh_vlsr_VuhR(bytes, j * each), mask);
        sums = Q6_Wh_vmpyacc_WhVbVb(sums, Q6_Vb_vsub_VbVb(part, zero), inputs);
      }
    }
    *(HVX_Vector*)whole[0] = Q6_V_lo_W(sums);
    *(HVX_Vector*)whole[1] = Q6_V_hi_W(sums);
    for (int n = 0; n < OUTPUTS; n++)
      y[n] += scale[b][n] * (float)(whole[n & 1][n >> 1] + whole[n & 1][(n >> 1) + 32]);
  }
}
#else
static void pack(int k, int bits) { (void)k, (void)bits; }
void baseline(int k, int bits, int block) {
  (void)bits;
  for (int n = 0; n < OUTPUTS; n++) {
    y[n] = 0;
    for (int i = 0; i < k; i++) y[n] += scale[i / block][n] * (float)(u[i][n] * x[i]);
  }
}
#endif

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  int k = atoi(argv[1]), bits = atoi(argv[2]), block = atoi(argv[3]);
  if (k > LARGEST || k % block) return 2;
  for (int i = 0; i < k; i++) x[i] = (int8_t)(random32() % 25 - 12);  // small: 16 bits hold the sums of a block
  for (int b = 0; b < k / block; b++)
    for (int n = 0; n < OUTPUTS; n++) scale[b][n] = (float)(1 + random32() % 100) * 0.001f;
  for (int i = 0; i < k; i++)
    for (int n = 0; n < OUTPUTS; n++) {
      u[i][n] = (int8_t)((int)(random32() % (1u << bits)) - (1 << bits >> 1));
      expected[n] += scale[i / block][n] * (float)(u[i][n] * x[i]);
    }
  pack(k, bits);
  baseline(k, bits, block);
  float worst = 0, largest = 1e-9f;
  for (int n = 0; n < OUTPUTS; n++) {
    float apart = __builtin_fabsf(y[n] - expected[n]);
    if (!(apart <= worst)) worst = apart;
    if (__builtin_fabsf(expected[n]) > largest) largest = __builtin_fabsf(expected[n]);
  }
  printf("%d inputs, %d bits: off by %d in 10^9\n", k, bits, (int)(worst / largest * 1e9f));
  return !(worst / largest < 1e-4f);
}
