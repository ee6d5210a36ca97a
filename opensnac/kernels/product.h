/* Matrix products over time-major arrays with weights arranged beforehand, for the layers that use them.
 *
 * An output is one chain of multiply-adds in a fixed order, whatever is computed beside it: pieces, batches and threads
 * give the same bits.
 */
#ifndef OPENSNAC_PRODUCT_H
#define OPENSNAC_PRODUCT_H

#include "vector.h"

#ifdef __AVX512F__
#define ROWS 14 /* with two vectors of columns each, the sums fill 28 of 32 registers */
#else
#define ROWS 3
#endif
#define COLUMNS (2 * LANES)
#define DEPTH 512        /* of a product that is summed up in registers before it goes to memory */
#define TALL (24 * ROWS) /* rows of a job: with DEPTH they stay in the second cache */

typedef uint16_t half; /* bfloat16 */

/* Rows of a product's left side, floats or halves, as far apart as `stride` of them; they may overlap. */
typedef struct {
    const void *at;
    idx stride;
    int halves;
} Rows;

/* Where sums go, and what becomes of them: (sum + bias) * scale + add, of which all but the sum may be missing. */
typedef struct {
    float *at;
    idx stride;
    const float *bias, *scale, *add;
    idx add_stride;
} Target;

INLINE Rows rows_from(Rows a, idx row, idx k) {
    idx size = a.halves ? sizeof(half) : sizeof(float);
    return (Rows){(const char *)a.at + (row * a.stride + k) * size, a.stride, a.halves};
}

INLINE Target target_from(Target y, idx row, idx column) {
    return (Target){y.at + row * y.stride + column,
                    y.stride,
                    y.bias ? y.bias + column : NULL,
                    y.scale ? y.scale + row : NULL,
                    y.add ? y.add + row * y.add_stride + column : NULL,
                    y.add_stride};
}

/* Add to the sums of `rows` rows by `vectors` vectors of columns what one step of depth, or two halves, brings. */
INLINE void step(const int rows, const int vectors, vec sum[ROWS][2], Rows a, const void *w, idx k) {
#ifdef __AVX512BF16__
    if (a.halves) {
        const half *weights = (const half *)w + k * COLUMNS, *from = (const half *)a.at + k;
        __m512bh left = (__m512bh)_mm512_loadu_si512(weights);
        __m512bh right = vectors > 1 ? (__m512bh)_mm512_loadu_si512(weights + 2 * LANES) : left;
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            int pair;
            memcpy(&pair, from + r * a.stride, sizeof pair);
            __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = (vec)_mm512_dpbf16_ps((__m512)sum[r][0], value, left);
            if (vectors > 1) sum[r][1] = (vec)_mm512_dpbf16_ps((__m512)sum[r][1], value, right);
        }
        return;
    }
#endif
    const float *weights = (const float *)w + k * COLUMNS, *from = (const float *)a.at + k;
    vec left = load(weights), right = vectors > 1 ? load(weights + LANES) : left;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        float value = from[r * a.stride];
        sum[r][0] += value * left;
        if (vectors > 1) sum[r][1] += value * right;
    }
}

/* a * b + c, rounded once where the processor can: left to the compiler, it would depend on the number of rows. */
INLINE vec fused(vec a, float b, vec c) {
#ifdef __AVX512F__
    return (vec)_mm512_fmadd_ps((__m512)a, _mm512_set1_ps(b), (__m512)c);
#elif defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b, c[i]);
    return c;
#else
    return a * b + c;
#endif
}

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
/* As below, in registers of eight columns: compilers keep vectors of sixteen in memory on such processors. */
INLINE void block(const int rows, const int vectors, Rows a, const void *w, idx depth, Target y, int first, int last) {
    __m256 sum[ROWS][4];
    const float *from = a.at, *weights = w;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 2 * vectors; v++) {
            const float *begin = !first ? y.at + r * y.stride : y.bias;
            sum[r][v] = begin ? _mm256_loadu_ps(begin + 8 * v) : _mm256_setzero_ps();
        }
    for (idx k = 0; k < depth; k++) {
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            __m256 value = _mm256_broadcast_ss(from + r * a.stride + k);
#pragma GCC unroll 4
            for (int v = 0; v < 2 * vectors; v++)
                sum[r][v] = _mm256_fmadd_ps(value, _mm256_loadu_ps(weights + k * COLUMNS + 8 * v), sum[r][v]);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < 2 * vectors; v++) {
            __m256 done = sum[r][v];
            const float *add = last && y.add ? y.add + r * y.add_stride + 8 * v : NULL;
            if (last && y.scale && add)
                done = _mm256_fmadd_ps(done, _mm256_broadcast_ss(y.scale + r), _mm256_loadu_ps(add));
            else if (last && y.scale)
                done = _mm256_mul_ps(done, _mm256_broadcast_ss(y.scale + r));
            else if (add)
                done = _mm256_add_ps(done, _mm256_loadu_ps(add));
            _mm256_storeu_ps(y.at + r * y.stride + 8 * v, done);
        }
}
#else
/* `rows` rows by `vectors` vectors of columns; sums go on from y unless `first`, and are done with if `last`. */
INLINE void block(const int rows, const int vectors, Rows a, const void *w, idx depth, Target y, int first, int last) {
    vec sum[ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = !first ? load(y.at + r * y.stride + v * LANES) : y.bias ? load(y.bias + v * LANES) : (vec){0};
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            if (first) __builtin_prefetch(y.at + r * y.stride + v * LANES, 1);
            if (last && y.add) __builtin_prefetch(y.add + r * y.add_stride + v * LANES);
        }
    for (idx k = 0; k < depth; k += a.halves ? 2 : 1) step(rows, vectors, sum, a, w, k);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            const float *add = y.add + r * y.add_stride + v * LANES;
            if (last && y.scale && y.add)
                sum[r][v] = fused(sum[r][v], y.scale[r], load(add));
            else if (last && y.scale)
                sum[r][v] *= y.scale[r];
            else if (last && y.add)
                sum[r][v] += load(add);
            store(y.at + r * y.stride + v * LANES, sum[r][v]);
        }
}
#endif

INLINE void rows_of_block(const int vectors, Rows a, const void *w, idx depth, Target y, idx rows, int first, int last) {
    idx r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        block(ROWS, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
#ifdef __AVX512F__
    for (; r + 4 <= rows; r += 4)
        block(4, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
#endif
    for (; r < rows; r++) block(1, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
}

/* `rows` rows of y = a w for panels [panel, last) of `columns` columns: w (panels, depth, COLUMNS), or in halves
 * (panels, depth / 2, COLUMNS, 2). */
INLINE void product_of(const int halves, Rows a, const void *w, Target y, idx rows, idx depth, idx columns, idx panel,
                       idx last) {
    a.halves = halves;
    for (; panel < last; panel++) {
        idx column = panel * COLUMNS, width = min_(COLUMNS, columns - column);
        for (idx k = 0; k < depth; k += DEPTH) {
            const void *weights = (const char *)w + (panel * depth + k) * COLUMNS * (halves ? sizeof(half) : sizeof(float));
            idx deep = min_(DEPTH, depth - k);
            if (width == LANES)
                rows_of_block(1, rows_from(a, 0, k), weights, deep, target_from(y, 0, column), rows, k == 0, k + deep == depth);
            else
                rows_of_block(2, rows_from(a, 0, k), weights, deep, target_from(y, 0, column), rows, k == 0, k + deep == depth);
        }
    }
}

static void product(Rows a, const void *w, Target y, idx rows, idx depth, idx columns, idx panel, idx last) {
#ifdef __AVX512BF16__
    if (a.halves) {
        product_of(1, a, w, y, rows, depth, columns, panel, last);
        return;
    }
#endif
    product_of(0, a, w, y, rows, depth, columns, panel, last);
}

#endif
