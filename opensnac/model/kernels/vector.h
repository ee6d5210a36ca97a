/* What both files of kernels stand on: sixteen neighbouring channels at once, a sine, Snake.
 *
 * Vector types are GCC's and Clang's, so any processor runs this.
 */
#ifndef OPENSNAC_VECTOR_H
#define OPENSNAC_VECTOR_H

#include <stdint.h>
#include <string.h>

#define LANES 16
#define TAPS 7

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int64_t idx;

static inline vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

static inline idx min_(idx a, idx b) { return a < b ? a : b; }

/* u minus the nearest multiple of pi, in three steps so that it stays exact for large u. */
static inline vec reduce_pi(vec u) {
    const float magic = 12582912.0f; /* adding it rounds to a whole number */
    vec n = (u * 0.318309886183790672f + magic) - magic;
    return ((u - n * 3.140625f) - n * 9.67502593994140625e-4f) - n * 1.509957990978376432e-7f;
}

static inline vec sine(vec r) { /* |r| <= pi / 2 */
    vec q = r * r;
    vec p = q * -2.5052108385e-8f + 2.7557319224e-6f;
    p = p * q - 1.9841269841e-4f;
    p = p * q + 8.3333333333e-3f;
    p = p * q - 1.6666666667e-1f;
    return r + r * q * p;
}

static inline vec cosine(vec r) { /* |r| <= pi / 2 */
    vec q = r * r;
    vec p = q * 2.0876756988e-9f - 2.7557319224e-7f;
    p = p * q + 2.4801587302e-5f;
    p = p * q - 1.3888888889e-3f;
    p = p * q + 4.1666666667e-2f;
    p = p * q - 0.5f;
    return p * q + 1.0f;
}

/* v + sin^2(a v) / a */
static inline vec snake(vec v, vec a) {
    vec s = sine(reduce_pi(a * v));
    return v + s * s * (1.0f / (a + 1e-9f));
}

#endif
