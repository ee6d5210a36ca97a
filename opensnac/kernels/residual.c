/* A residual unit for training, x + pointwise(snake(depthwise(snake(x)))), forward and backward.
 *
 * Both work in tiles that stay in the cache. Forward saves nothing; backward recomputes what it needs, which is faster
 * than reading it from memory. Gradients of weights are summed tile by tile, and the tiles do not depend on the number
 * of threads.
 */
#include "outer.h"
#include "product.h"

#define TILE 16384 /* floats per tile: a few tiles fit the L2 cache */
#define SPAN 2048  /* steps per job, which sums its gradients of weights in one place */
#define STRIP 64   /* steps of the last pass that fit the L1 cache */
#define VECTORS_OF_GRADIENTS (TAPS + 4)

/* Channels are a multiple of WIDTH. Members from dy on are for backward only. */
typedef struct {
    const float *x, *alpha, *taps, *taps_bias, *beta, *w, *bias; /* w: the packed matrix, for backward its transpose */
    float *y;                                                    /* forward's output */
    idx batch, time, channels, dilation;
    const float *dy;
    float *middle;  /* the gradient at the depthwise convolution's output, from the first pass to the second */
    float *dx;
    float *partial; /* (batch x jobs, channels + 11, channels): of the matrix, the taps, their bias, beta, bias, alpha;
                       or NULL, if only dx is wanted */
} Residual;

typedef struct {
    idx clip, begin, end; /* the clip's first float, and steps in it */
} Tile;

static idx tile_of(idx channels) { return max_(4 * ROWS, min_(512, TILE / channels)); }

static idx span_of(idx channels) { return max_(1, SPAN / tile_of(channels)) * tile_of(channels); }

/* Jobs per clip. */
EXPORT idx residual_jobs(idx time, idx channels) { return (time + span_of(channels) - 1) / span_of(channels); }

/* Floats of scratch per thread. */
EXPORT idx residual_scratch(idx channels, idx dilation) {
    idx tile = tile_of(channels);
    return 2 * tile * channels + (tile + (TAPS - 1) * dilation) * LANES;
}

/* A job's steps, to be cut into tiles. */
static Tile span_at(const Residual *run, idx job) {
    idx span = span_of(run->channels), per_clip = residual_jobs(run->time, run->channels);
    idx begin = job % per_clip * span;
    return (Tile){job / per_clip * run->time * run->channels, begin, min_(run->time, begin + span)};
}

/* The tile of a span that begins at `begin`; empty at the span's end. */
static Tile next_tile(const Residual *run, Tile span, idx begin) {
    return (Tile){span.clip, begin, min_(span.end, begin + tile_of(run->channels))};
}

/* Snake of LANES channels for a tile and its taps' context on both sides; zeros outside the clip. */
INLINE void first_snake(const Residual *run, Tile tile, idx c, float *wide) {
    Snake a = snake_of(run->alpha + c, 0);
    const float *x = run->x + tile.clip + c;
    idx reach = TAPS / 2 * run->dilation, first = tile.begin - reach, last = tile.end + reach, t = first;
    for (; t < min_(0, last); t++) store(wide + (t - first) * LANES, splat(0));
    for (; t < min_(run->time, last); t++) store(wide + (t - first) * LANES, snake(load(x + t * run->channels), &a, 0));
    for (; t < last; t++) store(wide + (t - first) * LANES, splat(0));
}

static void forward_tile(const Residual *run, Tile tile, float *scratch) {
    idx channels = run->channels, rows = tile.end - tile.begin, at = tile.clip + tile.begin * channels;
    float *mixed = scratch, *wide = mixed + 2 * tile_of(channels) * channels;
    for (idx c = 0; c < channels; c += LANES) {
        first_snake(run, tile, c, wide);
        Snake b = snake_of(run->beta + c, 0);
        vec shift = load(run->taps_bias + c), w[TAPS];
        for (int k = 0; k < TAPS; k++) w[k] = load(run->taps + k * channels + c);
        for (idx t = 0; t < rows; t++) {
            vec sum = shift;
            for (int k = 0; k < TAPS; k++) sum = muladd(w[k], load(wide + (t + k * run->dilation) * LANES), sum);
            store(mixed + t * channels + c, snake(sum, &b, 0));
        }
    }
    Target to = {run->y + at, channels, run->bias, NULL, run->x + at, channels};
    product((Rows){mixed, channels, 0}, run->w, to, rows, channels, channels, 0, (channels + COLUMNS - 1) / COLUMNS);
}

static void forward_job(const void *arguments, idx job, float *scratch) {
    Tile span = span_at(arguments, job);
    for (Tile tile = next_tile(arguments, span, span.begin); tile.begin < tile.end;
         tile = next_tile(arguments, span, tile.end))
        forward_tile(arguments, tile, scratch);
}

static void add_to(float *at, vec v) { store(at, load(at) + v); }

/* From dy back to the depthwise convolution's output, for LANES channels of a tile; `gradient` is dy times the matrix. */
INLINE void back_to_middle(const Residual *run, Tile tile, idx c, const float *wide, const float *gradient, float *mixed,
                           float *sums) {
    idx channels = run->channels, dilation = run->dilation, rows = tile.end - tile.begin;
    float *middle = run->middle + tile.clip + tile.begin * channels + c;
    Snake b = snake_of(run->beta + c, 0);
    vec shift = load(run->taps_bias + c), w[TAPS];
    vec of_beta = splat(0), of_bias = splat(0), of_taps[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(run->taps + k * channels + c), of_taps[k] = splat(0);
    for (idx t = 0; t < rows; t++) {
        vec sum = shift;
        for (int k = 0; k < TAPS; k++) sum = muladd(w[k], load(wide + (t + k * dilation) * LANES), sum);
        Slopes s = slopes(sum, &b);
        vec g = load(gradient + t * channels + c);
        of_beta = muladd(g, s.by_a, of_beta);
        store(mixed + t * channels + c, s.value);
        store(middle + t * channels, g * s.by_v);
    }
    if (!sums) return;
    for (idx t = 0; t < rows; t++) {
        vec g = load(middle + t * channels);
        of_bias = of_bias + g;
        for (int k = 0; k < TAPS; k++) of_taps[k] = muladd(g, load(wide + (t + k * dilation) * LANES), of_taps[k]);
    }
    for (int k = 0; k < TAPS; k++) add_to(sums + k * channels + c, of_taps[k]);
    add_to(sums + TAPS * channels + c, of_bias);
    add_to(sums + (TAPS + 1) * channels + c, by_alpha(of_beta, run->beta + c));
}

static void middle_tile(const Residual *run, Tile tile, float *matrix, float *scratch) {
    idx channels = run->channels, rows = tile.end - tile.begin, panels = (channels + COLUMNS - 1) / COLUMNS;
    const float *dy = run->dy + tile.clip + tile.begin * channels;
    float *gradient = scratch, *mixed = gradient + tile_of(channels) * channels, *wide = mixed + tile_of(channels) * channels;
    float *sums = matrix ? matrix + channels * channels : NULL;
    product((Rows){dy, channels, 0}, run->w, (Target){gradient, channels}, rows, channels, channels, 0, panels);
    for (idx c = 0; c < channels; c += LANES) {
        first_snake(run, tile, c, wide);
        back_to_middle(run, tile, c, wide, gradient, mixed, sums);
    }
    if (!matrix) return;
    outer((Matrix){matrix, channels}, dy, channels, mixed, channels, rows, channels, channels);
    for (idx c = 0; c < channels; c += LANES) {
        vec sum = splat(0);
        for (idx t = 0; t < rows; t++) sum = sum + load(dy + t * channels + c);
        add_to(sums + (TAPS + 2) * channels + c, sum);
    }
}

/* Where a job sums its gradients of weights; NULL if they are not wanted. */
static float *gradients_of(const Residual *run, idx job) {
    if (!run->partial) return NULL;
    return run->partial + job * (run->channels + VECTORS_OF_GRADIENTS) * run->channels;
}

static void middle_job(const void *arguments, idx job, float *scratch) {
    const Residual *run = arguments;
    float *gradients = gradients_of(run, job);
    if (gradients) memset(gradients, 0, (run->channels + VECTORS_OF_GRADIENTS) * run->channels * sizeof *gradients);
    Tile span = span_at(run, job);
    for (Tile tile = next_tile(run, span, span.begin); tile.begin < tile.end; tile = next_tile(run, span, tile.end))
        middle_tile(run, tile, gradients, scratch);
}

/* From the depthwise convolution's output back to x, for LANES channels and steps [begin, end), whose taps lie `inside`
 * the clip or not. */
INLINE vec back_to_x(const Residual *run, Tile tile, idx c, idx begin, idx end, const int inside, vec of_alpha) {
    idx channels = run->channels;
    const float *x = run->x + tile.clip + c, *dy = run->dy + tile.clip + c, *middle = run->middle + tile.clip + c;
    float *dx = run->dx + tile.clip + c;
    Snake a = snake_of(run->alpha + c, 0);
    vec w[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(run->taps + (TAPS - 1 - k) * channels + c);
    for (idx t = begin; t < end; t++) {
        vec g = splat(0);
        for (int k = 0; k < TAPS; k++) {
            idx from = t + (k - TAPS / 2) * run->dilation;
            if (inside || (from >= 0 && from < run->time)) g = muladd(w[k], load(middle + from * channels), g);
        }
        Slopes s = slopes(load(x + t * channels), &a);
        of_alpha = muladd(g, s.by_a, of_alpha);
        store(dx + t * channels, muladd(g, s.by_v, load(dy + t * channels)));
    }
    return of_alpha;
}

static void input_job(const void *arguments, idx job, float *scratch) {
    const Residual *run = arguments;
    (void)scratch;
    Tile span = span_at(run, job);
    idx channels = run->channels, reach = TAPS / 2 * run->dilation;
    float *next = gradients_of(run, job + 1), *of_alpha = next ? next - channels : NULL;
    for (idx begin = span.begin; begin < span.end; begin += STRIP) {
        idx end = min_(span.end, begin + STRIP);
        idx from = max_(begin, min_(end, reach)), to = max_(from, min_(end, run->time - reach));
        for (idx c = 0; c < channels; c += LANES) {
            vec sum = back_to_x(run, span, c, begin, from, 0, splat(0));
            sum = back_to_x(run, span, c, from, to, 1, sum);
            sum = back_to_x(run, span, c, to, end, 0, sum);
            if (of_alpha) add_to(of_alpha + c, by_alpha(sum, run->alpha + c));
        }
    }
}

EXPORT void residual_forward(idx threads, const Residual *run, float *scratch, idx size) {
    share(threads, run->batch * residual_jobs(run->time, run->channels), forward_job, run, scratch, size);
}

EXPORT void residual_backward(idx threads, const Residual *run, float *scratch, idx size) {
    idx jobs = run->batch * residual_jobs(run->time, run->channels);
    share(threads, jobs, middle_job, run, scratch, size);
    share(threads, jobs, input_job, run, NULL, 0);
}
