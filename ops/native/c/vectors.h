/* Vectors of LANES floats, as the code that shoal.ops.native generates for convolutions uses them. */
#ifndef SHOAL_VECTORS
#define SHOAL_VECTORS
#if defined(__AVX512F__)
#define LANES 16
#include <immintrin.h>
#elif defined(__AVX__)
#define LANES 8
#include <immintrin.h>
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* The first n of LANES floats, zeros behind them; nothing behind them is read. */
INLINE vec load_part(const float *p, int n) {
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vec v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

INLINE void store_part(float *p, vec v, int n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* The LANES elements of a vector of `length` from `first` on, as far as it has them. */
INLINE vec bias_of(const float *bias, long first, long length) {
    long n = length - first;
    return n >= LANES ? *(const vec *)(bias + first) : load_part(bias + first, n > 0 ? (int)n : 0);
}

/* max(x, 0), which nan stays. */
INLINE vec relu_vec(vec v) { return (vec)((ivec)v & ~(ivec)(v <= (vec){0})); }
INLINE vec square(vec v) { return v * v; }
INLINE vec plus(vec a, vec b) { return a + b; }
INLINE ivec pick(ivec mask, int32_t yes, ivec no) { return (mask & yes) | (~mask & no); }
/* The larger one; nan if either is. */
INLINE vec larger(vec a, vec b) {
    ivec mask = (ivec)(b > a) | (ivec)(b != b);
    return (vec)((mask & (ivec)b) | (~mask & (ivec)a));
}
/* g where the positions are `at`, else 0. */
INLINE vec chosen(ivec positions, long at, vec g) { return (vec)((ivec)g & (ivec)(positions == (int32_t)at)); }

typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE ivec load_bytes(const uint8_t *p, int n) {
    bytes b = {0};
    if (n == LANES) b = *(const bytes *)p;
    else for (int i = 0; i < n; i++) b[i] = p[i];
    return __builtin_convertvector(b, ivec);
}

INLINE void store_bytes(uint8_t *p, ivec v, int n) {
    bytes b = __builtin_convertvector(v, bytes);
    if (n == LANES) *(bytes *)p = b;
    else for (int i = 0; i < n; i++) p[i] = b[i];
}
INLINE float relu_of(float x) { return x <= 0.0f ? 0.0f : x; }
#endif
