/* Stands before every source that shoal.ops.native.compiler.load compiles. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline, unused))
#else
#define EXPORT
#define INLINE static inline
#endif

/* How many threads a parallel region of this library takes; shoal.ops.native.pool keeps it up to date. */
EXPORT int shoal_threads = 1;

/* Below this many elements (times the work of each) a region is not worth its two barriers. */
#define SHOAL_GRAIN 20000
#define SHOAL_TEAM(work) ((work) < SHOAL_GRAIN ? 1 : shoal_threads)

/* What no optimisation may look through: an exact sum stays one under -fassociative-math. */
#ifdef __has_builtin
#if __has_builtin(__builtin_assoc_barrier)
#define SHOAL_FENCE(x) __builtin_assoc_barrier(x)
#elif __has_builtin(__arithmetic_fence)
#define SHOAL_FENCE(x) __arithmetic_fence(x)
#endif
#endif
#ifndef SHOAL_FENCE
#define SHOAL_FENCE(x) (x)
#endif

/* a * b + c, in one rounding where the machine has an instruction for it, never by a call. */
INLINE float shoal_fmaf(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    return SHOAL_FENCE(a * b) + c;
#endif
}

/* Functions without branches and calls, so that loops over them become vector code. */

/* exp to 1.5 ulp; 0 below -103.97, inf above 88.72, nan for nan. Reduction and polynomial after Cephes (S. Moshier). */
INLINE float shoal_expf(float x) {
    float c = x > 89.0f ? 89.0f : x;
    c = c < -104.0f ? -104.0f : c;
    float k = __builtin_rintf(c * 1.44269504088896341f);
    float r = shoal_fmaf(k, -0.693359375f, c);
    r = shoal_fmaf(k, 2.12194440e-4f, SHOAL_FENCE(r));
    float p = 1.9875691500e-4f;
    p = shoal_fmaf(p, r, 1.3981999507e-3f);
    p = shoal_fmaf(p, r, 8.3334519073e-3f);
    p = shoal_fmaf(p, r, 4.1665795894e-2f);
    p = shoal_fmaf(p, r, 1.6666665459e-1f);
    p = shoal_fmaf(p, r, 5.0000001201e-1f);
    p = shoal_fmaf(p, r * r, r) + 1.0f;
    int32_t n = (int32_t)k, half = n >> 1; /* 2**n in two factors: n reaches below the exponents of normal numbers */
    union { int32_t i; float f; } a, b;
    a.i = (half + 127) << 23;
    b.i = (n - half + 127) << 23;
    p = SHOAL_FENCE(p * a.f) * b.f;
    return x != x ? x : p;
}

/* log of a positive number to 1 ulp; -inf for 0, nan below, inf for inf. After Cephes. */
INLINE float shoal_logf(float x) {
    union { float f; int32_t i; } u;
    int tiny = x < FLT_MIN;
    u.f = tiny ? x * 8388608.0f : x;
    int32_t e = ((u.i - 0x3f3504f3) >> 23);
    u.i -= e << 23;
    float m = u.f - 1.0f, z = m * m, k = (float)(e - (tiny ? 23 : 0));
    float p = 7.0376836292e-2f;
    p = shoal_fmaf(p, m, -1.1514610310e-1f);
    p = shoal_fmaf(p, m, 1.1676998740e-1f);
    p = shoal_fmaf(p, m, -1.2420140846e-1f);
    p = shoal_fmaf(p, m, 1.4249322787e-1f);
    p = shoal_fmaf(p, m, -1.6668057665e-1f);
    p = shoal_fmaf(p, m, 2.0000714765e-1f);
    p = shoal_fmaf(p, m, -2.4999993993e-1f);
    p = shoal_fmaf(p, m, 3.3333331174e-1f);
    p = p * m * z;
    p = shoal_fmaf(k, -2.12194440e-4f, p);
    p = shoal_fmaf(-0.5f, z, p);
    float y = shoal_fmaf(k, 0.693359375f, SHOAL_FENCE(m + p));
    y = x > FLT_MAX ? x : y;
    y = x == 0.0f ? -INFINITY : y;
    return x >= 0.0f ? y : NAN;
}

/* 1 / (1 + exp(-x)) */
INLINE float shoal_sigmoidf(float x) {
    float e = shoal_expf(-__builtin_fabsf(x)), s = 1.0f / (1.0f + e);
    s = x >= 0.0f ? s : e * s;
    return x != x ? x : s;
}

/* tanh to 2 ulp: an odd polynomial near 0, where the formula with exp loses digits. After Cephes. */
INLINE float shoal_tanhf(float x) {
    float z = __builtin_fabsf(x), s = x * x;
    float p = -5.70498872745e-3f;
    p = shoal_fmaf(p, s, 2.06390887954e-2f);
    p = shoal_fmaf(p, s, -5.37397155531e-2f);
    p = shoal_fmaf(p, s, 1.33314422036e-1f);
    p = shoal_fmaf(p, s, -3.33332819422e-1f);
    float near = shoal_fmaf(p * s, x, x);
    float far = 1.0f - 2.0f / (shoal_expf(2.0f * z) + 1.0f);
    far = __builtin_copysignf(far, x);
    float y = z < 0.625f ? near : far;
    return x != x ? x : y;
}

/* erf to 2 ulp: x times a polynomial in x*x below 1, 1 - exp(polynomial) above. Coefficients: N. Juffa's erff. */
INLINE float shoal_erff(float x) {
    float t = __builtin_fabsf(x), s = x * x;
    float r = shoal_fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
    float u = shoal_fmaf(-3.88396438e-3f, t, 2.42546219e-2f);
    r = shoal_fmaf(r, s, u);
    r = shoal_fmaf(r, t, -1.06777877e-1f);
    r = shoal_fmaf(r, t, -6.34846687e-1f);
    r = shoal_fmaf(r, t, -1.28717512e-1f);
    r = shoal_fmaf(r, t, -t);
    float far = __builtin_copysignf(1.0f - shoal_expf(r), x);
    float p = -5.96761703e-4f;
    p = shoal_fmaf(p, s, 4.99119423e-3f);
    p = shoal_fmaf(p, s, -2.67681349e-2f);
    p = shoal_fmaf(p, s, 1.12819925e-1f);
    p = shoal_fmaf(p, s, -3.76125336e-1f);
    p = shoal_fmaf(p, s, 1.28379166e-1f);
    float near = shoal_fmaf(p, x, x);
    float y = t > 0.927734375f ? far : near;
    return x != x ? x : y;
}
