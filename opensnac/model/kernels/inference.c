/* Layers of the codec over time-major float32 arrays, forward only: products with weights arranged beforehand, whole
 * residual units, nearest codebook entries.
 *
 * An output is one chain of multiply-adds in a fixed order, whatever is computed beside it: pieces, batches and threads
 * give the same bits.
 */
#include "vector.h"
#include <stdlib.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define ROWS 14 /* with two vectors of columns each, the sums fill 28 of 32 registers */
#else
#define ROWS 3
#endif
#define COLUMNS (2 * LANES)
#define DEPTH 512        /* of a product that is summed up in registers before it goes to memory */
#define TALL (24 * ROWS) /* rows of a job: with DEPTH they stay in the second cache */
#define AHEAD 16         /* steps of time that are fetched in advance */
#define WIDE 8           /* panels of columns of a job */

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t half; /* bfloat16 */

int has_bfloat16(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

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

/* Snake, depthwise convolution and Snake again of LANES channels: `rows` rows from rows + 2 reach of x. They become
 * floats or halves. */
INLINE void column_of_unit(const int halves, const float *x, idx channels, const float *alpha, const float *taps,
                           const float *bias, const float *beta, float *wide, void *y, idx rows, idx dilation) {
    Snake a = snake_of(alpha), b = snake_of(beta);
    vec shift = load(bias), w[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(taps + k * channels);
    for (idx t = 0; t < rows + (TAPS - 1) * dilation; t++) {
        __builtin_prefetch(x + (t + AHEAD) * channels); /* no processor guesses steps that far apart */
        store(wide + t * LANES, snake(load(x + t * channels), a, halves));
    }
    for (idx t = 0; t < rows; t++) {
        vec sum = shift;
        for (int k = 0; k < TAPS; k++) sum += w[k] * load(wide + (t + k * dilation) * LANES);
        sum = snake(sum, b, halves);
#ifdef __AVX512BF16__
        if (halves) {
            _mm256_storeu_si256((__m256i *)((half *)y + t * channels), (__m256i)_mm512_cvtneps_pbh((__m512)sum));
            continue;
        }
#endif
        store((float *)y + t * channels, sum);
    }
}

/* y (batch, time, channels) = x + pointwise(snake(depthwise(snake(x)))) in the middle of x (batch, time + 2 reach,
 * channels). Channels are a multiple of LANES; scratch is what each job works in. */
void residual_unit(const float *x, const float *alpha, const float *taps, const float *taps_bias, const float *beta,
                   const void *w, idx halves, const float *bias, float *y, idx batch, idx time, idx channels,
                   idx dilation) {
    idx reach = TAPS / 2 * dilation, tall = 65536 / channels / ROWS * ROWS;
    tall = tall > TALL ? TALL : tall < 4 * ROWS ? 4 * ROWS : tall;
    idx down = (time + tall - 1) / tall;
#pragma omp parallel
    {
        float *wide = malloc((tall + 2 * reach) * LANES * sizeof *wide), *mixed = malloc(tall * channels * sizeof *mixed);
#pragma omp for schedule(dynamic)
        for (idx job = 0; job < batch * down; job++) {
            idx row = job % down * tall, rows = min_(tall, time - row);
            const float *from = x + (job / down * (time + 2 * reach) + row) * channels;
            for (idx c = 0; c < channels; c += LANES)
                if (halves)
                    column_of_unit(1, from + c, channels, alpha + c, taps + c, taps_bias + c, beta + c, wide,
                                   (half *)mixed + c, rows, dilation);
                else
                    column_of_unit(0, from + c, channels, alpha + c, taps + c, taps_bias + c, beta + c, wide, mixed + c,
                                   rows, dilation);
            Target to = {y + (job / down * time + row) * channels, channels, bias, NULL, from + reach * channels, channels};
            product((Rows){mixed, channels, (int)halves}, w, to, rows, channels, channels, 0,
                    (channels + COLUMNS - 1) / COLUMNS);
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
