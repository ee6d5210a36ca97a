/* Gaussian noise by position, as in model/noise.py, one register of positions at a time. */
#include "vector.h"

#define STEPS 4096 /* per job */

typedef uint32_t bits __attribute__((vector_size(4 * LANES)));

static inline bits mix(bits x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static const float LOGARITHM[] = {3.3333331174e-1f,  -2.4999993993e-1f, 2.0000714765e-1f, -1.6668057665e-1f, 1.4249322787e-1f,
                                  -1.2420140846e-1f, 1.1676998740e-1f,  -1.1514610310e-1f, 7.0376836292e-2f};

/* log(x / 2^24) for integers x from 1 to 2^24 (the polynomial is Cephes'). */
static inline vec log_of_share(vec x) {
    bits b;
    memcpy(&b, &x, sizeof b);
    bits fraction = (b & 0x7fffffu) | 0x3f800000u, above = (bits)(fraction > 0x3fb504f3u) & 1; /* sqrt 2 */
    fraction -= above << 23;
    vec e = __builtin_convertvector((b >> 23) + above, vec) - splat(127.0f + 24.0f), f;
    memcpy(&f, &fraction, sizeof f);
    f = f - splat(1.0f);
    vec p = polynomial(f, LOGARITHM, 9) * f * (f * f);
    p = muladd(e, splat(-2.12194440e-4f), muladd(f * f, splat(-0.5f), p));
    return muladd(e, splat(0.693359375f), p + f);
}

/* N(0, 1) values at positions from `position` on; positions below 0 count as 0. */
static inline vec noise_at(idx position, uint32_t key) {
    bits low, high;
    for (int lane = 0; lane < LANES; lane++) {
        idx here = max_(position + lane, 0);
        low[lane] = (uint32_t)here, high[lane] = (uint32_t)(here >> 32);
    }
    bits first = mix(mix(low) ^ high ^ key), second = mix(first ^ 0x9e3779b9u);
    vec radius = root(log_of_share(__builtin_convertvector(first >> 8, vec) + splat(1.0f)) * splat(-2.0f));
    vec f = beyond_whole(__builtin_convertvector(second >> 8, vec) * splat(1.0f / (1 << 24)));
    vec squared_sine = f * f * polynomial(f * f, SQUARED_SINE, TERMS);
    return radius * muladd(squared_sine, splat(-2.0f), splat(1.0f)); /* cos 2u = 1 - 2 sin^2 u */
}

typedef struct {
    const idx *keys, *starts;
    float *y;
    idx steps, parts;
} Noise;

static void noise_job(const void *arguments, idx job, float *scratch) {
    const Noise *n = arguments;
    (void)scratch;
    idx row = job / n->parts, first = job % n->parts * STEPS, last = min_(n->steps, first + STEPS);
    for (idx i = first; i < last; i += LANES) {
        vec value = noise_at(n->starts[row] + i, (uint32_t)n->keys[row]);
        memcpy(n->y + row * n->steps + i, &value, min_(LANES, last - i) * sizeof(float));
    }
}

/* y (count, steps): a row for each key and its start position. */
EXPORT void noise(idx threads, const idx *keys, const idx *starts, float *y, idx count, idx steps) {
    Noise n = {keys, starts, y, steps, (steps + STEPS - 1) / STEPS};
    share(threads, count * n.parts, noise_job, &n, NULL, 0);
}
