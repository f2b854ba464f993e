/* Weights in blocks that share a scale, rounded to integers. compiler/kernels/rounding.py has the same in numpy, to the
   last bit: division and not multiplication by the inverse, ties to even, no contraction to fused operations.

   Rows that hold NaN are refused by who calls; what is made of them here has no meaning. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Added and taken away again, it leaves a float below 2^22 at the nearest integer, ties to even. */
static const float TO_INTEGER = 12582912.0f; /* 1.5 * 2^23 */

/* largest[b] = max |w| of block b: without their signs floats are in the order of their bits */
FOR_EACH_PROCESSOR void edgec_largest(const float *w, uint64_t blocks, uint64_t size, float *largest) {
    for (uint64_t b = 0; b < blocks; b++, w += size) {
        uint32_t most = 0;
        for (uint64_t i = 0; i < size; i++) {
            uint32_t bits;
            memcpy(&bits, w + i, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        memcpy(largest + b, &most, 4);
    }
}

/* low[b] = min w, high[b] = max w of block b */
FOR_EACH_PROCESSOR void edgec_ranges(const float *w, uint64_t blocks, uint64_t size, float *low, float *high) {
    for (uint64_t b = 0; b < blocks; b++, w += size) {
        float least = w[0], most = w[0];
        for (uint64_t i = 1; i < size; i++) {
            least = w[i] < least ? w[i] : least;
            most = w[i] > most ? w[i] : most;
        }
        low[b] = least, high[b] = most;
    }
}

/* q = clip(round(w / scale) + zero, least, most), zero an integer for each block (NULL: none); q takes a byte, with or
   without a sign */
FOR_EACH_PROCESSOR void edgec_round(const float *w, const float *scale, const float *zero, uint64_t blocks, uint64_t size,
                                    float least, float most, uint8_t *q) {
    for (uint64_t b = 0; b < blocks; b++, w += size, q += size) {
        float s = scale[b], z = zero ? zero[b] : 0.0f, low = least - z, high = most - z;
        for (uint64_t i = 0; i < size; i++) {
            float x = w[i] / s;
            x = x < low ? low : x; /* integers, as is what is added: the order of clipping and rounding is no matter */
            x = x > high ? high : x;
            q[i] = (uint8_t)(int32_t)(x + TO_INTEGER - TO_INTEGER + z);
        }
    }
}
