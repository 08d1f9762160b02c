/* Stands for cuBLASLt in tests: the functions and structures of its header, on host memory, column-major, by three
   loops in double. It refuses what the documentation forbids. Epilogues, and GELU by tanh, as documented. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int kind; uint64_t rows, cols; int64_t ld; int32_t batch; int64_t step; } Layout;
typedef struct { int compute, scale, transa, transb, epilogue; void *bias, *aux; int64_t aux_ld; } Desc;
typedef struct { uint64_t workspace; uint32_t align[4]; } Preference;
typedef struct { uint64_t algo[8]; size_t workspace; int state; float waves; int reserved[4]; } Result;
enum { INVALID = 7, UNSUPPORTED = 15 };

int calls[4]; /* heuristics, products, the last algorithm, the last stream */
size_t cublasLtGetVersion(void) { return 130100; }
int cublasLtCreate(void **h) { *h = malloc(8); return 0; }
int cublasLtMatmulDescCreate(Desc **d, int compute, int scale) {
    *d = calloc(1, sizeof **d);
    (*d)->compute = compute; (*d)->scale = scale; (*d)->epilogue = 1;
    return compute == 68 || compute == 77 ? (scale != 0) * INVALID : compute == 70 ? (scale != 1) * INVALID : INVALID;
}
int cublasLtMatmulDescSetAttribute(Desc *d, int which, const void *p, size_t size) {
    switch (which) {
    case 3: case 4: case 7: if (size != 4) return INVALID; break;
    case 8: case 11: case 12: if (size != 8) return INVALID; break;
    default: return INVALID;
    }
    if (which == 3) memcpy(&d->transa, p, 4);
    if (which == 4) memcpy(&d->transb, p, 4);
    if (which == 7) memcpy(&d->epilogue, p, 4);
    if (which == 8) memcpy(&d->bias, p, 8);
    if (which == 11) memcpy(&d->aux, p, 8);
    if (which == 12) memcpy(&d->aux_ld, p, 8);
    return 0;
}
int cublasLtMatrixLayoutCreate(Layout **l, int kind, uint64_t rows, uint64_t cols, int64_t ld) {
    *l = calloc(1, sizeof **l);
    **l = (Layout){kind, rows, cols, ld, 1, 0};
    return ld < (int64_t)rows ? INVALID : 0;
}
int cublasLtMatrixLayoutSetAttribute(Layout *l, int which, const void *p, size_t size) {
    if (which == 5 && size == 4) { memcpy(&l->batch, p, 4); return 0; }
    if (which == 6 && size == 8) { memcpy(&l->step, p, 8); return 0; }
    return INVALID;
}
int cublasLtMatmulPreferenceCreate(Preference **p) { *p = calloc(1, sizeof **p); return 0; }
int cublasLtMatmulPreferenceDestroy(Preference *p) { free(p); return 0; }
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int which, const void *v, size_t size) {
    if (which == 1 && size == 8) { memcpy(&p->workspace, v, 8); return 0; }
    if (which >= 5 && which <= 8 && size == 4) { memcpy(&p->align[which - 5], v, 4); return 0; }
    return INVALID;
}
static int fits(const Desc *d, const Layout *a, const Layout *b, const Layout *c) {
    const uint64_t m = d->transa ? a->cols : a->rows, k = d->transa ? a->rows : a->cols;
    const uint64_t kb = d->transb ? b->cols : b->rows, n = d->transb ? b->rows : b->cols;
    return m == c->rows && n == c->cols && k == kb && a->batch == c->batch && b->batch == c->batch;
}
int cublasLtMatmulAlgoGetHeuristic(void *h, Desc *d, Layout *a, Layout *b, Layout *c, Layout *e, Preference *p, int asked, Result *r, int *returned) {
    calls[0]++;
    if (!h || c != e || !fits(d, a, b, c)) return INVALID;
    *returned = asked < 3 ? asked : 3;
    for (int i = 0; i < *returned; i++) { memset(&r[i], 0, sizeof r[i]); r[i].algo[0] = 1000 + i; r[i].algo[7] = p->align[0]; }
    if (*returned > 2) r[1].state = UNSUPPORTED;
    return 0;
}
static double get(const void *p, int kind, int64_t i) {
    if (kind == 0) return ((const float *)p)[i];
    if (kind == 1) return ((const double *)p)[i];
    const uint16_t h = ((const uint16_t *)p)[i];
    if (kind == 14) { const uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }
    const int e = h >> 10 & 31, f = h & 1023;
    const double v = e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -v : v;
}
static void put(void *p, int kind, int64_t i, double v) {
    if (kind == 0) ((float *)p)[i] = (float)v;
    else if (kind == 1) ((double *)p)[i] = v;
    else if (kind == 14) {
        float f = (float)v; uint32_t u; memcpy(&u, &f, 4);
        ((uint16_t *)p)[i] = (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    } else { /* float16: numbers of tests are normal */
        int e; const double f = frexp(fabs(v), &e);
        int mantissa = (int)nearbyint(f * 2048), exponent = e + 14;
        if (mantissa == 2048) { mantissa = 1024; exponent++; }
        const uint16_t sign = v < 0 ? 0x8000 : 0;
        ((uint16_t *)p)[i] = v == 0 ? 0 : exponent < 1 ? sign | (uint16_t)nearbyint(ldexp(fabs(v), 24)) : sign | (uint16_t)(exponent << 10 | (mantissa & 1023));
    }
}
static double gelu(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
static double dgelu(double x) {
    const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}
int cublasLtMatmul(void *h, Desc *d, const void *alpha, const void *A, Layout *a, const void *B, Layout *b, const void *beta, const void *C, Layout *c, void *D, Layout *e, const uint64_t *algo, void *workspace, size_t bytes, void *stream) {
    calls[1]++; calls[2] = (int)algo[0]; calls[3] = (int)(intptr_t)stream;
    if (!h || !fits(d, a, b, c) || C != D || !workspace || bytes < 1 || algo[0] < 1000 || algo[0] > 1002) return INVALID;
    const int ep = d->epilogue, needs_bias = (ep & 4) || (ep & 16) || ep == 256 || ep == 512;
    if ((needs_bias && !d->bias) || ((ep & 128) && (!d->aux || d->aux_ld % 8))) return INVALID;
    const double al = d->scale == 1 ? *(const double *)alpha : *(const float *)alpha;
    const double be = d->scale == 1 ? *(const double *)beta : *(const float *)beta;
    const int64_t m = c->rows, n = c->cols, k = d->transa ? a->rows : a->cols;
    for (int64_t i = 0; ep == 256 && i < m; i++) {
        double s = 0;
        for (int64_t q = 0; q < k; q++) s += get(A, a->kind, d->transa ? q + i * a->ld : i + q * a->ld);
        put(d->bias, c->kind, i, s);
    }
    for (int64_t j = 0; ep == 512 && j < n; j++) {
        double s = 0;
        for (int64_t q = 0; q < k; q++) s += get(B, b->kind, d->transb ? j + q * b->ld : q + j * b->ld);
        put(d->bias, c->kind, j, s);
    }
    double *sums = calloc(m, sizeof *sums);
    for (int t = 0; t < c->batch; t++) for (int64_t j = 0; j < n; j++) for (int64_t i = 0; i < m; i++) {
        double s = 0;
        for (int64_t q = 0; q < k; q++)
            s += get(A, a->kind, t * a->step + (d->transa ? q + i * a->ld : i + q * a->ld)) *
                 get(B, b->kind, t * b->step + (d->transb ? j + q * b->ld : q + j * b->ld));
        const int64_t at = t * c->step + i + j * c->ld, xt = i + j * d->aux_ld;
        s = al * s + (be != 0 ? be * get(C, c->kind, at) : 0);
        if (ep & 4) s += get(d->bias, c->kind, i);
        if ((ep & 128) && (ep & 32)) put(d->aux, c->kind, xt, s);
        if (ep & 32) s = gelu(s);
        if ((ep & 2) && s < 0) s = 0;
        if ((ep & 128) && (ep & 64)) s *= dgelu(get(d->aux, c->kind, xt));
        if (ep & 16) sums[i] += s;
        put(D, c->kind, at, s);
    }
    for (int64_t i = 0; (ep & 16) && i < m; i++) put(d->bias, c->kind, i, sums[i]);
    free(sums);
    return 0;
}
