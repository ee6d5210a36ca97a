/* Snake and depthwise convolution over time-major float32 arrays (batch, time, channels), forward and backward.
 *
 * Sixteen channels are worked on at once, and channels come in multiples of that. Sums over
 * time are taken in tiles of fixed size that are added up in order: results do not depend on the number of threads.
 */
#include "vector.h"

#define TILE 1024 /* steps of time that one thread takes at once */

idx tiles(idx time) { return (time + TILE - 1) / TILE; }

/* y = x + sin^2(alpha x) / alpha */
void snake_forward(const float *x, const float *alpha, float *y, idx rows, idx channels) {
#pragma omp parallel for schedule(static)
    for (idx tile = 0; tile < tiles(rows); tile++)
        for (idx c = 0; c < channels; c += LANES) {
            Snake of = snake_of(alpha + c, 0);
            for (idx t = tile * TILE; t < min_(rows, (tile + 1) * TILE); t++)
                store(y + t * channels + c, snake(load(x + t * channels + c), &of, 0));
        }
}

/* dx, and for each tile of rows its share of dalpha: partial (tiles, channels). */
void snake_backward(const float *x, const float *alpha, const float *dy, float *dx, float *partial, idx rows,
                    idx channels) {
#pragma omp parallel for schedule(static)
    for (idx tile = 0; tile < tiles(rows); tile++)
        for (idx c = 0; c < channels; c += LANES) {
            vec a = load(alpha + c), inverse = 1.0f / (a + 1e-9f), sum = {0};
            for (idx t = tile * TILE; t < min_(rows, (tile + 1) * TILE); t++) {
                vec v = load(x + t * channels + c), g = load(dy + t * channels + c);
                vec r = reduce_pi(a * v), s = sine(r), twice = 2.0f * s * cosine(r) * inverse;
                store(dx + t * channels + c, g * (1.0f + twice * a));
                sum += g * (twice * v - s * s * inverse * inverse);
            }
            store(partial + tile * channels + c, sum);
        }
}

/* Steps [begin, end) of one clip; taps that fall outside it see zeros. */
static inline void depthwise_steps(const float *x, const vec *w, vec b, float *y, idx begin, idx end, idx time,
                                   idx channels, idx dilation, int inside) {
    for (idx t = begin; t < end; t++) {
        vec sum = b;
        for (int k = 0; k < TAPS; k++) {
            idx from = t + (k - TAPS / 2) * dilation;
            if (inside || (from >= 0 && from < time)) sum += w[k] * load(x + from * channels);
        }
        store(y + t * channels, sum);
    }
}

/* taps (7, channels); bias may be null. The gradient of x is the same sum with the taps turned round. */
void depthwise_forward(const float *x, const float *taps, const float *bias, float *y, idx batch, idx time,
                       idx channels, idx dilation) {
    idx per_clip = tiles(time), reach = TAPS / 2 * dilation;
#pragma omp parallel for schedule(static)
    for (idx job = 0; job < batch * per_clip; job++) {
        idx clip = job / per_clip * time * channels, begin = job % per_clip * TILE, end = min_(time, begin + TILE);
        idx from = begin > reach ? begin : min_(end, reach), to = time - reach < end ? time - reach : end;
        if (to < from) to = from;
        for (idx c = 0; c < channels; c += LANES) {
            vec w[TAPS], b = {0};
            if (bias) b = load(bias + c);
            for (int k = 0; k < TAPS; k++) w[k] = load(taps + k * channels + c);
            const float *in = x + clip + c;
            float *out = y + clip + c;
            depthwise_steps(in, w, b, out, begin, from, time, channels, dilation, 0);
            depthwise_steps(in, w, b, out, from, to, time, channels, dilation, 1);
            depthwise_steps(in, w, b, out, to, end, time, channels, dilation, 0);
        }
    }
}

/* For each tile its share of the taps' and the bias' gradient: partial (batch x tiles, 8, channels), bias last. */
void depthwise_weight_gradient(const float *x, const float *dy, float *partial, idx batch, idx time, idx channels,
                               idx dilation) {
    idx per_clip = tiles(time);
#pragma omp parallel for schedule(static)
    for (idx job = 0; job < batch * per_clip; job++) {
        idx clip = job / per_clip * time * channels, begin = job % per_clip * TILE, end = min_(time, begin + TILE);
        for (idx c = 0; c < channels; c += LANES) {
            vec sum[TAPS + 1] = {{0}};
            for (idx t = begin; t < end; t++) {
                vec g = load(dy + clip + t * channels + c);
                sum[TAPS] += g;
                for (int k = 0; k < TAPS; k++) {
                    idx from = t + (k - TAPS / 2) * dilation;
                    if (from >= 0 && from < time) sum[k] += g * load(x + clip + from * channels + c);
                }
            }
            for (int k = 0; k <= TAPS; k++) store(partial + (job * (TAPS + 1) + k) * channels + c, sum[k]);
        }
    }
}
