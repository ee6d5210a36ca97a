/* Residual units in a row, with the noise before and the Snake after them, in one walk along a signal.
 *
 * Each thread takes a stretch of the signal and goes along it in short tiles; what each unit still needs of its input
 * stays in a buffer from tile to tile, so that nothing but the ends of the row passes through memory.
 */
#include "product.h"
#include <stdlib.h>

#define TILE 32768 /* floats of a tile: a handful of them stays in the second cache */
#define MOST 8     /* units in a row */

/* A residual unit, x + pointwise(snake(depthwise(snake(x)))), and where it stands in each clip of a batch. */
typedef struct {
    const float *alpha, *taps, *taps_bias, *beta;
    const void *w;
    const float *bias;
    const float *tail; /* (batch, keep, channels): its input before x, or null for zeros */
    float *new_tail;   /* what it keeps of its input now */
    const idx *start;  /* (batch) position of the first new step of its input */
    idx dilation;
} Unit;

/* The row, and what goes through it: x (batch, rows, channels), which becomes y of as many, clips y_clip apart. */
typedef struct {
    const Unit *units;
    idx count;
    const void *noise; /* its matrix, or null */
    const float *e;    /* (1 or batch, rows), clips e_clip apart */
    idx e_clip;
    const float *alpha;          /* of the Snake after the units, or null */
    idx halves;                  /* whether products are in bfloat16 */
    const idx *length;           /* (batch) steps of each clip, counted from position 0 */
    const float *x;
    void *y; /* floats, or, after a Snake and if y_halves, bfloat16 */
    idx y_halves, y_clip;
    idx rows, channels;
} Run;

/* What a unit has of its input: `have` steps, the last of them new. */
typedef struct {
    float *at;
    idx have;
} Input;

static inline idx keep_of(const Unit *unit) { return (TAPS - 1) * unit->dilation; }

static void copy(float *to, const float *from, idx count) { memmove(to, from, count * sizeof *to); }

/* To element `at` of `to`, floats or halves. */
INLINE void store_as(const int halves, void *to, idx at, vec v) {
#ifdef __AVX512BF16__
    if (halves) {
        _mm256_storeu_si256((__m256i *)((half *)to + at), (__m256i)_mm512_cvtneps_pbh((__m512)v));
        return;
    }
#endif
    store((float *)to + at, v);
}

/* Zeros for those of `rows` steps from `position` on that lie before a clip's beginning or beyond its end. */
static void silence(float *at, idx channels, idx rows, idx position, idx length) {
    for (idx i = 0; i < rows; i++)
        if (position + i < 0 || position + i >= length) memset(at + i * channels, 0, channels * sizeof *at);
}

/* Snake, depthwise convolution and Snake again of LANES channels: `rows` rows from as many and `keep` of x. They become
 * floats or halves. */
INLINE void column_of_unit(const int halves, const float *x, idx channels, const Unit *unit, idx c, float *wide, void *y,
                           idx rows) {
    Snake a = snake_of(unit->alpha + c, halves), b = snake_of(unit->beta + c, halves);
    idx dilation = unit->dilation;
    vec shift = load(unit->taps_bias + c), w[TAPS];
    for (int k = 0; k < TAPS; k++) w[k] = load(unit->taps + c + k * channels);
    for (idx t = 0; t < rows + (TAPS - 1) * dilation; t++) store(wide + t * LANES, snake(load(x + t * channels + c), &a, halves));
    for (idx t = 0; t < rows; t++) {
        vec sum = shift;
        for (int k = 0; k < TAPS; k++) sum += w[k] * load(wide + (t + k * dilation) * LANES);
        store_as(halves, y, t * channels + c, snake(sum, &b, halves));
    }
}

/* `rows` rows of a unit's output from as many and `keep` of x. */
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

/* `rows` steps of x, with noise, to the first unit's input. */
static void enter(const Run *run, idx clip, idx row, idx rows, float *to, float *mixed) {
    idx channels = run->channels;
    const float *x = run->x + (clip * run->rows + row) * channels;
    if (!run->noise) {
        copy(to, x, rows * channels);
        return;
    }
    for (idx i = 0; run->halves && i < rows * channels; i += LANES) store_as(1, mixed, i, load(x + i));
    Target target = {to, channels, NULL, run->e + clip * run->e_clip + row, x, channels};
    product((Rows){run->halves ? mixed : x, channels, (int)run->halves}, run->noise, target, rows, channels, channels, 0,
            (channels + COLUMNS - 1) / COLUMNS);
}

/* Snake on the way out to `rows` rows of y from element `at` on. */
INLINE void leave(const int halves, const Run *run, const float *from, idx at, idx rows) {
    for (idx c = 0; c < run->channels; c += LANES) {
        Snake s = snake_of(run->alpha + c, halves);
        for (idx i = c; i < rows * run->channels; i += run->channels)
            store_as(halves, run->y, at + i, snake(load(from + i), &s, halves));
    }
}

/* Rows [first, last) of a clip's output. A stretch that does not begin the signal starts early by what its units keep. */
static void walk(const Run *run, idx clip, idx first, idx last, idx tile, float *memory) {
    idx channels = run->channels, early = 0;
    Input inputs[MOST];
    for (idx u = 0; u < run->count; u++) {
        const Unit *unit = run->units + u;
        idx keep = keep_of(unit);
        inputs[u] = (Input){memory, first ? 0 : keep};
        if (!first && unit->tail)
            copy(memory, unit->tail + clip * keep * channels, keep * channels);
        else
            memset(memory, 0, keep * channels * sizeof *memory);
        memory += (keep + tile) * channels;
        early += keep;
    }
    float *mixed = memory, *out = mixed + tile * channels, *wide = out + tile * channels;
    for (idx row = first ? first - early : 0, end; row < last; row = end) {
        end = min_(row + tile, last);
        idx rows = end - row;
        float *to = inputs[0].at + inputs[0].have * channels;
        enter(run, clip, row, rows, to, mixed);
        for (idx u = 0; u < run->count && rows > 0; u++) {
            const Unit *unit = run->units + u;
            Input *input = inputs + u, *next = input + 1;
            idx keep = keep_of(unit), had = input->have + rows;
            silence(to, channels, rows, unit->start[clip] + end - rows, run->length[clip]);
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
            leave(1, run, out, at, rows);
        else if (rows > 0 && run->alpha)
            leave(0, run, out, at, rows);
    }
    for (idx u = 0; u < run->count && last == run->rows; u++) {
        idx size = keep_of(run->units + u) * channels;
        copy(run->units[u].new_tail + clip * size, inputs[u].at, size);
    }
}

/* y = the row of x. Each clip is worked on in `parts` stretches, all but the first at least as far from the beginning
 * as its units keep steps together. Channels are a multiple of LANES. */
void units(const Unit *row, idx count, const void *noise, const float *e, idx e_clip, const float *alpha, idx halves,
           const idx *length, const float *x, void *y, idx y_halves, idx y_clip, idx batch, idx rows, idx channels,
           idx parts) {
    idx tile = TILE / channels / ROWS * ROWS, kept = 0, most = 0;
    tile = tile > TALL ? TALL : tile < 4 * ROWS ? 4 * ROWS : tile;
    for (idx u = 0; u < count; u++) {
        idx keep = keep_of(row + u);
        kept += keep;
        most = keep > most ? keep : most;
    }
    Run run = {row, count, noise, e, e_clip, alpha, halves, length, x, y, y_halves, y_clip, rows, channels};
    idx size = (kept + (count + 2) * tile) * channels + (most + tile) * LANES;
#pragma omp parallel
    {
        float *memory = malloc(size * sizeof *memory);
#pragma omp for schedule(dynamic)
        for (idx job = 0; job < batch * parts; job++) {
            idx part = job % parts;
            walk(&run, job / parts, rows * part / parts, rows * (part + 1) / parts, tile, memory);
        }
        free(memory);
    }
}
