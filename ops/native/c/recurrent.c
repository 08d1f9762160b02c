/* LSTM and GRU layers over whole sequences, forward and backward, after the products of their inputs.

   The recurrent weights are packed once for all steps. Each thread has some units of the layer, all gates of theirs, so
   that a step's product and its element-wise part are of one thread, and the threads meet once a step. */
#include "gemm.c"

/* -- products with packed weights, by units */

typedef struct {
    long n, k, sets;  /* units, terms of a sum, and how many products of one form lie beside each other */
    long row, column, set; /* strides of the weights, and from set to set */
    float *panels;    /* as pack_panels lays them: [block of terms][set][panel] */
    float *room;      /* a packed panel of the other factor, for each thread */
} weights_t;

INLINE long packed_width(long n) { return n / WIDE * WIDE + (n % WIDE > LANES ? WIDE : n % WIDE ? LANES : 0); }

static int weights_pack(weights_t *w, const float *p, long team) {
    long width = packed_width(w->n), all = w->sets * width * w->k, one = ROWS * least(w->k, DEPTH) + 2 * LANES;
    w->panels = aligned_alloc(64, (all + 2 * LANES + team * one) * sizeof(float) / 64 * 64 + 64);
    if (!w->panels) return 0;
    w->room = w->panels + all + 2 * LANES;
    for (long k = 0; k < w->k; k += DEPTH)
        for (long s = 0; s < w->sets; s++) {
            long depth = least(w->k - k, DEPTH);
            pack_panels(p + s * w->set, w->row, w->column, 0, w->n, k, depth,
                        w->panels + w->sets * width * k + s * width * depth);
        }
    return 1;
}

/* out[:, set * across + from ...] += a w, for units [from, to), which begin and end with panels. */
static void weights_apply(const weights_t *w, const float *a, long a_row, long rows, float *out, long out_row, long across,
                          long from, long to, int thread, int add) {
    long width = packed_width(w->n);
    float *room = w->room + thread * (ROWS * least(w->k, DEPTH) + 2 * LANES);
    for (long k = 0; k < w->k; k += DEPTH) {
        long depth = least(w->k - k, DEPTH);
        const float *block = w->panels + w->sets * width * k;
        for (long i = 0; i < rows;) {
            int taken = height(rows - i);
            pack(a + i * a_row + k, a_row, 1, taken, taken, depth, room);
            for (long s = 0; s < w->sets; s++) {
                float *to_ = out + i * out_row + s * across;
                along(taken, room, block + (s * width + from) * depth, depth, from, to, to_, out_row,
                      add || k ? to_ : NULL, out_row);
            }
            i += taken;
        }
    }
}

/* The units of a thread: whole panels. */
INLINE long units_from(long n, long thread, long team) { return least(n, (n + WIDE - 1) / WIDE * thread / team * WIDE); }

/* -- the element-wise parts, of units [from, to) */

/* a: (batch, 4n), in the order i, f, g, o; before their functions on entry, after them on return. */
INLINE void lstm_forward(float *a, const float *before, float *cell, float *out, long batch, long n, long from, long to) {
    for (long b = 0; b < batch; b++) {
        float *i = a + b * 4 * n, *f = i + n, *g = f + n, *o = g + n;
        const float *old = before + b * n;
        float *c = cell + b * n, *h = out + b * n;
#pragma omp simd
        for (long j = from; j < to; j++) {
            i[j] = shoal_sigmoidf(i[j]);
            f[j] = shoal_sigmoidf(f[j]);
            g[j] = shoal_tanhf(g[j]);
            o[j] = shoal_sigmoidf(o[j]);
        }
#pragma omp simd
        for (long j = from; j < to; j++) {
            float v = f[j] * old[j] + i[j] * g[j];
            c[j] = v;
            h[j] = o[j] * shoal_tanhf(v);
        }
    }
}

/* d: cotangents of the gates before their functions; dc: of the cell, after the step on entry, before it on return. */
INLINE void lstm_backward(const float *a, const float *cell, const float *before, const float *dh, float *dc, float *d,
                          long batch, long n, long from, long to) {
    for (long b = 0; b < batch; b++) {
        const float *i = a + b * 4 * n, *f = i + n, *g = f + n, *o = g + n;
        const float *c = cell + b * n, *old = before + b * n, *top = dh + b * n;
        float *di = d + b * 4 * n, *df = di + n, *dg = df + n, *dout = dg + n, *carried = dc + b * n;
#pragma omp simd
        for (long j = from; j < to; j++) {
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

/* -- whole sequences; `back`: from the last step to the first. 0 if there is no memory for it. */

#define TEAM(time) SHOAL_TEAM((time) * batch * n * n / GRAIN)
#ifdef _OPENMP
#define PARALLEL(team) _Pragma("omp parallel num_threads((int)(team))")
#define MEET _Pragma("omp barrier")
#else
#define PARALLEL(team)
#define MEET
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

/* gates: (time, batch, 4n), of inputs and biases on entry; wh: (4n, n); cells, out: (time, batch, n). */
EXPORT int lstm_sequence(float *gates, const float *wh, const float *h0, const float *c0, float *cells, float *out,
                         long time, long batch, long n, long back) {
    long team = TEAM(time), size = batch * n;
    weights_t w = {.n = n, .k = n, .sets = 4, .row = 1, .column = n, .set = n * n};
    if (!weights_pack(&w, wh, team)) return 0;
    PARALLEL(team) {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        long from = units_from(n, me, all), to = units_from(n, me + 1, all);
        for (long s = 0; s < time; s++) {
            long t = back ? time - 1 - s : s, earlier = back ? t + 1 : t - 1;
            float *a = gates + t * 4 * size;
            weights_apply(&w, s ? out + earlier * size : h0, n, batch, a, 4 * n, n, from, to, me, 1);
            lstm_forward(a, s ? cells + earlier * size : c0, cells + t * size, out + t * size, batch, n, from, to);
            MEET
        }
    }
    free(w.panels);
    return 1;
}

/* d: (time, batch, 4n), the cotangents of `gates` before their functions; dh, dc: (batch, n), those of the last states
   on entry, of the first ones on return; gy: (time, batch, n) or NULL, those of `out`. */
EXPORT int lstm_sequence_grad(const float *gates, const float *cells, const float *c0, const float *wh, const float *gy,
                              float *d, float *dh, float *dc, long time, long batch, long n, long back) {
    long team = TEAM(time), size = batch * n;
    weights_t w = {.n = n, .k = 4 * n, .sets = 1, .row = n, .column = 1, .set = 0};
    if (!weights_pack(&w, wh, team)) return 0;
    PARALLEL(team) {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        long from = units_from(n, me, all), to = units_from(n, me + 1, all);
        for (long s = 0; s < time; s++) {
            long t = back ? s : time - 1 - s, earlier = back ? t + 1 : t - 1;
            if (gy)
                for (long b = 0; b < batch; b++)
                    for (long j = from; j < to; j++) dh[b * n + j] += gy[t * size + b * n + j];
            lstm_backward(gates + t * 4 * size, cells + t * size, s == time - 1 ? c0 : cells + earlier * size, dh, dc,
                          d + t * 4 * size, batch, n, from, to);
            MEET
            weights_apply(&w, d + t * 4 * size, 4 * n, batch, dh, n, 0, from, to, me, 0);
        }
    }
    free(w.panels);
    return 1;
}

/* -- GRU: r, z = sigmoid(in + s), n = tanh(in + r s), out = n + z (before - n) */

/* in: (time, batch, 3n), from inputs and biases; bh: (3n) or NULL; gates: (time, batch, 4n), r, z, n and the candidate's s;
   s: (batch, 3n), for its own use. */
EXPORT int gru_sequence(const float *in, const float *wh, const float *bh, const float *h0, float *gates, float *out,
                        float *s, long time, long batch, long n, long back) {
    long team = TEAM(time), size = batch * n;
    weights_t w = {.n = n, .k = n, .sets = 3, .row = 1, .column = n, .set = n * n};
    if (!weights_pack(&w, wh, team)) return 0;
    PARALLEL(team) {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        long from = units_from(n, me, all), to = units_from(n, me + 1, all);
        for (long step = 0; step < time; step++) {
            long t = back ? time - 1 - step : step, earlier = back ? t + 1 : t - 1;
            const float *h = step ? out + earlier * size : h0;
            for (long b = 0; b < batch; b++)
                for (int part = 0; part < 3; part++)
                    for (long j = from; j < to; j++) s[b * 3 * n + part * n + j] = bh ? bh[part * n + j] : 0.0f;
            weights_apply(&w, h, n, batch, s, 3 * n, n, from, to, me, 1);
            for (long b = 0; b < batch; b++) {
                const float *x = in + (t * batch + b) * 3 * n, *y = s + b * 3 * n, *old = h + b * n;
                float *r = gates + (t * batch + b) * 4 * n, *z = r + n, *c = z + n, *inner = c + n;
                float *made = out + t * size + b * n;
#pragma omp simd
                for (long j = from; j < to; j++) {
                    r[j] = shoal_sigmoidf(x[j] + y[j]);
                    z[j] = shoal_sigmoidf(x[n + j] + y[n + j]);
                    inner[j] = y[2 * n + j];
                    c[j] = shoal_tanhf(x[2 * n + j] + r[j] * inner[j]);
                    made[j] = c[j] + z[j] * (old[j] - c[j]);
                }
            }
            MEET
        }
    }
    free(w.panels);
    return 1;
}

/* d, ds: (time, batch, 3n), the cotangents of what comes from inputs and from states; dh: (batch, n), of the last state
   on entry, of the first one on return; gy: (time, batch, n) or NULL, of `out`. */
EXPORT int gru_sequence_grad(const float *gates, const float *out, const float *h0, const float *wh, const float *gy,
                             float *d, float *ds, float *dh, long time, long batch, long n, long back) {
    long team = TEAM(time), size = batch * n;
    weights_t w = {.n = n, .k = 3 * n, .sets = 1, .row = n, .column = 1, .set = 0};
    if (!weights_pack(&w, wh, team)) return 0;
    PARALLEL(team) {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        long from = units_from(n, me, all), to = units_from(n, me + 1, all);
        for (long step = 0; step < time; step++) {
            long t = back ? step : time - 1 - step, earlier = back ? t + 1 : t - 1;
            const float *began = step == time - 1 ? h0 : out + earlier * size;
            for (long b = 0; b < batch; b++) {
                const float *r = gates + (t * batch + b) * 4 * n, *z = r + n, *c = z + n, *inner = c + n;
                const float *old = began + b * n, *more = gy ? gy + t * size + b * n : NULL;
                float *dx = d + (t * batch + b) * 3 * n, *dy = ds + (t * batch + b) * 3 * n, *top = dh + b * n;
                if (more)
                    for (long j = from; j < to; j++) top[j] += more[j];
#pragma omp simd
                for (long j = from; j < to; j++) {
                    float v = top[j] * (1.0f - z[j]) * (1.0f - c[j] * c[j]);
                    dx[2 * n + j] = v;
                    dy[2 * n + j] = v * r[j];
                    dy[j] = dx[j] = v * inner[j] * r[j] * (1.0f - r[j]);
                    dy[n + j] = dx[n + j] = top[j] * (old[j] - c[j]) * z[j] * (1.0f - z[j]);
                    top[j] *= z[j];
                }
            }
            MEET
            weights_apply(&w, ds + t * 3 * size, 3 * n, batch, dh, n, 0, from, to, me, 1);
        }
    }
    free(w.panels);
    return 1;
}
