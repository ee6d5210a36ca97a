/* Jobs shared out to threads. Nothing here links OpenMP: PyTorch's own runtime, wherever it comes from, starts the
 * threads, so that there is one set of them in a process and any compiler builds this.
 */
#ifndef OPENSNAC_PARALLEL_H
#define OPENSNAC_PARALLEL_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef int64_t idx;
typedef void Job(const void *arguments, idx job, float *scratch);

/* Run jobs 0 .. count - 1 on at most `threads` threads; each thread has `size` floats of `scratch` to itself. */
void share(idx threads, idx count, Job *job, const void *arguments, float *scratch, idx size);

#endif
