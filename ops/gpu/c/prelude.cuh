/* What every kernel of this package stands on: types of storage and of computation, packs of 16 bytes, sums of warps and
   blocks. It is CUDA C++ for NVRTC and needs no header of the toolkit; with SHOAL_HOST (host.h comes first) the
   same text is compiled by a C++ compiler and run on the CPU. */
#ifndef SHOAL_HOST
#define DEV static __device__ __forceinline__
#define SHARED(T, name, count) __shared__ T name[count]
typedef unsigned char uint8_t;
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define FLT_MAX 3.402823466e+38f
#define DBL_MAX 1.7976931348623157e+308
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#endif
#define KERNEL extern "C" __global__ void
#define FULL 0xffffffffu

/* Half precision is stored in two bytes and computed in float. */
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };
template <class T> struct Wide { typedef T type; };
template <> struct Wide<f16> { typedef float type; };
template <> struct Wide<bf16> { typedef float type; };

DEV float widen(float x) { return x; }
DEV double widen(double x) { return x; }
#ifdef SHOAL_HOST
DEV float widen(f16 x) { return host_from_half(x.bits); }
DEV float widen(bf16 x) { return host_as_float((uint32_t)x.bits << 16); }
#else
DEV float widen(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEV float widen(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
#endif

#ifdef SHOAL_HOST
DEV float as_float(uint32_t x) { return host_as_float(x); }
DEV uint32_t as_word(float x) { return host_as_word(x); }
#else
DEV float as_float(uint32_t x) { return __uint_as_float(x); }
DEV uint32_t as_word(float x) { return __float_as_uint(x); }
#endif

template <class T, class A> struct Narrow { DEV T to(A x) { return (T)x; } };
#ifdef SHOAL_HOST
template <class A> struct Narrow<f16, A> { DEV f16 to(A x) { f16 y; y.bits = host_to_half((float)x); return y; } };
template <class A> struct Narrow<bf16, A> { DEV bf16 to(A x) { bf16 y; y.bits = host_to_bf16((float)x); return y; } };
#else
template <class A> struct Narrow<f16, A> {
    DEV f16 to(A x) { f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"((float)x)); return y; }
};
template <class A> struct Narrow<bf16, A> {
    DEV bf16 to(A x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"((float)x)); return y; }
};
#endif
template <class T, class A> DEV T narrow(A x) { return Narrow<T, A>::to(x); }

DEV float exp_(float x) { return expf(x); }
DEV double exp_(double x) { return exp(x); }
DEV float log_(float x) { return logf(x); }
DEV double log_(double x) { return log(x); }
DEV float sqrt_(float x) { return sqrtf(x); }
DEV double sqrt_(double x) { return sqrt(x); }
template <class A> DEV bool finite_(A x) { return x - x == (A)0; }

/* 16 bytes at once, where the address allows it. */
template <class T> struct Packed { static const int count = 16 / sizeof(T); };
template <class T> struct alignas(16) Pack { T v[16 / sizeof(T)]; };
DEV bool aligned16(const void *p) { return ((uint64_t)p & 15) == 0; }

/* Calls f(index, value) for the elements of a row that are this thread's: packs of 16 bytes if `packs`, else single. */
template <class T, class F> DEV void each(const T *x, int64_t n, bool packs, F f) {
    const int V = Packed<T>::count;
    if (packs) {
        for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += (int64_t)blockDim.x * V) {
            const Pack<T> p = *(const Pack<T> *)(x + i);
#pragma unroll
            for (int k = 0; k < V; k++) f(i + k, widen(p.v[k]));
        }
    } else {
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) f(i, widen(x[i]));
    }
}

/* y[i] = f(i, x[i]) for the elements of a row that are this thread's; y may be x. */
template <class T, class U, class F> DEV void map(const T *x, U *y, int64_t n, bool packs, F f) {
    const int V = Packed<T>::count;
    if (packs && sizeof(T) == sizeof(U)) {
        for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += (int64_t)blockDim.x * V) {
            const Pack<T> p = *(const Pack<T> *)(x + i);
            Pack<U> q;
#pragma unroll
            for (int k = 0; k < V; k++) q.v[k] = narrow<U>(f(i + k, widen(p.v[k])));
            *(Pack<U> *)(y + i) = q;
        }
    } else {
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[i] = narrow<U>(f(i, widen(x[i])));
    }
}

/* V elements at once. */
template <class T, int V> struct alignas(sizeof(T) * V) Chunk { T v[V]; };
template <class T, class U> struct Pair { static const int count = 16 / (sizeof(T) > sizeof(U) ? sizeof(T) : sizeof(U)); };
template <class T, class U, class O> DEV bool paired(const T *x, const U *y, const O *z, int64_t n) {
    const int a = Pair<T, U>::count, b = Packed<O>::count;
    return n % (a > b ? a : b) == 0 && aligned16(x) && aligned16(y) && aligned16(z);
}

template <int V, class T, class U, class F> DEV void each2_of(const T *x, const U *y, int64_t n, F f) {
    for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += (int64_t)blockDim.x * V) {
        const Chunk<T, V> p = *(const Chunk<T, V> *)(x + i);
        const Chunk<U, V> q = *(const Chunk<U, V> *)(y + i);
#pragma unroll
        for (int k = 0; k < V; k++) f(i + k, widen(p.v[k]), widen(q.v[k]));
    }
}

/* `each` and `map` for two rows at once. With `packs`, the same elements are the same thread's in all of them. */
template <class T, class U, class F> DEV void each2(const T *x, const U *y, int64_t n, bool packs, F f) {
    if (packs) each2_of<Pair<T, U>::count>(x, y, n, f);
    else each2_of<1>(x, y, n, f);
}

template <int V, class T, class U, class O, class F> DEV void map2_of(const T *x, const U *y, O *z, int64_t n, F f) {
    for (int64_t i = (int64_t)threadIdx.x * V; i < n; i += (int64_t)blockDim.x * V) {
        const Chunk<T, V> p = *(const Chunk<T, V> *)(x + i);
        const Chunk<U, V> q = *(const Chunk<U, V> *)(y + i);
        Chunk<O, V> r;
#pragma unroll
        for (int k = 0; k < V; k++) r.v[k] = narrow<O>(f(i + k, widen(p.v[k]), widen(q.v[k])));
        *(Chunk<O, V> *)(z + i) = r;
    }
}
template <class T, class U, class O, class F> DEV void map2(const T *x, const U *y, O *z, int64_t n, bool packs, F f) {
    const int V = Pair<T, U>::count < Packed<O>::count ? Pair<T, U>::count : Packed<O>::count;
    if (packs) map2_of<V>(x, y, z, n, f);
    else map2_of<1>(x, y, z, n, f);
}

/* The threads of one row: blockDim.x is a multiple of 32. If it is 32, a block has blockDim.y rows, a warp for each, and
   no thread waits for another warp; else it has one. `room` is shared memory of 32 elements. */
struct Add { template <class A> DEV A of(A a, A b) { return a + b; } };
struct Min { template <class A> DEV A of(A a, A b) { return a < b || a != a ? a : b; } };
struct Max { template <class A> DEV A of(A a, A b) { return a > b || a != a ? a : b; } };

template <class Op, class A> DEV A row_reduce(A v, A *room) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = Op::of(v, __shfl_xor_sync(FULL, v, o));
    if (blockDim.x == 32) return v;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    __syncthreads();
    if (lane == 0) room[warp] = v;
    __syncthreads();
    v = room[0];
    for (int k = 1; k < warps; k++) v = Op::of(v, room[k]);
    return v;
}

/* NumPy's Philox 4x64-10 (Salmon et al., SC 2011): four random words of a counter `c` of four, in its place. */
DEV void philox(uint64_t *c, uint64_t k0, uint64_t k1) {
#pragma unroll
    for (int r = 0; r < 10; r++) {
        const uint64_t m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
        const uint64_t n0 = __umul64hi(m1, c[2]) ^ c[1] ^ k0, n2 = __umul64hi(m0, c[0]) ^ c[3] ^ k1;
        c[1] = m1 * c[2]; c[3] = m0 * c[0]; c[0] = n0; c[2] = n2;
        k0 += 0x9E3779B97F4A7C15ull; k1 += 0xBB67AE8584CAA73Bull;
    }
}
