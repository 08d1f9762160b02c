/* Products of float32 matrices with any strides: out = a b, out += a b, out = a b + bias.

   Blocks of a and b are copied to where a small tile of the output, kept in registers, reads them in order (Goto and van
   de Geijn, "Anatomy of high-performance matrix multiplication", 2008). Each element is summed over blocks of DEPTH
   terms, in order, wherever it lies: results depend neither on the number of threads nor on the rows and columns beside
   it. */
#include "vectors.h"
#include <stdlib.h>
#ifdef __aarch64__
#include <arm_neon.h>
#endif

#define DEPTH 256
#define BREADTH 512 /* columns of b that are packed at a time: DEPTH * BREADTH floats stay in the second cache */
#define GRAIN 16 /* multiplications that count as one element's work, when threads are considered */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 12
#else
#define ROWS 6
#endif
#define WIDE (2 * LANES)

INLINE vec spread(float x) { return x - (vec){0}; }

INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* -- packing */

/* a[0] b[0] a[1] b[1] ..., of the lower or the upper halves */
INLINE vec interleaved(vec a, vec b, int high) {
#ifdef __clang__
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = (i & 1 ? b : a)[high * LANES / 2 + i / 2];
    return v;
#else
    ivec order;
    for (int i = 0; i < LANES; i++) order[i] = high * LANES / 2 + i / 2 + (i & 1) * LANES;
    return __builtin_shuffle(a, b, order);
#endif
}

/* LANES x LANES elements, columns for rows. */
INLINE void turn(vec *v) {
    vec w[LANES];
#pragma GCC unroll 16
    for (int stage = 1; stage < LANES; stage *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES / 2; i++) {
            w[2 * i] = interleaved(v[i], v[i + LANES / 2], 0);
            w[2 * i + 1] = interleaved(v[i], v[i + LANES / 2], 1);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = w[i];
    }
}

/* to[k * width + i] = p[i * line + k * step] for i < count, and 0 for the others below width.
   May write up to LANES elements behind the last one. */
static void pack(const float *p, long line, long step, int count, int width, long depth, float *to) {
    if (line == 1) {
        for (long k = 0; k < depth; k++, p += step, to += width)
            for (int i = 0; i < width; i += LANES) {
                int n = count - i;
                *(vec *)(to + i) = n >= LANES ? *(const vec *)(p + i) : load_part(p + i, n > 0 ? n : 0);
            }
        return;
    }
    for (long k = 0; k < depth; k += LANES) {
        int ks = depth - k < LANES ? (int)(depth - k) : LANES;
        for (int i = 0; i < width; i += LANES) {
            vec v[LANES];
            for (int r = 0; r < LANES; r++) {
                const float *from = p + (i + r) * line + k * step;
                if (i + r >= count) v[r] = (vec){0};
                else if (step == 1) v[r] = ks == LANES ? *(const vec *)from : load_part(from, ks);
                else {
                    v[r] = (vec){0};
                    for (int s = 0; s < ks; s++) v[r][s] = from[s * step];
                }
            }
            turn(v);
            for (int s = 0; s < ks; s++) {
                float *at = to + (k + s) * width + i;
                if (width - i >= LANES) *(vec *)at = v[s];
                else store_part(at, v[s], width - i);
            }
        }
    }
}

/* -- a tile: `rows` by `wide` vectors, the last of which has `part` elements */

typedef void tile_t(const float *a, const float *b, long depth, float *out, long row, const float *base, long below,
                    int part);

INLINE vec read(const float *p, int part) { return part == LANES ? *(const vec *)p : load_part(p, part); }
INLINE void write(float *p, vec v, int part) {
    if (part == LANES) *(vec *)p = v;
    else store_part(p, v, part);
}

/* out = base + a b: base has rows that are `below` apart (0: the same for all), or is NULL: zeros. */
INLINE void tile(const int rows, const int wide, const float *a, const float *b, long depth, float *out, long row,
                 const float *base, long below, int part) {
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define BEGIN(i) vec l##i = {0}, r##i = {0};
#define STEP(i)                                                \
    if (rows > i) {                                            \
        vec s = spread(a[i]);                                  \
        l##i = multiply_add(s, left, l##i);                    \
        if (wide > 1) r##i = multiply_add(s, right, r##i);     \
    }
#define END(i)                                                                           \
    if (rows > i) {                                                                      \
        int first = wide > 1 ? LANES : part;                                             \
        if (base) l##i += read(base + i * below, first);                                 \
        write(out + i * row, l##i, first);                                               \
        if (wide > 1) {                                                                  \
            if (base) r##i += read(base + i * below + LANES, part);                      \
            write(out + i * row + LANES, r##i, part);                                    \
        }                                                                                \
    }
    EACH(BEGIN)
    for (long k = 0; k < depth; k++, a += rows, b += wide * LANES) {
        vec left = *(const vec *)b, right = wide > 1 ? *(const vec *)(b + LANES) : left;
        EACH(STEP)
    }
    EACH(END)
}

#define TILE(r, w)                                                                                                \
    static void tile_##r##_##w(const float *a, const float *b, long depth, float *out, long row, const float *base, \
                               long below, int part) {                                                            \
        tile(r, w, a, b, depth, out, row, base, below, part);                                                     \
    }
#define TILES(w) TILE(1, w) TILE(2, w) TILE(3, w) TILE(4, w) TILE(5, w) TILE(6, w)
TILES(1) TILES(2)
#if ROWS > 6
#define MORE(w) TILE(7, w) TILE(8, w) TILE(9, w) TILE(10, w) TILE(11, w) TILE(12, w)
MORE(1) MORE(2)
#endif

static tile_t *const tiles[2][ROWS] = {
#if ROWS > 6
#define NAMES(w) tile_1_##w, tile_2_##w, tile_3_##w, tile_4_##w, tile_5_##w, tile_6_##w, tile_7_##w, tile_8_##w, \
                 tile_9_##w, tile_10_##w, tile_11_##w, tile_12_##w
#else
#define NAMES(w) tile_1_##w, tile_2_##w, tile_3_##w, tile_4_##w, tile_5_##w, tile_6_##w
#endif
    {NAMES(1)}, {NAMES(2)}};

/* -- products */

typedef struct {
    long m, n, k;                     /* out is m x n */
    long a_row, a_column, b_row, b_column, row; /* strides in elements; out's columns lie beside each other */
    long add;                         /* whether out is added to */
} product_t;

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }

/* The packed form of columns [from, to) of b, rows [k, k + depth): panels of WIDE columns, the last perhaps of LANES. */
static void pack_panels(const float *b, long row, long column, long from, long to, long k, long depth, float *room) {
    for (long j = from; j < to; j += WIDE) {
        int width = to - j > LANES ? WIDE : LANES;
        pack(b + j * column + k * row, column, row, (int)least(to - j, width), width, depth, room);
        room += width * depth;
    }
}

/* Rows [i, i + rows), columns [from, to), of a packed panel of a and packed panels of b. */
static void along(int rows, const float *a, const float *b, long depth, long from, long to, float *out, long row,
                  const float *base, long below) {
    for (long j = from; j < to; j += WIDE) {
        long left = to - j;
        int wide = left > LANES, part = (int)least(left - wide * LANES, LANES);
        tiles[wide][rows - 1](a, b, depth, out + j, row, base ? base + j : NULL, below, part);
        b += (wide + 1) * LANES * depth;
    }
}

/* How many rows the next tile takes of those that are left: tiles of equal heights, as far as that goes. */
INLINE int height(long left) {
    long times = (left + ROWS - 1) / ROWS;
    return (int)((left + times - 1) / times);
}

static void part_of(const product_t *p, const float *a, const float *b, float *out, const float *bias, long i0, long i1,
                    long j0, long j1) {
    long depth_most = least(p->k, DEPTH), breadth = least((j1 - j0 + LANES - 1) / LANES * LANES, BREADTH);
    float *room = aligned_alloc(64, ((ROWS + breadth) * depth_most + 4 * LANES) * sizeof(float) / 64 * 64 + 64);
    float *panels = room + (ROWS * depth_most + 2 * LANES) / LANES * LANES;
    for (long k = 0; k < p->k; k += DEPTH) {
        long depth = least(p->k - k, DEPTH);
        const float *base = k || p->add ? out : bias;
        long below = base == out ? p->row : 0;
        for (long j = j0; j < j1; j += BREADTH) {
            long end = least(j + BREADTH, j1);
            pack_panels(b, p->b_row, p->b_column, j, end, k, depth, panels);
            for (long i = i0; i < i1;) {
                int rows = height(i1 - i);
                pack(a + i * p->a_row + k * p->a_column, p->a_row, p->a_column, rows, rows, depth, room);
                along(rows, room, panels, depth, j, end, out + i * p->row, p->row, base ? base + i * below : NULL, below);
                i += rows;
            }
        }
    }
    free(room);
}

/* In pieces for several threads, along the longer side, of which the other matrix would be packed by each. */
EXPORT void gemm(const product_t *p, const float *a, const float *b, float *out, const float *bias) {
    long across = p->n >= p->m, side = across ? p->n : p->m, unit = across ? WIDE : ROWS;
    long units = (side + unit - 1) / unit, team = SHOAL_TEAM(p->m * p->n * p->k / GRAIN);
    long pieces = team > 1 ? least(units, most(team, least(4 * team, side / 128))) : 1;
#pragma omp parallel for schedule(dynamic) num_threads((int)team) if (team > 1)
    for (long piece = 0; piece < pieces; piece++) {
        long from = units * piece / pieces * unit, to = least(units * (piece + 1) / pieces * unit, side);
        if (across) part_of(p, a, b, out, bias, 0, p->m, from, to);
        else part_of(p, a, b, out, bias, from, to, 0, p->n);
    }
}

/* Many products of one form: the i-th takes a + a_at[i], b + b_at[i], out + i * m * n. */
EXPORT void gemm_batch(const product_t *p, long count, const float *a, const long *a_at, const float *b,
                       const long *b_at, float *out) {
#pragma omp parallel for schedule(dynamic) num_threads(SHOAL_TEAM(count * p->m * p->n * p->k / GRAIN))
    for (long i = 0; i < count; i++)
        part_of(p, a + a_at[i], b + b_at[i], out + i * p->m * p->n, NULL, 0, p->m, 0, p->n);
}
