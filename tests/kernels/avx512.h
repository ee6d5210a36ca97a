/* AVX-512 for a processor without it: the intrinsics that the kernels use, on two registers of AVX2.
 *
 * Given to the compiler by -include, before a source of the kernels: the same source runs as on AVX-512, with the same
 * roundings. STAND_IN_BF16 adds AVX512_BF16, multiplied in the order that Intel's manual has: the odd ones first, each
 * product and sum rounded once; numbers below 1e-38 are not flushed.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#define __AVX512DQ__ 1
#ifdef STAND_IN_BF16
#define __AVX512BF16__ 1
#endif

typedef union {
    __m512 all;
    __m256 half[2];
} Halves;

typedef uint32_t words __attribute__((vector_size(64)));

#define STAND_IN static inline __attribute__((always_inline, unused))

STAND_IN __m512 both(__m256 low, __m256 high) { return (Halves){.half = {low, high}}.all; }

STAND_IN __m512 fmadd(__m512 a, __m512 b, __m512 c) {
    Halves x = {a}, y = {b}, z = {c};
    return both(_mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]), _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]));
}

STAND_IN __m512 square_root(__m512 v) {
    Halves x = {v};
    return both(_mm256_sqrt_ps(x.half[0]), _mm256_sqrt_ps(x.half[1]));
}

STAND_IN __m512 rounded(__m512 v) {
    Halves x = {v};
    return both(_mm256_round_ps(x.half[0], 8), _mm256_round_ps(x.half[1], 8));
}

STAND_IN __m512i loaded(const void *from) {
    __m512i v;
    memcpy(&v, from, sizeof v);
    return v;
}

STAND_IN __m512 dot(__m512 sum, __m512i a, __m512i b) {
    words x = (words)a, y = (words)b;
    sum = fmadd((__m512)(x & 0xffff0000u), (__m512)(y & 0xffff0000u), sum);
    return fmadd((__m512)(x << 16), (__m512)(y << 16), sum);
}

STAND_IN __m256i to_bfloat16(__m512 v) {
    typedef uint16_t shorts __attribute__((vector_size(32)));
    words x = (words)v;
    return (__m256i)__builtin_convertvector((x + 0x7fffu + (x >> 16 & 1)) >> 16, shorts);
}

#define _mm512_fmadd_ps(a, b, c) fmadd(a, b, c)
#define _mm512_set1_ps(x) both(_mm256_set1_ps(x), _mm256_set1_ps(x))
#define _mm512_sqrt_ps(v) square_root(v)
#define _mm512_roundscale_ps(v, to) rounded(v)
#define _mm512_reduce_ps(v, to) ((v) - rounded(v))
#define _mm512_set1_epi32(x) ((__m512i)both(_mm256_castsi256_ps(_mm256_set1_epi32(x)), _mm256_castsi256_ps(_mm256_set1_epi32(x))))
#define _mm512_loadu_si512(from) loaded(from)
#define _mm512_dpbf16_ps(sum, a, b) dot(sum, (__m512i)(a), (__m512i)(b))
#define _mm512_cvtneps_pbh(v) to_bfloat16(v)
