/* The softmax family along the last axis, and cross entropy on it. Rows of the grid as `geometry` has it: a warp or a
   block for a row. The largest element and the sum of exponentials are found in one pass. */
#define ROW_OF_THIS_THREAD \
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; \
    if (row >= rows) return;

template <class A> struct Exponentials { A top, sum; };

/* Of what two parts of a row have: where the largest elements are the same, infinities too, the sums are added. */
template <class A> DEV Exponentials<A> merged(Exponentials<A> a, Exponentials<A> b) {
    Exponentials<A> c;
    if (a.top == b.top) { c.top = a.top; c.sum = a.sum + b.sum; return c; }
    c.top = a.top > b.top ? a.top : b.top;
    c.sum = a.top > b.top ? a.sum + b.sum * exp_(b.top - a.top) : b.sum + a.sum * exp_(a.top - b.top);
    return c;
}

template <class A> DEV Exponentials<A> row_merged(Exponentials<A> v, A *room) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        Exponentials<A> w;
        w.top = __shfl_xor_sync(FULL, v.top, o);
        w.sum = __shfl_xor_sync(FULL, v.sum, o);
        v = merged(v, w);
    }
    if (blockDim.x == 32) return v;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    __syncthreads();
    if (lane == 0) { room[2 * warp] = v.top; room[2 * warp + 1] = v.sum; }
    __syncthreads();
    v.top = room[0]; v.sum = room[1];
    for (int k = 1; k < warps; k++) {
        Exponentials<A> w;
        w.top = room[2 * k]; w.sum = room[2 * k + 1];
        v = merged(v, w);
    }
    return v;
}

/* What a row's exponentials are taken relative to, and their sum. A row whose largest element is not finite is taken
   as it is: one of -inf only, or with inf or nan in it. */
template <class T, class A> DEV Exponentials<A> exponentials(const T *x, int64_t n, bool packs, A *room) {
    Exponentials<A> e;
    e.top = -INFINITY; e.sum = 0;
    each(x, n, packs, [&](int64_t, A v) {
        if (v > e.top) { e.sum = e.sum * exp_(e.top - v) + (A)1; e.top = v; }
        else if (v == e.top) e.sum += v == -INFINITY ? (A)0 : (A)1;
        else e.sum += exp_(v - e.top);
    });
    e = row_merged(e, room);
    if (finite_(e.top)) return e;
    A sum = 0;
    each(x, n, packs, [&](int64_t, A v) { sum += exp_(v); });
    e.sum = row_reduce<Add>(sum, room);
    e.top = 0;
    return e;
}

TEMPLATE(class T) softmax(const T *x, T *y, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    x += row * n; y += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
    const Exponentials<A> e = exponentials<T, A>(x, n, packs, room);
    map(x, y, n, packs, [&](int64_t, A v) { return exp_(v - e.top) / e.sum; });
}

TEMPLATE(class T) log_softmax(const T *x, T *y, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    x += row * n; y += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
    const Exponentials<A> e = exponentials<T, A>(x, n, packs, room);
    const A log = log_(e.sum);
    map(x, y, n, packs, [&](int64_t, A v) { return v - e.top - log; });
}

TEMPLATE(class G, class T) softmax_grad(const G *g, const T *y, T *dx, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    g += row * n; y += row * n; dx += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(dx) && aligned16(y);
    A sum = 0;
    each(y, n, packs, [&](int64_t i, A v) { sum += (A)widen(g[i]) * v; });
    sum = row_reduce<Add>(sum, room);
    map(y, dx, n, packs, [&](int64_t i, A v) { return v * ((A)widen(g[i]) - sum); });
}

/* A label that is no class number gives nan, for the loss and for the gradient of its row: a kernel raises no error. */
TEMPLATE(class T, class I) cross_entropy(const T *x, const I *label, T *loss, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    x += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x);
    const Exponentials<A> e = exponentials<T, A>(x, n, packs, room);
    const int64_t k = (int64_t)label[row];
    if (threadIdx.x == 0)
        loss[row] = narrow<T>(k >= 0 && k < n ? log_(e.sum) - ((A)widen(x[k]) - e.top) : (A)NAN);
}

TEMPLATE(class T, class I) cross_entropy_grad(const T *g, const T *x, const I *label, T *dx, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    x += row * n; dx += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(dx);
    const Exponentials<A> e = exponentials<T, A>(x, n, packs, room);
    const int64_t k = (int64_t)label[row];
    const A scale = k >= 0 && k < n ? (A)widen(g[row]) : (A)NAN;
    map(x, dx, n, packs, [&](int64_t i, A v) { return (exp_(v - e.top) / e.sum - (A)(i == k)) * scale; });
}

/* Loss and gradient at once, the gradient over the scores: the logits of a language model are read and written once.
   The losses are in the type of computation. */
TEMPLATE(class T, class I) cross_entropy_in_place(T *x, const I *label, float *loss, float scale, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    SHARED(A, room, 64);
    ROW_OF_THIS_THREAD
    x += row * n;
    const bool packs = n % Packed<T>::count == 0 && aligned16(x);
    const Exponentials<A> e = exponentials<T, A>(x, n, packs, room);
    const int64_t k = (int64_t)label[row];
    const bool known = k >= 0 && k < n;
    if (threadIdx.x == 0) loss[row] = (float)(known ? log_(e.sum) - ((A)widen(x[k]) - e.top) : (A)NAN);
    if (blockDim.x == 32) __syncwarp(); else __syncthreads(); /* x[k] is read before it is written */
    const A factor = known ? (A)scale : (A)NAN;
    map(x, x, n, packs, [&](int64_t i, A v) { return (exp_(v - e.top) / e.sum - (A)(i == k)) * factor; });
}
