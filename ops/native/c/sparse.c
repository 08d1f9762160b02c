/* Rows that are added at positions; a thread has columns of its own, so that the order is that of the rows. */

#define WIDE 64

EXPORT int add_rows(const float *rows, const int64_t *index, float *out, long count, long n, long places) {
    for (long i = 0; i < count; i++)
        if (index[i] < -places || index[i] >= places) return 1;
    int team = SHOAL_TEAM((count + places) * n);
#pragma omp parallel for schedule(static) num_threads(team)
    for (long p = 0; p < places; p++) memset(out + p * n, 0, n * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(team)
    for (long from = 0; from < n; from += WIDE) {
        long width = n - from < WIDE ? n - from : WIDE;
        for (long i = 0; i < count; i++) {
            long p = index[i] < 0 ? index[i] + places : index[i];
            float *to = out + p * n + from;
            const float *row = rows + i * n + from;
#pragma omp simd
            for (long j = 0; j < width; j++) to[j] += row[j];
        }
    }
    return 0;
}
