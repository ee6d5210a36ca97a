/* Consecutive residual units, with the noise before and the Snake after them, in one pass along a signal.
 *
 * Each thread processes a stretch of the signal in short tiles; each unit's context stays in a buffer from tile to tile,
 * so that only the first input and the last output pass through memory.
 */
#include "product.h"

#define TILE 32768 /* floats per tile: a few tiles fit the L2 cache */

/* A residual unit, x + pointwise(snake(depthwise(snake(x)))). */
typedef struct {
    const float *alpha, *taps, *taps_bias, *beta;
    const void *w;
    const float *bias;
    idx dilation;
} Unit;

/* Consecutive units, their input x (batch, rows, channels) and output y of as many rows. */
typedef struct {
    const Unit *units;
    idx count;
    const void *noise;  /* the matrix of the noise before the units, or null */
    const float *alpha; /* of the Snake after the units, or null */
    idx halves;         /* whether products are in bfloat16 */
    const float *e;     /* (1 or batch, rows): noise drawn, clips e_clip apart, or null */
    idx e_clip;
    const float *const *tails; /* of each unit (batch, keep, channels): its context, the input before x */
    float *const *new_tails;   /* its context for the next piece */
    const idx *starts;         /* (units, batch) position of the first new step of a unit's input */
    const idx *ends;           /* (batch) steps of each clip, counted from position 0 */
    const float *x;
    void *y; /* floats, or, after a Snake and if y_halves, bfloat16; clips y_clip apart */
    idx y_halves, y_clip, batch, rows, channels, parts;
} Run;

/* A unit's input buffer: `have` steps, the last of them new. */
typedef struct {
    float *at;
    idx have;
} Input;

static inline idx keep_of(const Unit *unit) { return (TAPS - 1) * unit->dilation; }

static void copy(float *to, const float *from, idx count) { memmove(to, from, count * sizeof *to); }

/* Store v at element `at` of `to`, floats or halves. */
INLINE void store_as(const int halves, void *to, idx at, vec v) {
    (void)halves;
#ifdef __AVX512BF16__
    if (halves) {
        _mm256_storeu_si256((__m256i *)((half *)to + at), (__m256i)_mm512_cvtneps_pbh((__m512)v));
        return;
    }
#endif
    store((float *)to + at, v);
}

/* Zero those of `rows` steps from `position` on that lie before a clip's start or beyond its end. */
static void silence(float *at, idx channels, idx rows, idx position, idx end) {
    for (idx i = 0; i < rows; i++)
        if (position + i < 0 || position + i >= end) memset(at + i * channels, 0, channels * sizeof *at);
}

/* Snake, depthwise convolution and Snake of LANES channels: `rows` rows from `rows` and the context of x, stored as
 * floats or halves. */
INLINE void column_of_unit(const int halves, const float *x, idx channels, const Unit *unit, idx c, float *wide, void *y,
                           idx rows) {
    Snake a = snake_of(unit->alpha + c, halves), b = snake_of(unit->beta + c, halves);
    idx dilation = unit->dilation;
    vec shift = load(unit->taps_bias + c), w[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(unit->taps + c + k * channels);
    for (idx t = 0; t < rows + keep_of(unit); t++) store(wide + t * LANES, snake(load(x + t * channels + c), &a, halves));
    for (idx t = 0; t < rows; t++) {
        vec sum = shift;
        for (int k = 0; k < TAPS; k++) sum = muladd(w[k], load(wide + (t + k * dilation) * LANES), sum);
        store_as(halves, y, t * channels + c, snake(sum, &b, halves));
    }
}

/* `rows` rows of a unit's output from `rows` and the context of x. */
static void pass_unit(const Run *run, const Unit *unit, const float *x, float *y, idx rows, float *wide, float *mixed) {
    idx channels = run->channels;
    for (idx c = 0; c < channels; c += LANES)
        if (run->halves)
            column_of_unit(1, x, channels, unit, c, wide, mixed, rows);
        else
            column_of_unit(0, x, channels, unit, c, wide, mixed, rows);
    Target to = {y, channels, unit->bias, NULL, x + keep_of(unit) / 2 * channels, channels};
    product((Rows){mixed, channels, (int)run->halves}, unit->w, to, rows, channels, channels, 0,
            (channels + COLUMNS - 1) / COLUMNS);
}

/* `rows` steps of x, with noise added, to the first unit's input. */
static void add_noise(const Run *run, idx clip, idx row, idx rows, float *to, float *mixed) {
    idx channels = run->channels;
    const float *x = run->x + (clip * run->rows + row) * channels;
    if (!run->e) {
        copy(to, x, rows * channels);
        return;
    }
    for (idx i = 0; run->halves && i < rows * channels; i += LANES) store_as(1, mixed, i, load(x + i));
    Target target = {to, channels, NULL, run->e + clip * run->e_clip + row, x, channels};
    product((Rows){run->halves ? mixed : x, channels, (int)run->halves}, run->noise, target, rows, channels, channels, 0,
            (channels + COLUMNS - 1) / COLUMNS);
}

/* The Snake after the units, for `rows` rows of y from element `at` on. */
INLINE void apply_snake(const int halves, const Run *run, const float *from, idx at, idx rows) {
    for (idx c = 0; c < run->channels; c += LANES) {
        Snake s = snake_of(run->alpha + c, halves);
        for (idx i = c; i < rows * run->channels; i += run->channels)
            store_as(halves, run->y, at + i, snake(load(from + i), &s, halves));
    }
}

static idx tile_of(idx channels) { return max_(4 * ROWS, min_(TALL, TILE / channels / ROWS * ROWS)); }

static idx floats_of_inputs(idx count) { return (count * (idx)(sizeof(Input) / sizeof(float)) + WIDTH - 1) / WIDTH * WIDTH; }

/* Floats of scratch per thread. */
EXPORT idx units_scratch(const Unit *units, idx count, idx channels) {
    idx tile = tile_of(channels), kept = 0, most = 0;
    for (idx u = 0; u < count; u++) kept += keep_of(units + u), most = max_(most, keep_of(units + u));
    return floats_of_inputs(count) + (kept + (count + 2) * tile) * channels + (most + tile) * WIDTH;
}

/* Every unit's input buffer before row `first`: its tail at the start, else empty. */
static Input *open_inputs(const Run *run, idx clip, idx first, float **scratch) {
    Input *inputs = (Input *)*scratch;
    *scratch += floats_of_inputs(run->count);
    for (idx u = 0; u < run->count; u++) {
        idx size = keep_of(run->units + u) * run->channels;
        inputs[u] = (Input){*scratch, first ? 0 : keep_of(run->units + u)};
        if (!first) copy(*scratch, run->tails[u] + clip * size, size);
        *scratch += size + tile_of(run->channels) * run->channels;
    }
    return inputs;
}

/* Rows [first, last) of a clip's output. A stretch inside the signal starts early, by its units' context. */
static void walk(const Run *run, idx clip, idx first, idx last, float *scratch) {
    idx channels = run->channels, tile = tile_of(channels), early = 0;
    for (idx u = 0; first && u < run->count; u++) early += keep_of(run->units + u);
    Input *inputs = open_inputs(run, clip, first, &scratch);
    float *mixed = scratch, *out = mixed + tile * channels, *wide = out + tile * channels;
    for (idx row = first - early, end; row < last; row = end) {
        end = min_(row + tile, last);
        idx rows = end - row;
        float *to = inputs[0].at + inputs[0].have * channels;
        add_noise(run, clip, row, rows, to, mixed);
        for (idx u = 0; u < run->count && rows > 0; u++) {
            const Unit *unit = run->units + u;
            Input *input = inputs + u, *next = input + 1;
            idx keep = keep_of(unit), had = input->have + rows;
            silence(to, channels, rows, run->starts[u * run->batch + clip] + end - rows, run->ends[clip]);
            rows = had - keep;
            to = u + 1 < run->count ? next->at + next->have * channels
                 : run->alpha       ? out
                                    : (float *)run->y + clip * run->y_clip + (end - rows) * channels;
            if (rows > 0) pass_unit(run, unit, input->at, to, rows, wide, mixed);
            input->have = min_(had, keep);
            copy(input->at, input->at + (had - input->have) * channels, input->have * channels);
        }
        idx at = clip * run->y_clip + (end - rows) * channels;
        if (rows > 0 && run->alpha && run->y_halves)
            apply_snake(1, run, out, at, rows);
        else if (rows > 0 && run->alpha)
            apply_snake(0, run, out, at, rows);
    }
    for (idx u = 0; u < run->count && last == run->rows; u++) {
        idx size = keep_of(run->units + u) * channels;
        copy(run->new_tails[u] + clip * size, inputs[u].at, size);
    }
}

static void units_job(const void *arguments, idx job, float *scratch) {
    const Run *run = arguments;
    idx part = job % run->parts;
    walk(run, job / run->parts, run->rows * part / run->parts, run->rows * (part + 1) / run->parts, scratch);
}

/* y = units(x). Each clip is processed in `parts` stretches; all but the first begin no earlier than the units' total
 * context. Channels are a multiple of WIDTH. */
EXPORT void units(idx threads, const Run *run, float *scratch, idx size) {
    share(threads, run->batch * run->parts, units_job, run, scratch, size);
}
