/* Layers of the codec over time-major float32 arrays, forward only: products with weights arranged beforehand, whole
 * residual units, nearest codebook entries.
 *
 * An output is one chain of multiply-adds in a fixed order, whatever is computed beside it: pieces, batches and threads
 * give the same bits.
 */
#include "vector.h"
#include <stdlib.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define ROWS 14 /* with two vectors of columns each, the sums fill 28 of 32 registers */
#else
#define ROWS 3
#endif
#define COLUMNS (2 * LANES)
#define DEPTH 512      /* of a product that is summed up in registers before it goes to memory */
#define TALL (24 * ROWS) /* rows of a job: with DEPTH they stay in the second cache */
#define WIDE 8         /* panels of columns of a job */

/* What becomes of a row's sums: (sum + bias) * scale + add. All but the sums may be missing. */
typedef struct {
    const float *bias, *scale, *add;
    idx add_stride;
} Finish;

#define INLINE static inline __attribute__((always_inline))

/* `rows` rows by `vectors` vectors of columns; sums go on from y unless `first`. */
INLINE void block(const int rows, const int vectors, const float *a, idx a_stride, const float *w, idx depth, float *y,
                  idx y_stride, int first) {
    vec sum[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = first ? (vec){0} : load(y + r * y_stride + v * LANES);
    for (idx k = 0; k < depth; k++) {
        vec left = load(w + k * COLUMNS), right = vectors > 1 ? load(w + k * COLUMNS + LANES) : left;
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            float value = a[r * a_stride + k];
            sum[r][0] += value * left;
            if (vectors > 1) sum[r][1] += value * right;
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(y + r * y_stride + v * LANES, sum[r][v]);
}

INLINE void rows_of_block(const int vectors, const float *a, idx a_stride, const float *w, idx depth, float *y,
                          idx y_stride, idx rows, int first) {
    idx r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        block(ROWS, vectors, a + r * a_stride, a_stride, w, depth, y + r * y_stride, y_stride, first);
#ifdef __AVX512F__
    for (; r + 4 <= rows; r += 4)
        block(4, vectors, a + r * a_stride, a_stride, w, depth, y + r * y_stride, y_stride, first);
#endif
    for (; r < rows; r++)
        block(1, vectors, a + r * a_stride, a_stride, w, depth, y + r * y_stride, y_stride, first);
}

typedef uint16_t half; /* bfloat16 */

int has_bfloat16(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

#ifdef __AVX512BF16__
/* The same with factors in bfloat16, summed in float32: a (rows, depth), w (depth / 2, COLUMNS, 2). */
INLINE void half_block(const int rows, const half *a, const half *w, idx depth, float *y, idx y_stride, int first) {
    __m512 sum[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++)
            sum[r][v] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * y_stride + v * LANES);
    for (idx k = 0; k < depth; k += 2) {
        __m512bh left = (__m512bh)_mm512_loadu_si512(w + k * COLUMNS);
        __m512bh right = (__m512bh)_mm512_loadu_si512(w + k * COLUMNS + 2 * LANES);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            int pair;
            memcpy(&pair, a + r * depth + k, sizeof pair);
            __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], value, left);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], value, right);
        }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(y + r * y_stride + v * LANES, sum[r][v]);
}

/* rows x depth of a in bfloat16, close together; depth is a multiple of LANES. */
static void halved(const float *a, idx a_stride, half *to, idx rows, idx depth) {
    for (idx r = 0; r < rows; r++)
        for (idx k = 0; k < depth; k += LANES)
            _mm256_storeu_si256((__m256i *)(to + r * depth + k),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(a + r * a_stride + k)));
}

static void half_rows(const half *a, const half *w, idx depth, float *y, idx y_stride, idx rows, int first) {
    idx r = 0;
    for (; r + ROWS <= rows; r += ROWS) half_block(ROWS, a + r * depth, w, depth, y + r * y_stride, y_stride, first);
    for (; r + 4 <= rows; r += 4) half_block(4, a + r * depth, w, depth, y + r * y_stride, y_stride, first);
    for (; r < rows; r++) half_block(1, a + r * depth, w, depth, y + r * y_stride, y_stride, first);
}
#endif

static void finish(float *y, idx y_stride, idx rows, idx columns, idx row, idx column, const Finish *f) {
    for (idx r = 0; r < rows; r++) {
        float *to = y + r * y_stride, scale = f->scale ? f->scale[row + r] : 1.0f;
        const float *add = f->add ? f->add + (row + r) * f->add_stride + column : NULL;
        for (idx c = 0; c < columns; c++) {
            float value = f->bias ? to[c] + f->bias[column + c] : to[c];
            if (f->scale) value *= scale;
            to[c] = add ? value + add[c] : value;
        }
    }
}

/* Rows [row, row + rows) of y = a w, for panels [panel, last): a (.., depth), w (panels, depth, COLUMNS). */
static void product(const float *a, idx a_stride, const float *w, float *y, idx y_stride, idx row, idx rows, idx depth,
                    idx columns, idx panel, idx last, const Finish *f) {
    float edge[TALL * COLUMNS]; /* the last panel's sums, where y has no room for all of its columns */
    for (; panel < last; panel++) {
        idx column = panel * COLUMNS, width = min_(COLUMNS, columns - column);
        int whole = width == COLUMNS || width == LANES;
        float *to = whole ? y + row * y_stride + column : edge;
        idx stride = whole ? y_stride : COLUMNS;
        for (idx k = 0; k < depth; k += DEPTH) {
            const float *from = a + row * a_stride + k, *weights = w + (panel * depth + k) * COLUMNS;
            if (width == LANES)
                rows_of_block(1, from, a_stride, weights, min_(DEPTH, depth - k), to, stride, rows, k == 0);
            else
                rows_of_block(2, from, a_stride, weights, min_(DEPTH, depth - k), to, stride, rows, k == 0);
        }
        if (!whole)
            for (idx r = 0; r < rows; r++)
                memcpy(y + (row + r) * y_stride + column, edge + r * COLUMNS, width * sizeof *y);
        finish(y + row * y_stride + column, y_stride, rows, width, row, column, f);
    }
}

/* As product, with weights in bfloat16; depth and columns are multiples of LANES and COLUMNS. */
static void half_product(const float *a, idx a_stride, const half *w, float *y, idx y_stride, idx row, idx rows,
                         idx depth, idx panel, idx last, const Finish *f) {
#ifdef __AVX512BF16__
    static _Thread_local half narrow[TALL * DEPTH];
    for (idx k = 0; k < depth; k += DEPTH) {
        idx deep = min_(DEPTH, depth - k);
        halved(a + row * a_stride + k, a_stride, narrow, rows, deep);
        for (idx p = panel; p < last; p++)
            half_rows(narrow, w + (p * depth + k) * COLUMNS, deep, y + row * y_stride + p * COLUMNS, y_stride, rows,
                      k == 0);
    }
    for (; panel < last; panel++)
        finish(y + row * y_stride + panel * COLUMNS, y_stride, rows, COLUMNS, row, panel * COLUMNS, f);
#else
    (void)a, (void)a_stride, (void)w, (void)y, (void)y_stride, (void)row, (void)rows, (void)depth, (void)panel;
    (void)last, (void)f;
#endif
}

/* y (batch, rows, columns) = (a w + bias) * scale + add. Rows of a lie a_stride apart and may overlap; scale is one
 * number a row, for each clip or for all of them (scale_clip 0); bias, scale and add may be null. */
void linear(const float *a, idx a_clip, idx a_stride, const void *w, idx is_half, const float *bias, const float *scale,
            idx scale_clip, const float *add, idx add_clip, idx add_stride, float *y, idx batch, idx rows, idx depth,
            idx columns) {
    idx panels = (columns + COLUMNS - 1) / COLUMNS, across = (panels + WIDE - 1) / WIDE, down = (rows + TALL - 1) / TALL;
#pragma omp parallel for schedule(dynamic)
    for (idx job = 0; job < batch * down * across; job++) {
        idx clip = job / (down * across), row = job % (down * across) / across * TALL, panel = job % across * WIDE;
        Finish f = {bias, scale ? scale + clip * scale_clip : NULL, add ? add + clip * add_clip : NULL, add_stride};
        const float *from = a + clip * a_clip;
        float *to = y + clip * rows * columns;
        idx tall = min_(TALL, rows - row), last = min_(panels, panel + WIDE);
        if (is_half)
            half_product(from, a_stride, w, to, columns, row, tall, depth, panel, last, &f);
        else
            product(from, a_stride, w, to, columns, row, tall, depth, columns, panel, last, &f);
    }
}

/* Snake, depthwise convolution and Snake again of LANES channels: `rows` rows from rows + 2 reach of x. */
static void column_of_unit(const float *x, idx channels, const float *alpha, const float *taps, const float *bias,
                           const float *beta, float *wide, float *y, idx rows, idx dilation) {
    vec a = load(alpha), b = load(beta), shift = load(bias), w[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(taps + k * channels);
    for (idx t = 0; t < rows + (TAPS - 1) * dilation; t++) store(wide + t * LANES, snake(load(x + t * channels), a));
    for (idx t = 0; t < rows; t++) {
        vec sum = shift;
        for (int k = 0; k < TAPS; k++) sum += w[k] * load(wide + (t + k * dilation) * LANES);
        store(y + t * channels, snake(sum, b));
    }
}

/* y (batch, time, channels) = x + pointwise(snake(depthwise(snake(x)))) in the middle of x (batch, time + 2 reach,
 * channels). Channels are a multiple of LANES; scratch is what each job works in. */
void residual_unit(const float *x, const float *alpha, const float *taps, const float *taps_bias, const float *beta,
                   const void *w, idx is_half, const float *bias, float *y, idx batch, idx time, idx channels,
                   idx dilation) {
    idx reach = TAPS / 2 * dilation, tall = 32768 / channels / ROWS * ROWS;
    tall = tall > TALL ? TALL : tall < 4 * ROWS ? 4 * ROWS : tall;
    idx down = (time + tall - 1) / tall;
#pragma omp parallel
    {
        float *wide = malloc((tall + 2 * reach) * LANES * sizeof *wide), *mixed = malloc(tall * channels * sizeof *mixed);
#pragma omp for schedule(dynamic)
        for (idx job = 0; job < batch * down; job++) {
            idx row = job % down * tall, rows = min_(tall, time - row);
            const float *from = x + (job / down * (time + 2 * reach) + row) * channels;
            Finish f = {bias, NULL, from + reach * channels, channels};
            for (idx c = 0; c < channels; c += LANES)
                column_of_unit(from + c, channels, alpha + c, taps + c, taps_bias + c, beta + c, wide, mixed + c, rows,
                               dilation);
            float *to = y + (job / down * time + row) * channels;
            idx panels = (channels + COLUMNS - 1) / COLUMNS;
            if (is_half)
                half_product(mixed, channels, w, to, channels, 0, rows, channels, 0, panels, &f);
            else
                product(mixed, channels, w, to, channels, 0, rows, channels, channels, 0, panels, &f);
        }
        free(wide);
        free(mixed);
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
