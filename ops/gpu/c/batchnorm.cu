/* Batch normalization of arrays whose channels are last in memory: rows of n channels. Blocks are 32 channels wide and
   8 rows high; block row p of the grid adds the rows p * 8 + y, ... to partial sums, which a second launch adds in order. */
#define COLUMN \
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x; \
    const int64_t first = (int64_t)blockIdx.y * 8 + threadIdx.y, next = (int64_t)gridDim.y * 8;

/* The sum over the 8 threads of a column; all threads of the block come here. */
template <class A> DEV A over_rows(A v, A *room) {
    __syncthreads();
    room[threadIdx.y * 32 + threadIdx.x] = v;
    __syncthreads();
    A sum = 0;
    for (int y = 0; y < 8; y++) sum += room[y * 32 + threadIdx.x];
    return sum;
}

TEMPLATE(class T, class S) bn_sums(const T *x, S *parts, int64_t rows, int64_t n) {
    SHARED(S, room, 256);
    COLUMN
    S sum = 0;
    if (c < n) for (int64_t r = first; r < rows; r += next) sum += (S)widen(x[r * n + c]);
    sum = over_rows(sum, room);
    if (c < n && threadIdx.y == 0) parts[(int64_t)blockIdx.y * n + c] = sum;
}

TEMPLATE(class T, class S) bn_squares(const T *x, const S *mean, S *parts, int64_t rows, int64_t n) {
    SHARED(S, room, 256);
    COLUMN
    S sum = 0;
    if (c < n) {
        const S m = mean[c];
        for (int64_t r = first; r < rows; r += next) { const S d = (S)widen(x[r * n + c]) - m; sum += d * d; }
    }
    sum = over_rows(sum, room);
    if (c < n && threadIdx.y == 0) parts[(int64_t)blockIdx.y * n + c] = sum;
}

/* Partial sums to a mean, in one order. */
TEMPLATE(class S) bn_mean(const S *parts, S *mean, int64_t count, int64_t n, double rows) {
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= n) return;
    double sum = 0;
    for (int64_t p = 0; p < count; p++) sum += (double)parts[p * n + c];
    mean[c] = (S)(sum / rows);
}

/* (x - mean) / sqrt(var + eps) * gamma + beta, then, where asked for, + residual and max(0, .). */
TEMPLATE(class T, class S, class P) bn_apply(const T *x, const P *gamma, const P *beta, const S *mean, const S *var, const T *residual, T *y, int64_t size, int64_t n, double eps, int relu) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t c = i % n;
        S v = ((S)widen(x[i]) - mean[c]) * ((S)widen(gamma[c]) / sqrt_(var[c] + (S)eps)) + (S)widen(beta[c]);
        if (residual) v += (S)widen(residual[i]);
        if (relu) v = v > 0 || v != v ? v : (S)0;
        y[i] = narrow<T>(v);
    }
}

/* Partial sums of g and of g * (x - mean) / sqrt(var + eps). */
TEMPLATE(class T, class S) bn_grad_sums(const T *g, const T *x, const S *mean, const S *var, S *dbeta, S *dgamma, int64_t rows, int64_t n, double eps) {
    SHARED(S, room, 256);
    COLUMN
    S sum = 0, product = 0;
    if (c < n) {
        const S m = mean[c], inverse = (S)1 / sqrt_(var[c] + (S)eps);
        for (int64_t r = first; r < rows; r += next) {
            const S h = (S)widen(g[r * n + c]);
            sum += h;
            product += h * (((S)widen(x[r * n + c]) - m) * inverse);
        }
    }
    sum = over_rows(sum, room);
    product = over_rows(product, room);
    if (c < n && threadIdx.y == 0) {
        dbeta[(int64_t)blockIdx.y * n + c] = sum;
        dgamma[(int64_t)blockIdx.y * n + c] = product;
    }
}

/* gamma / sqrt(var + eps) * (g - dbeta / rows - xh * dgamma / rows); the means of the sums are given. */
TEMPLATE(class T, class S, class P) bn_grad(const T *g, const T *x, const P *gamma, const S *mean, const S *var, const S *of_g, const S *of_gx, T *dx, int64_t size, int64_t n, double eps) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t c = i % n;
        const S inverse = (S)1 / sqrt_(var[c] + (S)eps), xh = ((S)widen(x[i]) - mean[c]) * inverse;
        dx[i] = narrow<T>((S)widen(gamma[c]) * inverse * ((S)widen(g[i]) - of_g[c] - xh * of_gx[c]));
    }
}

/* A vector times a number, in another type. */
TEMPLATE(class S, class P) bn_scaled(const S *x, P *y, int64_t n, double factor) {
    const int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (c < n) y[c] = narrow<P>(x[c] * (S)factor);
}
