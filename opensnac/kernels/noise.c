/* Gaussian noise by position: what noise.py describes, sixteen positions at once. */
#include "vector.h"

typedef uint32_t bits __attribute__((vector_size(4 * LANES)));

static inline bits mix(bits x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* Logarithm of whole numbers from 1 to 2^24, less that of 2^24 (the polynomial is Cephes'). */
static inline vec log_of_share(vec x) {
    bits b;
    memcpy(&b, &x, sizeof b);
    bits fraction = (b & 0x7fffffu) | 0x3f800000u, above = (bits)(fraction > 0x3fb504f3u) & 1; /* sqrt 2 */
    fraction -= above << 23;
    vec e = __builtin_convertvector((b >> 23) + above, vec) - 127.0f - 24.0f, f, p;
    memcpy(&f, &fraction, sizeof f);
    f = f - 1.0f;
    p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * f * f - e * 2.12194440e-4f - 0.5f * f * f;
    return e * 0.693359375f + (p + f);
}

/* N(0, 1) values at `count` positions from `start` on, those before 0 as at 0. */
void noise(idx key, idx start, float *y, idx count) {
    const float share = 1.0f / (1 << 24);
    vec term[TERMS];
    squared_sine_terms((vec){0} + 1.0f, term, 0);
    for (idx i = 0; i < count; i += LANES) {
        bits low, high;
        for (int lane = 0; lane < LANES; lane++) {
            idx position = start + i + lane < 0 ? 0 : start + i + lane;
            low[lane] = (uint32_t)position, high[lane] = (uint32_t)(position >> 32);
        }
        bits first = mix(mix(low) ^ high ^ (uint32_t)key), second = mix(first ^ 0x9e3779b9u);
        vec radius = log_of_share(__builtin_convertvector(first >> 8, vec) + 1.0f) * -2.0f;
        for (int lane = 0; lane < LANES; lane++) radius[lane] = __builtin_sqrtf(radius[lane]);
        vec turn = __builtin_convertvector(second >> 8, vec) * share;
        vec value = radius * (1.0f - 2.0f * squared_sine(turn - whole(turn), term, 0)); /* cos 2u = 1 - 2 sin^2 u */
        memcpy(y + i, &value, min_(LANES, count - i) * sizeof *y);
    }
}
