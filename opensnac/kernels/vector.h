/* What the kernels stand on: sixteen neighbouring channels at once, a sine, Snake.
 *
 * Vector types are GCC's and Clang's, so any processor runs this.
 */
#ifndef OPENSNAC_VECTOR_H
#define OPENSNAC_VECTOR_H

#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 16
#define TAPS 7
#define INLINE static inline __attribute__((always_inline))

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

/* sin^2(pi f) for |f| <= 1/2 as a polynomial in f^2, lowest power first: exact to 2e-7, or 2e-5 where what comes of it
 * is cut to bfloat16. */
#define TERMS 6
#define ROUGH_TERMS 4
static const float SQUARED_SINE[TERMS] = {9.8696029203f,  -32.469581116f, 42.725384789f,
                                          -30.085953176f, 12.990730325f,  -3.2729459350f};
static const float ROUGH_SQUARED_SINE[ROUGH_TERMS] = {9.8666747378f, -32.353872283f, 41.294961592f, -22.990920630f};

/* Its terms times `scale`, and itself with these. */
INLINE void squared_sine_terms(vec scale, vec *term, const int rough) {
    for (int k = 0; k < (rough ? ROUGH_TERMS : TERMS); k++) term[k] = scale * (rough ? ROUGH_SQUARED_SINE : SQUARED_SINE)[k];
}

INLINE vec squared_sine(vec f, const vec *term, const int rough) {
    vec g = f * f, p = term[rough ? ROUGH_TERMS - 1 : TERMS - 1];
    for (int k = rough ? ROUGH_TERMS - 2 : TERMS - 2; k >= 0; k--) p = p * g + term[k];
    return p * g;
}

/* What Snake needs of its alpha: 1 / pi of it, and the squared sine over it. */
typedef struct {
    vec turn, term[TERMS];
} Snake;

INLINE Snake snake_of(const float *alpha, const int rough) {
    vec a = load(alpha);
    Snake s;
    s.turn = a * 0.318309886183790672f;
    squared_sine_terms(1.0f / (a + 1e-9f), s.term, rough);
    return s;
}

/* v + sin^2(a v) / a */
INLINE vec snake(vec v, const Snake *s, const int rough) {
#ifdef __AVX512DQ__
    vec f = (vec)_mm512_reduce_ps((__m512)(v * s->turn), 0);
#else
    vec f = v * s->turn - whole(v * s->turn);
#endif
    return squared_sine(f, s->term, rough) + v;
}

#endif
