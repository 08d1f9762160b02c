/* Activations whose NumPy form takes many passes. */

#define LOOP _Pragma("omp parallel for simd schedule(static) num_threads(SHOAL_TEAM(n * 4))")

EXPORT void gelu(const float *x, float *y, long n) {
    LOOP
    for (long i = 0; i < n; i++) y[i] = 0.5f * x[i] * (1.0f + shoal_erff(x[i] * 0.70710678118654752f));
}

EXPORT void gelu_tanh(const float *x, float *y, long n) {
    LOOP
    for (long i = 0; i < n; i++) {
        float v = x[i];
        y[i] = 0.5f * v * (1.0f + shoal_tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    }
}

EXPORT void sigmoid(const float *x, float *y, long n) {
    LOOP
    for (long i = 0; i < n; i++) y[i] = shoal_sigmoidf(x[i]);
}
