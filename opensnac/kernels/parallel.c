#include "parallel.h"

#include <stddef.h>

/* GOMP_parallel(function, argument, threads, flags) of PyTorch's OpenMP runtime, or null. */
typedef void StartThreads(void (*)(void *), void *, unsigned, unsigned);
static StartThreads *start_threads = NULL;

EXPORT void use_openmp(StartThreads *gomp_parallel) { start_threads = gomp_parallel; }

typedef struct {
    Job *job;
    const void *arguments;
    float *scratch;
    idx size, count, next, joined;
} Team;

static idx take(idx *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static void work(void *data) {
    Team *team = data;
    float *scratch = team->scratch + take(&team->joined) * team->size;
    for (idx job; (job = take(&team->next)) < team->count;) team->job(team->arguments, job, scratch);
}

void share(idx threads, idx count, Job *job, const void *arguments, float *scratch, idx size) {
    Team team = {job, arguments, scratch, size, count, 0, 0};
    if (threads > count) threads = count;
    if (threads > 1 && start_threads)
        start_threads(work, &team, (unsigned)threads, 0);
    else
        work(&team);
}
