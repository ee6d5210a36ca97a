/* What the kernels stand on: sixteen neighbouring channels at once, a sine, Snake.
 *
 * Vector types are GCC's and Clang's, so any processor runs this.
 */
#ifndef OPENSNAC_VECTOR_H
#define OPENSNAC_VECTOR_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

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

/* The nearest whole numbers. */
static inline vec whole(vec v) {
    const float magic = 12582912.0f; /* adding it rounds */
    return (v + magic) - magic;
}

/* u minus the nearest multiple of pi, in three steps so that it stays exact for large u. */
static inline vec reduce_pi(vec u) {
    vec n = whole(u * 0.318309886183790672f);
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

/* What Snake needs of its alpha: 1 / pi and 1 over it. */
typedef struct {
    vec turn, inverse;
} Snake;

static inline Snake snake_of(const float *alpha) {
    vec a = load(alpha);
    return (Snake){a * 0.318309886183790672f, 1.0f / (a + 1e-9f)};
}

/* sin^2(pi f), |f| <= 1/2, a polynomial in f^2: exact to 2e-7, or 2e-5 if `rough` does. */
static inline __attribute__((always_inline)) vec squared_sine(vec f, const int rough) {
    vec g = f * f, p;
    if (rough) {
        p = g * -22.990920630f + 41.294961592f;
        p = p * g - 32.353872283f;
        p = p * g + 9.8666747378f;
    } else {
        p = g * -3.2729459350f + 12.990730325f;
        p = p * g - 30.085953176f;
        p = p * g + 42.725384789f;
        p = p * g - 32.469581116f;
        p = p * g + 9.8696029203f;
    }
    return p * g;
}

/* v + sin^2(a v) / a */
static inline __attribute__((always_inline)) vec snake(vec v, Snake s, const int rough) {
#ifdef __AVX512DQ__
    vec f = (vec)_mm512_reduce_ps((__m512)(v * s.turn), 0);
#else
    vec f = v * s.turn - whole(v * s.turn);
#endif
    return v + squared_sine(f, rough) * s.inverse;
}

#endif
