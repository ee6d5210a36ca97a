/* Matrix products known to be symmetric: one half is computed and mirrored. */
#include "product.h"

#define BLOCK 64 /* of the depth, packed together */

typedef struct {
    const float *a, *b;
    float *y;
    idx size, depth, panels;
} Symmetric;

/* COLUMNS rows of b from `row` on in the layout that `product` reads, zero-padded. */
static void pack(const Symmetric *run, const float *b, idx row, float *w) {
    idx rows = min_(COLUMNS, run->size - row);
    if (rows < COLUMNS) memset(w, 0, run->depth * COLUMNS * sizeof *w);
    for (idx k = 0; k < run->depth; k += BLOCK)
        for (idx r = 0; r < rows; r++)
            for (idx i = k; i < min_(run->depth, k + BLOCK); i++) w[i * COLUMNS + r] = b[(row + r) * run->depth + i];
}

/* y[j][i] = y[i][j] for rows [0, column) and the `columns` columns from `column` on, square by square for the cache. */
static void mirror(float *y, idx size, idx column, idx columns) {
    for (idx i = 0; i < column; i += WIDTH)
        for (idx j = column; j < column + columns; j += WIDTH) {
            float square[WIDTH][WIDTH];
            for (idx r = 0; r < WIDTH; r++)
                for (idx c = 0; c < WIDTH; c++) square[c][r] = y[(i + r) * size + j + c];
            for (idx c = 0; c < WIDTH; c++) memcpy(y + (j + c) * size + i, square[c], sizeof square[c]);
        }
}

/* A panel of columns of one product down to its diagonal, and its mirror image. */
static void symmetric_job(const void *arguments, idx job, float *scratch) {
    const Symmetric *run = arguments;
    idx size = run->size, depth = run->depth, which = job / run->panels;
    idx column = (run->panels - 1 - job % run->panels) * COLUMNS; /* the longest first */
    idx columns = min_(COLUMNS, size - column), rows = column + columns;
    const float *a = run->a + which * size * depth;
    float *y = run->y + which * size * size;
    pack(run, run->b + which * size * depth, column, scratch);
    product((Rows){a, depth, 0}, scratch, (Target){y + column, size}, rows, depth, columns, 0, 1);
    mirror(y, size, column, columns);
}

/* y (count, size, size) = a b^T of a, b (count, size, depth), which the caller knows to be symmetric. size is a multiple
 * of WIDTH; each thread needs depth x COLUMNS floats. */
EXPORT void symmetric(idx threads, const float *a, const float *b, float *y, idx count, idx size, idx depth,
                      float *scratch) {
    Symmetric run = {a, b, y, size, depth, (size + COLUMNS - 1) / COLUMNS};
    share(threads, count * run.panels, symmetric_job, &run, scratch, depth * COLUMNS);
}
