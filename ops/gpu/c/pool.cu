/* Pooling of images, each element of the result a thread's: gradients are gathered from the windows that an element is
   in, in the order of the positions in a window, so that nothing is added by two threads and the bits are always the
   same. Arrays lie as (batch, channels, height, width), or, with `last`, with the channels last. */
struct Place { int64_t n, c, i, j; };

DEV Place place_of(int64_t e, int64_t channels, int64_t height, int64_t width, int last) {
    Place p;
    if (last) { p.c = e % channels; e /= channels; p.j = e % width; e /= width; p.i = e % height; p.n = e / height; }
    else { p.j = e % width; e /= width; p.i = e % height; e /= height; p.c = e % channels; p.n = e / channels; }
    return p;
}
DEV int64_t at_place(Place p, int64_t i, int64_t j, int64_t channels, int64_t height, int64_t width, int last) {
    return last ? ((p.n * height + i) * width + j) * channels + p.c : ((p.n * channels + p.c) * height + i) * width + j;
}

#define EVERY(e, size) \
    for (int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; e < (size); e += (int64_t)gridDim.x * blockDim.x)
#define INSIDE(i, j) ((i) >= 0 && (i) < h && (j) >= 0 && (j) < w)
/* For every element of the result, which is a window: */
#define OVER_WINDOWS \
    EVERY(e, batch * channels * oh * ow) { \
        const Place p = place_of(e, channels, oh, ow, last);
#define OVER_POSITIONS \
    for (int64_t k = 0; k < kh * kw; k++) { \
        const int64_t i = p.i * sh - ph + k / kw, j = p.j * sw - pw + k % kw;
/* For every element of an image, and every window that has it at position k: */
#define OVER_ELEMENTS \
    EVERY(e, batch * channels * h * w) { \
        const Place p = place_of(e, channels, h, w, last);
#define OVER_THEIR_WINDOWS \
    for (int64_t k = 0; k < kh * kw; k++) { \
        const int64_t a = p.i + ph - k / kw, b = p.j + pw - k % kw; \
        if (a < 0 || b < 0 || a % sh || b % sw || a / sh >= oh || b / sw >= ow) continue; \
        const int64_t o = at_place(p, a / sh, b / sw, channels, oh, ow, last);

TEMPLATE(class T) max_pool(const T *x, T *y, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    typedef typename Wide<T>::type A;
    OVER_WINDOWS
        A best = -INFINITY;
        OVER_POSITIONS
            if (INSIDE(i, j)) best = Max::of((A)widen(x[at_place(p, i, j, channels, h, w, last)]), best);
        }
        y[e] = narrow<T>(best);
    }
}

TEMPLATE(class T, class I) max_pool_index(const T *x, const T *y, I *index, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    typedef typename Wide<T>::type A;
    OVER_WINDOWS
        const A best = widen(y[e]);
        int64_t found = 0;
        OVER_POSITIONS
            const A v = INSIDE(i, j) ? (A)widen(x[at_place(p, i, j, channels, h, w, last)]) : (A)-INFINITY;
            if (v == best) { found = k; break; }
        }
        index[e] = (I)found;
    }
}

TEMPLATE(class T, class I) max_unpool(const T *g, const I *index, T *dx, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    typedef typename Wide<T>::type A;
    OVER_ELEMENTS
        A sum = 0;
        OVER_THEIR_WINDOWS
            if ((int64_t)index[o] == k) sum += (A)widen(g[o]);
        }
        dx[e] = narrow<T>(sum);
    }
}

TEMPLATE(class T, class I) max_pool_take(const T *x, const I *index, T *y, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    OVER_WINDOWS
        const int64_t k = (int64_t)index[e], i = p.i * sh - ph + k / kw, j = p.j * sw - pw + k % kw;
        if (INSIDE(i, j)) y[e] = x[at_place(p, i, j, channels, h, w, last)];
        else y[e] = narrow<T>(0.0f);
    }
}

TEMPLATE(class T) sum_pool(const T *x, T *y, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    typedef typename Wide<T>::type A;
    OVER_WINDOWS
        A sum = 0;
        OVER_POSITIONS
            if (INSIDE(i, j)) sum += (A)widen(x[at_place(p, i, j, channels, h, w, last)]);
        }
        y[e] = narrow<T>(sum);
    }
}

TEMPLATE(class T) sum_unpool(const T *g, T *dx, int64_t batch, int64_t channels, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw, int last) {
    typedef typename Wide<T>::type A;
    OVER_ELEMENTS
        A sum = 0;
        OVER_THEIR_WINDOWS
            sum += (A)widen(g[o]);
        }
        dx[e] = narrow<T>(sum);
    }
}
