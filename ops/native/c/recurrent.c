/* One step of recurrent layers, after the products of matrices: gates of a batch, forward and backward. */

#define EACH_ROW _Pragma("omp parallel for schedule(static) num_threads(SHOAL_TEAM(batch * n * 8))")

/* a: (batch, 4n), in the order i, f, g, o; before their functions on entry, after them on return. */
EXPORT void lstm_forward(float *a, const float *before, float *cell, float *out, long batch, long n) {
    EACH_ROW
    for (long b = 0; b < batch; b++) {
        float *i = a + b * 4 * n, *f = i + n, *g = f + n, *o = g + n;
        const float *old = before + b * n;
        float *c = cell + b * n, *h = out + b * n;
#pragma omp simd
        for (long j = 0; j < n; j++) {
            i[j] = shoal_sigmoidf(i[j]);
            f[j] = shoal_sigmoidf(f[j]);
            g[j] = shoal_tanhf(g[j]);
            o[j] = shoal_sigmoidf(o[j]);
        }
#pragma omp simd
        for (long j = 0; j < n; j++) {
            float v = f[j] * old[j] + i[j] * g[j];
            c[j] = v;
            h[j] = o[j] * shoal_tanhf(v);
        }
    }
}

/* d: cotangents of the gates before their functions; dc: of the cell, after the step on entry, before it on return. */
EXPORT void lstm_backward(const float *a, const float *cell, const float *before, const float *dh, float *dc, float *d,
                          long batch, long n) {
    EACH_ROW
    for (long b = 0; b < batch; b++) {
        const float *i = a + b * 4 * n, *f = i + n, *g = f + n, *o = g + n;
        const float *c = cell + b * n, *old = before + b * n, *top = dh + b * n;
        float *di = d + b * 4 * n, *df = di + n, *dg = df + n, *dout = dg + n, *carried = dc + b * n;
#pragma omp simd
        for (long j = 0; j < n; j++) {
            float bent = shoal_tanhf(c[j]);
            float v = carried[j] + top[j] * o[j] * (1.0f - bent * bent);
            di[j] = v * g[j] * i[j] * (1.0f - i[j]);
            df[j] = v * old[j] * f[j] * (1.0f - f[j]);
            dg[j] = v * i[j] * (1.0f - g[j] * g[j]);
            dout[j] = top[j] * bent * o[j] * (1.0f - o[j]);
            carried[j] = v * f[j];
        }
    }
}
