/* Snake and depthwise convolution over time-major float32 arrays (batch, time, channels), forward and backward.
 *
 * Channels are a multiple of WIDTH. Sums over time are computed in tiles of fixed size that are added in order, so
 * results do not depend on the number of threads.
 */
#include "vector.h"

#define TILE 1024 /* steps of time in one partial sum */
#define STRIP 64  /* steps of a job without sums: all their channels stay in the L1 or L2 cache */

EXPORT idx tiles(idx time) { return (time + TILE - 1) / TILE; }

static idx strips(idx time) { return (time + STRIP - 1) / STRIP; }

typedef struct {
    const float *x, *alpha, *dy;
    float *y, *dx, *partial;
    idx rows, channels;
} SnakeRun;

static void snake_job(const void *arguments, idx strip, float *scratch) {
    const SnakeRun *run = arguments;
    (void)scratch;
    idx channels = run->channels;
    for (idx c = 0; c < channels; c += LANES) {
        Snake of = snake_of(run->alpha + c, 0);
        for (idx t = strip * STRIP; t < min_(run->rows, (strip + 1) * STRIP); t++)
            store(run->y + t * channels + c, snake(load(run->x + t * channels + c), &of, 0));
    }
}

/* y = x + sin^2(alpha x) / alpha */
EXPORT void snake_forward(idx threads, const float *x, const float *alpha, float *y, idx rows, idx channels) {
    SnakeRun run = {x, alpha, NULL, y, NULL, NULL, rows, channels};
    share(threads, strips(rows), snake_job, &run, NULL, 0);
}

static void snake_backward_job(const void *arguments, idx tile, float *scratch) {
    const SnakeRun *run = arguments;
    (void)scratch;
    idx channels = run->channels, last = min_(run->rows, (tile + 1) * TILE);
    float *partial = run->partial + tile * channels;
    for (idx c = 0; c < channels; c += LANES) store(partial + c, splat(0));
    for (idx begin = tile * TILE; begin < last; begin += STRIP)
        for (idx c = 0; c < channels; c += LANES) {
            Snake of = snake_of(run->alpha + c, 0);
            vec sum = splat(0);
            for (idx t = begin; t < min_(last, begin + STRIP); t++) {
                Slopes s = slopes(load(run->x + t * channels + c), &of);
                vec g = load(run->dy + t * channels + c);
                store(run->dx + t * channels + c, g * s.by_v);
                sum = muladd(g, s.by_a, sum);
            }
            store(partial + c, load(partial + c) + by_alpha(sum, run->alpha + c));
        }
}

/* dx, and each tile's share of dalpha: partial (tiles, channels). */
EXPORT void snake_backward(idx threads, const float *x, const float *alpha, const float *dy, float *dx, float *partial,
                           idx rows, idx channels) {
    SnakeRun run = {x, alpha, dy, NULL, dx, partial, rows, channels};
    share(threads, tiles(rows), snake_backward_job, &run, NULL, 0);
}

typedef struct {
    const float *x, *taps, *bias, *dy;
    float *y, *partial;
    idx time, channels, dilation;
} DepthwiseRun;

/* Steps [begin, end) of one clip; taps outside it see zeros. */
INLINE void depthwise_steps(const float *x, const vec *w, vec b, float *y, idx begin, idx end, const DepthwiseRun *run,
                            int inside) {
    for (idx t = begin; t < end; t++) {
        vec sum = b;
        for (int k = 0; k < TAPS; k++) {
            idx from = t + (k - TAPS / 2) * run->dilation;
            if (inside || (from >= 0 && from < run->time)) sum = muladd(w[k], load(x + from * run->channels), sum);
        }
        store(y + t * run->channels, sum);
    }
}

static void depthwise_job(const void *arguments, idx job, float *scratch) {
    const DepthwiseRun *run = arguments;
    (void)scratch;
    idx time = run->time, channels = run->channels, per_clip = strips(time), reach = TAPS / 2 * run->dilation;
    idx clip = job / per_clip * time * channels, begin = job % per_clip * STRIP, end = min_(time, begin + STRIP);
    idx from = max_(begin, min_(end, reach)), to = max_(from, min_(end, time - reach));
    for (idx c = 0; c < channels; c += LANES) {
        vec w[TAPS], b = run->bias ? load(run->bias + c) : splat(0);
        for (int k = 0; k < TAPS; k++) w[k] = load(run->taps + k * channels + c);
        const float *in = run->x + clip + c;
        float *out = run->y + clip + c;
        depthwise_steps(in, w, b, out, begin, from, run, 0);
        depthwise_steps(in, w, b, out, from, to, run, 1);
        depthwise_steps(in, w, b, out, to, end, run, 0);
    }
}

/* taps (7, channels); bias may be null. The gradient of x is the same sum with the taps reversed. */
EXPORT void depthwise_forward(idx threads, const float *x, const float *taps, const float *bias, float *y, idx batch,
                              idx time, idx channels, idx dilation) {
    DepthwiseRun run = {x, taps, bias, NULL, y, NULL, time, channels, dilation};
    share(threads, batch * strips(time), depthwise_job, &run, NULL, 0);
}

static void weight_gradient_job(const void *arguments, idx job, float *scratch) {
    const DepthwiseRun *run = arguments;
    (void)scratch;
    idx time = run->time, channels = run->channels, per_clip = tiles(time);
    idx clip = job / per_clip * time * channels, begin = job % per_clip * TILE, end = min_(time, begin + TILE);
    for (idx c = 0; c < channels; c += LANES) {
        vec sum[TAPS + 1];
        for (int k = 0; k <= TAPS; k++) sum[k] = splat(0);
        for (idx t = begin; t < end; t++) {
            vec g = load(run->dy + clip + t * channels + c);
            sum[TAPS] = sum[TAPS] + g;
            for (int k = 0; k < TAPS; k++) {
                idx from = t + (k - TAPS / 2) * run->dilation;
                if (from >= 0 && from < time) sum[k] = muladd(g, load(run->x + clip + from * channels + c), sum[k]);
            }
        }
        for (int k = 0; k <= TAPS; k++) store(run->partial + (job * (TAPS + 1) + k) * channels + c, sum[k]);
    }
}

/* Each tile's share of the taps' and the bias' gradients: partial (batch x tiles, 8, channels), bias last. */
EXPORT void depthwise_weight_gradient(idx threads, const float *x, const float *dy, float *partial, idx batch, idx time,
                                      idx channels, idx dilation) {
    DepthwiseRun run = {x, NULL, NULL, dy, NULL, partial, time, channels, dilation};
    share(threads, batch * tiles(time), weight_gradient_job, &run, NULL, 0);
}
