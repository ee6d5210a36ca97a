/* Sums of outer products, y += a^T b, for gradients of matrices: both sides are read row by row. */
#ifndef OPENSNAC_OUTER_H
#define OPENSNAC_OUTER_H

#include "vector.h"

#if LANES == 8 /* columns of a per block, times two vectors of b: the sums fill 12 of 16 registers */
#define TALLEST 6
#define SHORT 2 /* columns per block at the end */
#else /* 24 of 32 */
#define TALLEST 12
#define SHORT 4
#endif
#define STRETCH 128 /* rows summed in registers before the sums go to memory */

/* A matrix in memory, its rows `stride` floats apart. */
typedef struct {
    float *at;
    idx stride;
} Matrix;

/* `count` columns of a by `vectors` vectors of b. */
INLINE void outer_block(const int count, const int vectors, Matrix y, const float *a, idx a_stride, const float *b,
                        idx b_stride, idx rows) {
    vec sum[count][vectors];
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[r][v] = load(y.at + r * y.stride + v * LANES);
    for (idx k = 0; k < rows; k++) {
#pragma GCC unroll 12
        for (int r = 0; r < count; r++) {
            vec value = splat(a[k * a_stride + r]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[r][v] = muladd(value, load(b + k * b_stride + v * LANES), sum[r][v]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) store(y.at + r * y.stride + v * LANES, sum[r][v]);
}

/* y (m, n) += a^T b of `rows` rows; m and n are multiples of WIDTH. */
static inline void outer(Matrix y, const float *a, idx a_stride, const float *b, idx b_stride, idx rows, idx m, idx n) {
    for (idx k = 0; k < rows; k += STRETCH) {
        const float *from = a + k * a_stride, *with = b + k * b_stride;
        idx deep = min_(STRETCH, rows - k), i = 0;
        for (; i < m; i += i + TALLEST <= m ? TALLEST : SHORT)
            for (idx j = 0; j < n; j += 2 * LANES) {
                Matrix to = {y.at + i * y.stride + j, y.stride};
                if (i + TALLEST > m && j + 2 * LANES > n)
                    outer_block(SHORT, 1, to, from + i, a_stride, with + j, b_stride, deep);
                else if (i + TALLEST > m)
                    outer_block(SHORT, 2, to, from + i, a_stride, with + j, b_stride, deep);
                else if (j + 2 * LANES > n)
                    outer_block(TALLEST, 1, to, from + i, a_stride, with + j, b_stride, deep);
                else
                    outer_block(TALLEST, 2, to, from + i, a_stride, with + j, b_stride, deep);
            }
    }
}

#endif
