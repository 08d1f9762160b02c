/* Normalization of rows: a warp or a block for each, as `geometry` has it. Statistics take two passes, the mean and then
   the mean square distance from it; a row of usual length is read from memory once and then from the nearest cache. */
#define ROW_OF_THIS_THREAD \
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; \
    if (row >= rows) return;

template <class A> struct Moments { A mean, inverse; };

template <class T, class A> DEV Moments<A> moments(const T *x, int64_t n, bool packs, A eps, A *room) {
    A sum = 0, squares = 0;
    each(x, n, packs, [&](int64_t, A v) { sum += v; });
    Moments<A> m;
    m.mean = row_reduce<Add>(sum, room) / (A)n;
    each(x, n, packs, [&](int64_t, A v) { const A d = v - m.mean; squares += d * d; });
    m.inverse = (A)1 / sqrt_(row_reduce<Add>(squares, room) / (A)n + eps);
    return m;
}

TEMPLATE(class T, class S) standardize(const T *x, T *y, S *inverse, int64_t rows, int64_t n, double eps) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    x += row * n; y += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
    const Moments<A> m = moments<T, A>(x, n, packs, (A)eps, room);
    map(x, y, n, packs, [&](int64_t, A v) { return (v - m.mean) * m.inverse; });
    if (threadIdx.x == 0) inverse[row] = narrow<S>(m.inverse);
}

/* inverse * (g - mean(g) - y * mean(g * y)) */
TEMPLATE(class G, class T, class S, class O) standardize_grad(const G *g, const T *y, const S *inverse, O *dx, int64_t rows, int64_t n) {
    typedef typename Wide<O>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    g += row * n; y += row * n; dx += row * n;
    const bool packs = paired(g, y, dx, n);
    A sum = 0, product = 0;
    each2(g, y, n, packs, [&](int64_t, A a, A b) { sum += a; product += a * b; });
    sum = row_reduce<Add>(sum, room) / (A)n;
    product = row_reduce<Add>(product, room) / (A)n;
    const A factor = (A)widen(inverse[row]);
    map2(g, y, dx, n, packs, [&](int64_t, A a, A b) { return factor * (a - sum - b * product); });
}

/* What a block of a transformer does between its parts, in one pass: sum = x + residual (left out where they are null),
   y = (sum - mean) / std * gamma + beta. */
TEMPLATE(class T, class S, class P) residual_norm(const T *x, const T *residual, const P *gamma, const P *beta, T *sum, T *y, S *mean, S *inverse, int64_t rows, int64_t n, double eps) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    x += row * n; y += row * n;
    bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
    if (residual) {
        residual += row * n; sum += row * n;
        packs = packs && aligned16(residual) && aligned16(sum);
        map2(x, residual, sum, n, packs, [&](int64_t, A a, A b) { return a + b; });
        x = sum; /* each thread reads below what it has written itself */
    }
    const Moments<A> m = moments<T, A>(x, n, packs, (A)eps, room);
    map(x, y, n, packs, [&](int64_t i, A v) {
        return (v - m.mean) * m.inverse * (A)widen(gamma[i]) + (A)widen(beta[i]);
    });
    if (threadIdx.x == 0) { mean[row] = narrow<S>(m.mean); inverse[row] = narrow<S>(m.inverse); }
}

/* The gradient of the former for the normalized sum; what comes to the sum by other ways is added (null: nothing). */
TEMPLATE(class T, class S, class P) residual_norm_grad(const T *g, const T *x, const P *gamma, const S *mean, const S *inverse, const T *other, T *dx, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    g += row * n; x += row * n; dx += row * n;
    if (other) other += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(g) && aligned16(x) && aligned16(dx);
    const A mu = (A)widen(mean[row]), factor = (A)widen(inverse[row]);
    A sum = 0, product = 0;
    each2(g, x, n, packs, [&](int64_t i, A a, A v) {
        const A h = a * (A)widen(gamma[i]);
        sum += h;
        product += h * ((v - mu) * factor);
    });
    sum = row_reduce<Add>(sum, room) / (A)n;
    product = row_reduce<Add>(product, room) / (A)n;
    map2(g, x, dx, n, packs, [&](int64_t i, A a, A v) {
        const A d = factor * (a * (A)widen(gamma[i]) - sum - (v - mu) * factor * product);
        return other ? d + (A)widen(other[i]) : d;
    });
}

/* Parts of dgamma and dbeta: block row p of the grid adds the rows p, p + gridDim.y, ... for a column a thread. */
TEMPLATE(class T, class S) norm_parts(const T *g, const T *x, const S *mean, const S *inverse, float *dgamma, float *dbeta, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    A a = 0, b = 0;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const A h = (A)widen(g[row * n + i]);
        a += h * (((A)widen(x[row * n + i]) - (A)widen(mean[row])) * (A)widen(inverse[row]));
        b += h;
    }
    dgamma[(int64_t)blockIdx.y * n + i] = (float)a;
    dbeta[(int64_t)blockIdx.y * n + i] = (float)b;
}

/* y = x / sqrt(mean(x * x) + eps) * gamma */
TEMPLATE(class T, class S, class P) rms(const T *x, const P *gamma, T *y, S *inverse, int64_t rows, int64_t n, double eps) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    x += row * n; y += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
    A squares = 0;
    each(x, n, packs, [&](int64_t, A v) { squares += v * v; });
    const A r = (A)1 / sqrt_(row_reduce<Add>(squares, room) / (A)n + (A)eps);
    map(x, y, n, packs, [&](int64_t i, A v) { return v * r * (A)widen(gamma[i]); });
    if (threadIdx.x == 0) inverse[row] = narrow<S>(r);
}

TEMPLATE(class T, class S, class P) rms_grad(const T *g, const T *x, const P *gamma, const S *inverse, T *dx, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 32);
    ROW_OF_THIS_THREAD
    g += row * n; x += row * n; dx += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(g) && aligned16(x) && aligned16(dx);
    const A r = (A)widen(inverse[row]);
    A product = 0;
    each2(g, x, n, packs, [&](int64_t i, A a, A v) { product += a * (A)widen(gamma[i]) * v; });
    product = row_reduce<Add>(product, room) * r * r / (A)n;
    map2(g, x, dx, n, packs, [&](int64_t i, A a, A v) { return r * (a * (A)widen(gamma[i]) - v * product); });
}

/* Sums over the rows: part p adds the rows p, p + gridDim.y, ...; with one part this is the sum, and the parts of a
   first pass are the rows of a second one. The order is fixed, so that the bits are too. */
TEMPLATE(class T, class O) columns(const T *x, O *out, int64_t rows, int64_t n) {
    typedef typename Wide<O>::type A;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    A sum = 0;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) sum += (A)widen(x[row * n + i]);
    out[(int64_t)blockIdx.y * n + i] = narrow<O>(sum);
}
