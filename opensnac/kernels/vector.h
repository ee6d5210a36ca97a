/* What all kernels share: a vector register of neighbouring channels, a sine, Snake.
 *
 * Every fused multiply-add is explicit, and nothing else is contracted (-ffp-contract=off): any register width and any
 * compiler give the same bits.
 */
#ifndef OPENSNAC_VECTOR_H
#define OPENSNAC_VECTOR_H

#include "parallel.h"
#include <stddef.h>
#include <string.h>

#define WIDTH 16 /* channels come in multiples of it */
#define TAPS 7
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 16
typedef float vec __attribute__((vector_size(64)));
INLINE vec muladd(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vec splat(float x) { return (vec)_mm512_set1_ps(x); }
INLINE vec root(vec v) { return (vec)_mm512_sqrt_ps((__m512)v); }
INLINE vec whole(vec v) { return (vec)_mm512_roundscale_ps((__m512)v, 0); }
INLINE vec beyond_whole(vec v) { return (vec)_mm512_reduce_ps((__m512)v, 0); }
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
typedef float vec __attribute__((vector_size(32)));
INLINE vec muladd(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vec splat(float x) { return (vec)_mm256_set1_ps(x); }
INLINE vec root(vec v) { return (vec)_mm256_sqrt_ps((__m256)v); }
INLINE vec whole(vec v) { return (vec)_mm256_round_ps((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec beyond_whole(vec v) { return v - whole(v); }
#elif defined(__aarch64__)
#include <arm_neon.h>
#define LANES 4
typedef float32x4_t vec;
INLINE vec muladd(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
INLINE vec splat(float x) { return vdupq_n_f32(x); }
INLINE vec root(vec v) { return vsqrtq_f32(v); }
INLINE vec whole(vec v) { return vrndnq_f32(v); }
INLINE vec beyond_whole(vec v) { return v - whole(v); }
#else
#error "no kernels for this processor"
#endif

#define VECTORS (WIDTH / LANES)

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

static inline idx min_(idx a, idx b) { return a < b ? a : b; }
static inline idx max_(idx a, idx b) { return a > b ? a : b; }

/* c[0] + x (c[1] + x (c[2] + ...)) */
INLINE vec polynomial(vec x, const float *c, const int count) {
    vec p = splat(c[count - 1]);
    for (int k = count - 2; k >= 0; k--) p = muladd(p, x, splat(c[k]));
    return p;
}

/* sin^2(pi f) for |f| <= 1/2 as a polynomial in f^2, lowest power first: exact to 2e-7, or to 2e-5 where the result is
 * rounded to bfloat16. */
#define TERMS 6
#define ROUGH_TERMS 4
static const float SQUARED_SINE[TERMS] = {9.8696029203f,  -32.469581116f, 42.725384789f,
                                          -30.085953176f, 12.990730325f,  -3.2729459350f};
static const float ROUGH_SQUARED_SINE[ROUGH_TERMS] = {9.8666747378f, -32.353872283f, 41.294961592f, -22.990920630f};

/* A Snake's alpha in the form it is used in: alpha / pi, and the polynomial's coefficients over alpha. */
typedef struct {
    vec turn, term[TERMS];
} Snake;

INLINE Snake snake_of(const float *alpha, const int rough) {
    vec a = load(alpha), inverse = splat(1.0f) / (a + splat(1e-9f));
    Snake s;
    s.turn = a * splat(0.318309886183790672f);
    for (int k = 0; k < (rough ? ROUGH_TERMS : TERMS); k++)
        s.term[k] = inverse * splat((rough ? ROUGH_SQUARED_SINE : SQUARED_SINE)[k]);
    return s;
}

/* v + sin^2(a v) / a */
INLINE vec snake(vec v, const Snake *s, const int rough) {
    vec f = beyond_whole(v * s->turn), g = f * f, p = s->term[rough ? ROUGH_TERMS - 1 : TERMS - 1];
    for (int k = rough ? ROUGH_TERMS - 2 : TERMS - 2; k >= 0; k--) p = muladd(p, g, s->term[k]);
    return muladd(p, g, v);
}

/* sin(2 pi f) / f for |f| <= 1/2 as a polynomial in f^2: exact to 5e-7 */
#define SLOPE_TERMS 7
static const float DOUBLED_SINE[SLOPE_TERMS] = {6.283185273f,  -41.34169707f, 81.60502482f, -76.70155408f,
                                                42.01618648f,  -14.86868112f, 3.199784784f};

/* A Snake's value, its derivative by v, and its derivative by a, not yet divided by a (`by_alpha` does that). */
typedef struct {
    vec value, by_v, by_a;
} Slopes;

INLINE vec by_alpha(vec sum, const float *alpha) { return sum / (load(alpha) + splat(1e-9f)); }

INLINE Slopes slopes(vec v, const Snake *s) {
    vec f = beyond_whole(v * s->turn), g = f * f, p = s->term[TERMS - 1];
    for (int k = TERMS - 2; k >= 0; k--) p = muladd(p, g, s->term[k]);
    vec bump = p * g, slope = f * polynomial(g, DOUBLED_SINE, SLOPE_TERMS);
    return (Slopes){v + bump, slope + splat(1.0f), muladd(v, slope, -bump)};
}

#endif
