/* Products with packed weights, a convolution to one channel, and the search for codebook entries. */
#include "product.h"

#define WIDE 8      /* panels of columns per job */
#define SEARCHES 64 /* vectors per job */

EXPORT int has_bfloat16(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

typedef struct {
    Rows a;
    const void *w;
    Target y;
    idx a_clip, scale_clip, add_clip, rows, depth, columns, down, across;
} Linear;

static void linear_job(const void *arguments, idx job, float *scratch) {
    const Linear *l = arguments;
    (void)scratch;
    idx clip = job / (l->down * l->across), row = job / l->across % l->down * TALL, panel = job % l->across * WIDE;
    idx panels = (l->columns + COLUMNS - 1) / COLUMNS;
    Rows from = {(const char *)l->a.at + clip * l->a_clip * size_of(l->a.halves), l->a.stride, l->a.halves};
    Target to = l->y;
    to.at += clip * l->rows * l->columns;
    if (to.scale) to.scale += clip * l->scale_clip;
    if (to.add) to.add += clip * l->add_clip;
    product(rows_from(from, row, 0), l->w, target_from(to, row, 0), min_(TALL, l->rows - row), l->depth, l->columns, panel,
            min_(panels, panel + WIDE));
}

/* y (batch, rows, columns) = (a w + bias) * scale + add. Rows of a, floats or halves as w, lie a_stride apart and may
 * overlap; columns are a multiple of WIDTH; scale is one number a row, for each clip or for all of them (scale_clip 0);
 * bias, scale and add may be null. */
EXPORT void linear(idx threads, const void *a, idx a_clip, idx a_stride, const void *w, idx halves, const float *bias,
                   const float *scale, idx scale_clip, const float *add, float *y, idx batch, idx rows, idx depth,
                   idx columns) {
    idx panels = (columns + COLUMNS - 1) / COLUMNS, across = (panels + WIDE - 1) / WIDE, down = (rows + TALL - 1) / TALL;
    Linear l = {{a, a_stride, (int)halves}, w, {y, columns, bias, scale, add, columns}, a_clip, scale_clip,
                rows * columns, rows, depth, columns, down, across};
    share(threads, batch * down * across, linear_job, &l, NULL, 0);
}

/* `rows` dot products over `depth` neighbouring values, on overlapping rows: a convolution to one channel. */
INLINE void rows_of_single(const int rows, const float *a, idx a_stride, const float *w, float bias, float *y, idx depth) {
    vec sum[4][VECTORS];
    for (int i = 0; i < 4 * VECTORS; i++) sum[i / VECTORS][i % VECTORS] = splat(0);
    idx k = 0;
    for (; k + WIDTH <= depth; k += WIDTH)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++)
                sum[r][v] = muladd(load(a + r * a_stride + k + v * LANES), load(w + k + v * LANES), sum[r][v]);
    for (int r = 0; r < rows; r++) {
        float total = bias;
        for (int i = 0; i < WIDTH; i++) total += sum[r][i / LANES][i % LANES];
        for (idx rest = k; rest < depth; rest++) total += a[r * a_stride + rest] * w[rest];
        y[r] = total;
    }
}

typedef struct {
    const float *a, *w, *bias;
    float *y;
    idx a_clip, a_stride, rows, depth, down;
} Single;

static void single_job(const void *arguments, idx job, float *scratch) {
    const Single *s = arguments;
    (void)scratch;
    idx clip = job / s->down, row = job % s->down * TALL, end = min_(s->rows, row + TALL);
    const float *from = s->a + clip * s->a_clip;
    float *to = s->y + clip * s->rows;
    for (; row + 4 <= end; row += 4) rows_of_single(4, from + row * s->a_stride, s->a_stride, s->w, *s->bias, to + row, s->depth);
    for (; row < end; row++) rows_of_single(1, from + row * s->a_stride, s->a_stride, s->w, *s->bias, to + row, s->depth);
}

/* y (batch, rows) = a w + bias: a as in linear, w (depth). */
EXPORT void single(idx threads, const float *a, idx a_clip, idx a_stride, const float *w, const float *bias, float *y,
                   idx batch, idx rows, idx depth) {
    Single s = {a, w, bias, y, a_clip, a_stride, rows, depth, (rows + TALL - 1) / TALL};
    share(threads, batch * s.down, single_job, &s, NULL, 0);
}

typedef struct {
    const float *vectors, *entries;
    int64_t *index;
    idx count, dim, size;
} Nearest;

static idx nearest_to(const float *vector, const Nearest *n) {
    float best = -3.0e38f;
    idx found = 0;
    for (idx group = 0; group * WIDTH < n->size; group++) {
        vec sum[VECTORS];
        for (int v = 0; v < VECTORS; v++) sum[v] = splat(0);
        for (idx d = 0; d < n->dim; d++)
            for (int v = 0; v < VECTORS; v++)
                sum[v] = muladd(splat(vector[d]), load(n->entries + (group * n->dim + d) * WIDTH + v * LANES), sum[v]);
        for (idx i = 0; i < min_(WIDTH, n->size - group * WIDTH); i++)
            if (sum[i / LANES][i % LANES] > best) best = sum[i / LANES][i % LANES], found = group * WIDTH + i;
    }
    return found;
}

static void nearest_job(const void *arguments, idx job, float *scratch) {
    const Nearest *n = arguments;
    (void)scratch;
    for (idx i = job * SEARCHES; i < min_(n->count, (job + 1) * SEARCHES); i++)
        n->index[i] = nearest_to(n->vectors + i * n->dim, n);
}

/* For each of `count` vectors the entry with the largest dot product, of ties the first. entries (groups, dim, WIDTH),
 * `size` of them; padding in the last group is ignored. */
EXPORT void nearest(idx threads, const float *vectors, const float *entries, int64_t *index, idx count, idx dim, idx size) {
    Nearest n = {vectors, entries, index, count, dim, size};
    share(threads, (count + SEARCHES - 1) / SEARCHES, nearest_job, &n, NULL, 0);
}
