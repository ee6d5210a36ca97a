/* Matrix products of time-major arrays with packed weights.
 *
 * Each output is one chain of multiply-adds in a fixed order, whatever else is computed, so pieces, batches and thread
 * counts all give the same bits.
 */
#ifndef OPENSNAC_PRODUCT_H
#define OPENSNAC_PRODUCT_H

#include "vector.h"

#define COLUMNS 32 /* of a panel of packed weights, computed together */
#if LANES == 16    /* rows computed together: the sums fill 28 of 32 registers, 12 of 16, 24 of 32 */
#define ROWS 14
#define FEW 4 /* rows computed together when fewer are left */
#else
#define ROWS 3
#define FEW 1
#endif
#define DEPTH 512        /* of a product, summed in registers before the sums go to memory */
#define TALL (24 * ROWS) /* rows of a job: with DEPTH they stay in the L2 cache */

typedef uint16_t half; /* bfloat16 */

/* Rows of a product's left side, floats or halves, `stride` elements apart; they may overlap. */
typedef struct {
    const void *at;
    idx stride;
    int halves;
} Rows;

/* Where sums are stored, and how: (sum + bias) * scale + add, where bias, scale and add may be null. */
typedef struct {
    float *at;
    idx stride;
    const float *bias, *scale, *add;
    idx add_stride;
} Target;

INLINE idx size_of(int halves) { return halves ? sizeof(half) : sizeof(float); }

INLINE Rows rows_from(Rows a, idx row, idx k) {
    return (Rows){(const char *)a.at + (row * a.stride + k) * size_of(a.halves), a.stride, a.halves};
}

INLINE Target target_from(Target y, idx row, idx column) {
    return (Target){y.at + row * y.stride + column,
                    y.stride,
                    y.bias ? y.bias + column : NULL,
                    y.scale ? y.scale + row : NULL,
                    y.add ? y.add + row * y.add_stride + column : NULL,
                    y.add_stride};
}

/* Add the products at depth k to the sums of `rows` rows by `vectors` vectors of columns. */
INLINE void step(const int rows, const int vectors, vec sum[rows][vectors], Rows a, const float *w, idx k) {
    const float *from = (const float *)a.at + k;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        vec value = splat(from[r * a.stride]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sum[r][v] = muladd(value, load(w + k * COLUMNS + v * LANES), sum[r][v]);
    }
}

#ifdef __AVX512BF16__
/* As `step`, at depths k and k + 1 in bfloat16. */
INLINE void two_steps(const int rows, const int vectors, vec sum[rows][vectors], Rows a, const half *w, idx k) {
    const half *from = (const half *)a.at + k;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        int pair;
        memcpy(&pair, from + r * a.stride, sizeof pair);
        __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            __m512bh weights = (__m512bh)_mm512_loadu_si512(w + k * COLUMNS + v * 2 * LANES);
            sum[r][v] = (vec)_mm512_dpbf16_ps((__m512)sum[r][v], value, weights);
        }
    }
}
#endif

/* `rows` rows by `vectors` vectors of columns; sums continue from y unless `first`, and are completed if `last`. */
INLINE void block(const int rows, const int vectors, Rows a, const void *w, idx depth, Target y, int first, int last) {
    vec sum[rows][vectors];
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            const float *begin = first ? y.bias : y.at + r * y.stride;
            sum[r][v] = begin ? load(begin + v * LANES) : splat(0);
            if (first && v % VECTORS == 0) __builtin_prefetch(y.at + r * y.stride + v * LANES, 1);
            if (last && y.add && v % VECTORS == 0) __builtin_prefetch(y.add + r * y.add_stride + v * LANES);
        }
#ifdef __AVX512BF16__
    for (idx k = 0; a.halves && k < depth; k += 2) two_steps(rows, vectors, sum, a, w, k);
#endif
    for (idx k = 0; !a.halves && k < depth; k++) step(rows, vectors, sum, a, w, k);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            vec done = sum[r][v];
            const float *add = last && y.add ? y.add + r * y.add_stride + v * LANES : NULL;
            if (last && y.scale && add)
                done = muladd(done, splat(y.scale[r]), load(add));
            else if (last && y.scale)
                done = done * splat(y.scale[r]);
            else if (add)
                done = done + load(add);
            store(y.at + r * y.stride + v * LANES, done);
        }
}

INLINE void rows_of_block(const int vectors, Rows a, const void *w, idx depth, Target y, idx rows, int first, int last) {
    idx r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        block(ROWS, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
    for (; FEW > 1 && r + FEW <= rows; r += FEW)
        block(FEW, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
    for (; r < rows; r++) block(1, vectors, rows_from(a, r, 0), w, depth, target_from(y, r, 0), first, last);
}

/* `rows` rows of y = a w for panels [panel, last) of `columns` columns, a multiple of WIDTH: w (panels, depth, COLUMNS),
 * or in halves (panels, depth / 2, COLUMNS, 2). */
INLINE void product_of(const int halves, Rows a, const void *w, Target y, idx rows, idx depth, idx columns, idx panel,
                       idx last) {
    a.halves = halves;
    for (; panel < last; panel++) {
        idx column = panel * COLUMNS;
        for (idx k = 0; k < depth; k += DEPTH) {
            const void *weights = (const char *)w + (panel * depth + k) * COLUMNS * size_of(halves);
            idx deep = min_(DEPTH, depth - k);
            Rows from = rows_from(a, 0, k);
            Target to = target_from(y, 0, column);
            if (columns - column == WIDTH)
                rows_of_block(WIDTH / LANES, from, weights, deep, to, rows, k == 0, k + deep == depth);
            else
                rows_of_block(COLUMNS / LANES, from, weights, deep, to, rows, k == 0, k + deep == depth);
        }
    }
}

static inline void product(Rows a, const void *w, Target y, idx rows, idx depth, idx columns, idx panel, idx last) {
#ifdef __AVX512BF16__
    if (a.halves) {
        product_of(1, a, w, y, rows, depth, columns, panel, last);
        return;
    }
#endif
    product_of(0, a, w, y, rows, depth, columns, panel, last);
}

#endif
