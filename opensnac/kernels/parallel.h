/* Jobs distributed over threads. Nothing here links OpenMP: PyTorch's runtime, whichever it is, starts the threads, so
 * that a process has one thread pool and any compiler can build this.
 */
#ifndef OPENSNAC_PARALLEL_H
#define OPENSNAC_PARALLEL_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef int64_t idx;
typedef void Job(const void *arguments, idx job, float *scratch);

/* Run jobs 0 .. count - 1 on at most `threads` threads; each thread has its own `size` floats of `scratch`. */
void share(idx threads, idx count, Job *job, const void *arguments, float *scratch, idx size);

#endif
