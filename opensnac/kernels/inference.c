/* Layers of the codec over time-major float32 arrays, forward only: products with weights arranged beforehand, a
 * convolution to one channel, nearest codebook entries.
 */
#include "product.h"

#define WIDE 8 /* panels of columns of a job */

int has_bfloat16(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

/* y (batch, rows, columns) = (a w + bias) * scale + add. Rows of a, floats or halves as w, lie a_stride apart and may
 * overlap; columns are a multiple of LANES; scale is one number a row, for each clip or for all of them (scale_clip 0);
 * bias, scale and add may be null. */
void linear(const void *a, idx a_clip, idx a_stride, const void *w, idx halves, const float *bias, const float *scale,
            idx scale_clip, const float *add, idx add_clip, idx add_stride, float *y, idx batch, idx rows, idx depth,
            idx columns) {
    idx panels = (columns + COLUMNS - 1) / COLUMNS, across = (panels + WIDE - 1) / WIDE, down = (rows + TALL - 1) / TALL;
#pragma omp parallel for schedule(dynamic)
    for (idx job = 0; job < batch * down * across; job++) {
        idx clip = job / (down * across), row = job % (down * across) / across * TALL, panel = job % across * WIDE;
        Rows from = {(const char *)a + clip * a_clip * (halves ? sizeof(half) : sizeof(float)), a_stride, (int)halves};
        Target to = {y + clip * rows * columns, columns, bias, scale ? scale + clip * scale_clip : NULL,
                     add ? add + clip * add_clip : NULL, add_stride};
        product(rows_from(from, row, 0), w, target_from(to, row, 0), min_(TALL, rows - row), depth, columns, panel,
                min_(panels, panel + WIDE));
    }
}

/* `rows` sums over `depth` neighbouring values, rows that overlap: a convolution to one channel. */
INLINE void rows_of_single(const int rows, const float *a, idx a_stride, const float *w, float bias, float *y, idx depth) {
    vec sum[4] = {{0}};
    idx k = 0;
    for (; k + LANES <= depth; k += LANES)
        for (int r = 0; r < rows; r++) sum[r] += load(a + r * a_stride + k) * load(w + k);
    for (int r = 0; r < rows; r++) {
        float total = bias;
        for (int lane = 0; lane < LANES; lane++) total += sum[r][lane];
        for (idx rest = k; rest < depth; rest++) total += a[r * a_stride + rest] * w[rest];
        y[r] = total;
    }
}

/* y (batch, rows) = a w + bias: a as in linear, w (depth). */
void single(const float *a, idx a_clip, idx a_stride, const float *w, const float *bias, float *y, idx batch, idx rows,
            idx depth) {
    idx down = (rows + TALL - 1) / TALL;
#pragma omp parallel for schedule(static)
    for (idx job = 0; job < batch * down; job++) {
        idx clip = job / down, row = job % down * TALL, end = min_(rows, row + TALL);
        const float *from = a + clip * a_clip;
        for (; row + 4 <= end; row += 4)
            rows_of_single(4, from + row * a_stride, a_stride, w, *bias, y + clip * rows + row, depth);
        for (; row < end; row++)
            rows_of_single(1, from + row * a_stride, a_stride, w, *bias, y + clip * rows + row, depth);
    }
}

/* For each of `count` vectors the entry with the largest product, the first of equals. entries (groups, dim, LANES),
 * `size` of them; what fills up the last group is not looked at. */
void nearest(const float *vectors, const float *entries, int64_t *index, idx count, idx dim, idx size) {
#pragma omp parallel for schedule(static)
    for (idx i = 0; i < count; i++) {
        float best = -3.0e38f;
        idx found = 0;
        for (idx group = 0; group * LANES < size; group++) {
            vec sum = {0};
            for (idx d = 0; d < dim; d++) sum += vectors[i * dim + d] * load(entries + (group * dim + d) * LANES);
            for (idx lane = 0; lane < min_(LANES, size - group * LANES); lane++)
                if (sum[lane] > best) best = sum[lane], found = group * LANES + lane;
        }
        index[i] = found;
    }
}
