/* Normalization of rows: statistics in two passes, while the row is in the cache. Sums as in rows.c. */

#define RUN 512
#define EACH_ROW _Pragma("omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n * 2))")

#define SUM(name, term)                                                                   \
    INLINE double name(const float *a, const float *b, float mean, long n) {              \
        double sum = 0;                                                                   \
        (void)b, (void)mean;                                                              \
        for (long i = 0; i < n; i += RUN) {                                               \
            long end = i + RUN < n ? i + RUN : n;                                         \
            float part = 0;                                                               \
            _Pragma("omp simd reduction(+ : part)") for (long j = i; j < end; j++) part += term; \
            sum += part;                                                                  \
        }                                                                                 \
        return sum;                                                                       \
    }

SUM(total, a[j])
SUM(squares, (a[j] - mean) * (a[j] - mean))
SUM(products, a[j] * b[j])

/* y = (x - mean) * inv, inv = 1 / sqrt(var + eps) */
EXPORT void standardize(const float *x, float *y, float *inv, long rows, long n, double eps) {
    EACH_ROW
    for (long r = 0; r < rows; r++) {
        const float *xr = x + r * n;
        float *yr = y + r * n, mean = (float)(total(xr, NULL, 0, n) / n);
        float scale = (float)(1.0 / sqrt(squares(xr, NULL, mean, n) / n + eps));
#pragma omp simd
        for (long j = 0; j < n; j++) yr[j] = (xr[j] - mean) * scale;
        inv[r] = scale;
    }
}

/* dx = inv * (g - mean(g) - y * mean(g * y)) */
EXPORT void standardize_grad(const float *g, const float *y, const float *inv, float *dx, long rows, long n) {
    EACH_ROW
    for (long r = 0; r < rows; r++) {
        const float *gr = g + r * n, *yr = y + r * n;
        float *dr = dx + r * n, by = inv[r];
        float mean = (float)(total(gr, NULL, 0, n) / n), along = (float)(products(gr, yr, 0, n) / n);
#pragma omp simd
        for (long j = 0; j < n; j++) dr[j] = by * (gr[j] - mean - yr[j] * along);
    }
}
