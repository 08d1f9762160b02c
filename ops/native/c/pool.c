/* OpenBLAS's jobs on the threads of OpenMP: two pools that both spin are many times slower than one. */
#include <pthread.h>
#include <stdlib.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

typedef void (*job_t)(int thread, void *data, int more);

typedef struct { job_t job; int thread; void *data; int more; } task_t;

static void *run_task(void *p) {
    task_t *t = p;
    t->job(t->thread, t->data, t->more);
    return NULL;
}

/* The jobs wait for each other, so each needs a thread: where OpenMP gives fewer, take threads that live once. */
static void on_threads(job_t job, int n, size_t size, char *data, int more) {
    pthread_t *ids = malloc(n * sizeof(pthread_t));
    task_t *tasks = malloc(n * sizeof(task_t));
    for (int i = 0; i < n; i++) tasks[i] = (task_t){job, i, data + i * size, more};
    for (int i = 1; i < n; i++)
        if (pthread_create(&ids[i], NULL, run_task, &tasks[i])) abort();
    run_task(&tasks[0]);
    for (int i = 1; i < n; i++) pthread_join(ids[i], NULL);
    free(ids);
    free(tasks);
}

EXPORT void shoal_blas(int sync, job_t job, int n, size_t size, void *data, int more) {
    int got = 1;
    (void)sync;
    if (n == 1) {
        job(0, data, more);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(n)
    {
#pragma omp single
        got = omp_get_num_threads();
        if (got == n) {
            int i = omp_get_thread_num();
            job(i, (char *)data + i * size, more);
        }
    }
#endif
    if (got != n) on_threads(job, n, size, data, more);
}

/* 1 if this library runs on OpenMP. */
EXPORT int shoal_parallel(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* In a child after fork, the forking thread's team is gone. */
EXPORT void shoal_alone(void) {
#ifdef _OPENMP
    omp_set_num_threads(1);
#endif
}

/* Denormal numbers count as 0, or do not, in the calling thread and in the pool's; 0 if the machine has no switch. */
EXPORT int shoal_flush(int on) {
#if defined(__SSE__)
#ifdef _OPENMP
#pragma omp parallel num_threads(shoal_threads)
#endif
    _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040u);
    return 1;
#else
    (void)on;
    return 0;
#endif
}
