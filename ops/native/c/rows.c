/* The softmax family over rows: each row is read while it is in the cache. Sums are taken in short runs in single
   precision, and over the runs in double. */

#define RUN 512

INLINE float row_top(const float *x, long n) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (long i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    return top - top == 0.0f ? top : 0.0f; /* infinite: leave the row as it is */
}

/* sum of exp(x - top), and the terms in y if there is one */
INLINE double row_sum(const float *x, float *y, long n, float top) {
    double sum = 0;
    for (long i = 0; i < n; i += RUN) {
        long end = i + RUN < n ? i + RUN : n;
        float part = 0;
        if (y) {
#pragma omp simd reduction(+ : part)
            for (long j = i; j < end; j++) {
                float e = shoal_expf(x[j] - top);
                y[j] = e;
                part += e;
            }
        } else {
#pragma omp simd reduction(+ : part)
            for (long j = i; j < end; j++) part += shoal_expf(x[j] - top);
        }
        sum += part;
    }
    return sum;
}

EXPORT int softmax(const float *x, float *y, long rows, long n) {
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n * 4))
    for (long r = 0; r < rows; r++) {
        const float *xr = x + r * n;
        float *yr = y + r * n;
        float scale = (float)(1.0 / row_sum(xr, yr, n, row_top(xr, n)));
#pragma omp simd
        for (long i = 0; i < n; i++) yr[i] *= scale;
    }
    return 0;
}

EXPORT int log_softmax(const float *x, float *y, long rows, long n) {
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n * 4))
    for (long r = 0; r < rows; r++) {
        const float *xr = x + r * n;
        float *yr = y + r * n;
        float top = row_top(xr, n), less = (float)log(row_sum(xr, NULL, n, top));
#pragma omp simd
        for (long i = 0; i < n; i++) yr[i] = (xr[i] - top) - less;
    }
    return 0;
}

INLINE double row_dot(const float *a, const float *b, long n) {
    double sum = 0;
    for (long i = 0; i < n; i += RUN) {
        long end = i + RUN < n ? i + RUN : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (long j = i; j < end; j++) part += a[j] * b[j];
        sum += part;
    }
    return sum;
}

/* dx = y * (g - sum(g * y)) */
EXPORT int softmax_grad(const float *g, const float *y, float *dx, long rows, long n) {
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n))
    for (long r = 0; r < rows; r++) {
        const float *gr = g + r * n, *yr = y + r * n;
        float *dr = dx + r * n, sum = (float)row_dot(gr, yr, n);
#pragma omp simd
        for (long i = 0; i < n; i++) dr[i] = yr[i] * (gr[i] - sum);
    }
    return 0;
}

INLINE int bad(const int64_t *label, long rows, long n) {
    int wrong = 0;
    for (long r = 0; r < rows; r++) wrong |= label[r] < 0 || label[r] >= n;
    return wrong;
}

/* loss = log(sum(exp(x))) - x[label] */
EXPORT int cross_entropy(const float *x, const int64_t *label, float *loss, long rows, long n) {
    if (bad(label, rows, n)) return 1;
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n * 4))
    for (long r = 0; r < rows; r++) {
        const float *xr = x + r * n;
        float top = row_top(xr, n);
        loss[r] = (float)log(row_sum(xr, NULL, n, top)) - (xr[label[r]] - top);
    }
    return 0;
}

/* dx = g * (softmax(x) - [label]); dx may be x */
EXPORT int cross_entropy_grad(const float *g, const float *x, const int64_t *label, float *dx, long rows, long n) {
    if (bad(label, rows, n)) return 1;
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n * 4))
    for (long r = 0; r < rows; r++) {
        const float *xr = x + r * n;
        float *dr = dx + r * n;
        double scale = (double)g[r] / row_sum(xr, dr, n, row_top(xr, n));
        float by = (float)scale;
#pragma omp simd
        for (long i = 0; i < n; i++) dr[i] *= by;
        dr[label[r]] -= g[r];
    }
    return 0;
}
