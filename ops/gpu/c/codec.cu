/* Gradients on their way to a store, encoded: bit for bit what the codecs of the CPU send (shoal/kvstore/codecs).

   `spans` has a row of ten numbers for each slice of the gradient, and blockIdx.y counts them: where the slice begins in
   `g`, how many values it has, where its parts begin in `out` (four, in bytes), the slice's id, what makes a clock of
   `*step`, how many values are chosen, and how many there are with those that fill up the last group. `rest` is what was
   not sent; null for codecs without feedback. A byte has its first value in its highest bits. Where `*bad` is set a value
   is infinite or nan: nothing is changed, and what is in `out` means nothing. */
#define EVERY(i, size) \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size); i += (int64_t)gridDim.x * blockDim.x)
#define SPAN const int64_t *const span = spans + 10 * (int64_t)blockIdx.y; const int64_t n = span[1];
#define CLOCK ((int64_t)*step + span[7])

/* *bad = 1 if a sum is not finite; it was 0. */
TEMPLATE(class T, class S) codec_bad(const T *g, const S *rest, uint32_t *bad, int64_t n) {
    bool found = false;
    EVERY(i, n) found = found || !finite_((rest ? rest[i] : (S)0) + (S)widen(g[i]));
    if (found) *bad = 1;
}

/* One byte of codes, from code(0) in its highest bits on. */
template <int BITS, class F> DEV uint8_t packed(F code) {
    unsigned byte = 0;
#pragma unroll
    for (int k = 0; k < 8 / BITS; k++) byte |= (unsigned)code(k) << (8 - BITS * (k + 1));
    return (uint8_t)byte;
}

/* Values one by one: to 32-bit words of codes. */
template <int BITS, class F> DEV void pack_all(const int64_t *span, uint8_t *out, F code) {
    const int64_t bytes = (span[1] * BITS + 31) / 32 * 4;
    EVERY(b, bytes) out[span[2] + b] = packed<BITS>([&](int k) { return code(b * (8 / BITS) + k); });
}

TEMPLATE(class T, class S) codec_two(const T *g, S *rest, const uint32_t *bad, const int64_t *spans, uint8_t *out,
                                     double threshold) {
    if (*bad) return;
    SPAN
    const S t = (S)threshold;
    pack_all<2>(span, out, [&](int64_t i) {
        if (i >= n) return 0u;
        const int64_t at = span[0] + i;
        const S v = rest[at] + (S)widen(g[at]);
        const bool up = v >= t, down = v <= -t;
        rest[at] = v - (up ? t : down ? -t : (S)0);
        return (unsigned)((up || down) << 1 | up);
    });
}

TEMPLATE(class T, class S) codec_one(const T *g, S *rest, const uint32_t *bad, const int64_t *spans, uint8_t *out,
                                     double threshold) {
    if (*bad) return;
    SPAN
    const S t = (S)threshold;
    pack_all<1>(span, out, [&](int64_t i) {
        if (i >= n) return (unsigned)((S)0 > t);
        const int64_t at = span[0] + i;
        const S v = rest[at] + (S)widen(g[at]);
        const bool up = v > t;
        rest[at] = v - (up ? (S)1 : (S)-1);
        return (unsigned)up;
    });
}

/* A zero is + and - in turn over positions and clocks. */
template <class S> DEV unsigned sign_of(S v, int64_t i, int64_t clock) {
    return v > (S)0 || (v == (S)0 && ((i + clock) & 1));
}

TEMPLATE(class T, class S) codec_sign(const T *g, const uint32_t *bad, const uint32_t *step, const int64_t *spans,
                                      uint8_t *out) {
    if (*bad) return;
    SPAN
    const int64_t clock = CLOCK;
    pack_all<1>(span, out, [&](int64_t i) { return i < n ? sign_of((S)widen(g[span[0] + i]), i, clock) : 0u; });
}

/* *bad = 1 if a finite value becomes infinite; infinities and nan pass. */
TEMPLATE(class T) codec_half(const T *g, uint32_t *bad, const int64_t *spans, uint8_t *out) {
    SPAN
    bool found = false;
    EVERY(i, n) {
        const float v = (float)widen(g[span[0] + i]);
        const f16 h = narrow<f16>(v);
        found = found || (!finite_(widen(h)) && finite_(v));
        ((f16 *)(out + span[2]))[i] = h;
    }
    if (found) *bad = 1;
}

/* --- groups of values that share a scale: a block of 256 threads for each ----------------------------------------- */

/* The sum of value(0 .. width - 1), in the order of shoal/kvstore/codecs/sums.py, in all threads. */
template <class A, class F> DEV A ordered_sum(int64_t width, F value, A *quads, A *pieces) {
    const int64_t piece = width < 1024 ? width : 1024, count = width / piece;
    const int t = threadIdx.x;
    for (int64_t p = 0; p < count; p++) {
        if (t < piece / 4) {
            const int64_t i = p * piece + t / 4 * 16 + t % 4;
            quads[t] = (value(i) + value(i + 4)) + (value(i + 8) + value(i + 12));
        }
        __syncthreads();
        if (t < 4) {
            A running = (A)0;
            for (int k = t; k < piece / 4; k += 4) running = quads[k] + running;
            quads[256 + t] = running;
        }
        __syncthreads();
        if (t == 0) pieces[p] = (quads[256] + quads[257]) + (quads[258] + quads[259]);
        __syncthreads();
    }
    if (t == 0)
        for (int64_t half = count / 2; half > 0; half /= 2)
            for (int64_t p = 0; p < half; p++) pieces[p] = pieces[p] + pieces[p + half];
    __syncthreads();
    const A sum = pieces[0];
    __syncthreads();
    return sum;
}

/* In float64; what overflows in float32 is added in float64. */
template <class F> DEV double wide_sum(int64_t width, F value, double *quads, double *pieces) {
    const float sum = ordered_sum<float>(width, value, (float *)quads, (float *)pieces);
    if (finite_(sum)) return (double)sum;
    return ordered_sum<double>(
        width, [&](int64_t i) { return (double)value(i) * 0.0000152587890625; }, quads, pieces) * 65536.0;
}

template <class F> DEV float largest_of(int64_t width, F value, float *room) {
    float most = 0.0f;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) most = Max::of(most, fabsf(value(i)));
    return row_reduce<Max>(most, room);
}

/* The Euclidean norm; where squares would overflow or vanish, relative to the largest magnitude. */
template <class F> DEV float norm_of(int64_t width, F value, double *quads, double *pieces, float *room) {
    float *q = (float *)quads, *p = (float *)pieces;
    const float squares = ordered_sum<float>(width, [&](int64_t i) { return value(i) * value(i); }, q, p);
    if (squares > 8.271806125530277e-25f && squares <= FLT_MAX) return sqrt_(squares);
    const float top = largest_of(width, value, room), least = top > 1.1754943508222875e-38f ? top : 1.1754943508222875e-38f;
    const float sum = ordered_sum<float>(
        width, [&](int64_t i) { const float r = value(i) / least; return r * r; }, q, p);
    return top * sqrt_(sum);
}

#define GROUP \
    SPAN \
    const int64_t first = (int64_t)blockIdx.x * group; \
    if (first >= n) return; \
    const T *const mine = g + span[0]; \
    float *const left = rest ? rest + span[0] : rest; \
    SHARED(double, quads, 260); \
    SHARED(double, pieces, 64); \
    SHARED(float, room, 32); \
    const auto value = [&](int64_t j) { \
        const int64_t i = first + j; \
        if (i >= n) return 0.0f; \
        const float v = (float)widen(mine[i]); \
        return left ? left[i] + v : v; \
    };

/* The random words of each slice: those of the uses first, then those that are used again (dither.py). */
TEMPLATE(class T) codec_dither(const uint64_t *key, const uint32_t *bad, const uint32_t *step, const int64_t *spans,
                               uint64_t *table, int64_t stride) {
    if (*bad) return;
    SPAN
    const int64_t padded = span[9], base = padded < 16384 ? padded : 16384;
    const int64_t words = padded / 65536 + 1 + (base + 3) / 4;
    (void)n;
    EVERY(b, (words + 3) / 4) {
        uint64_t c[4] = {(uint64_t)b + 1, (uint64_t)span[6], (uint64_t)CLOCK, key[2]};
        philox(c, key[0], key[1]);
#pragma unroll
        for (int k = 0; k < 4; k++) table[blockIdx.y * stride + b * 4 + k] = c[k];
    }
}

/* Stochastic rounding to `top` levels of the largest magnitude, or of the norm. Codes of `bits` bits have `add` added. */
TEMPLATE(class T) codec_levels(const T *g, float *rest, const uint32_t *bad, const int64_t *spans, const uint64_t *table,
                               uint8_t *out, int64_t group, int64_t stride, int top, int bits, int add, int of_norm) {
    if (*bad) return;
    GROUP
    const float length = of_norm ? norm_of(group, value, quads, pieces, room) : largest_of(group, value, room);
    const float least = 2.350988701644575e-38f;
    float unit = (length < FLT_MAX ? length : FLT_MAX) / (float)top;
    const float inverse = 1.0f / (unit > least ? unit : least);
    unit = unit >= least ? unit : 0.0f;
    if (threadIdx.x == 0) ((float *)(out + span[3]))[blockIdx.x] = unit;

    int log = 0;
    while (top >> log) log++;
    const int shift = 7 - log;
    const uint32_t ones = as_word((float)(1 << log)) | (shift > 0 ? 1u << (shift - 1) : 0u);
    const uint16_t *const keys = (const uint16_t *)(table + blockIdx.y * stride);
    const uint16_t *const base = keys + (span[9] / 65536 + 1) * 4;
    const auto code_of = [&](int64_t j) {
        const int64_t i = first + j;
        const float v = value(j);
        const uint32_t number = (uint32_t)(base[i & 16383] ^ keys[i >> 14]);
        const float scaled = v * inverse + as_float(ones | (shift >= 0 ? number << shift : number >> -shift));
        const uint32_t code = (uint32_t)scaled, most = (uint32_t)((1 << log) + top);
        const int found = (int)(code < most ? code : most) + add;
        if (left && i < n) left[i] = v - (float)found * unit;
        return found;
    };
    uint8_t *const codes = out + span[2];
    if (bits == 2) {
        for (int64_t b = threadIdx.x; b < group / 4; b += blockDim.x)
            if (first / 4 + b < (n + 15) / 16 * 4)
                codes[first / 4 + b] = packed<2>([&](int k) { return code_of(b * 4 + k); });
    } else if (bits == 4) {
        for (int64_t b = threadIdx.x; b < group / 2; b += blockDim.x)
            if (first / 2 + b < (n + 1) / 2)
                codes[first / 2 + b] = packed<4>([&](int k) { return code_of(b * 2 + k); });
    } else {
        for (int64_t j = threadIdx.x; j < group && first + j < n; j += blockDim.x)
            if (bits == 8) codes[first + j] = (uint8_t)code_of(j);
            else ((uint16_t *)codes)[first + j] = (uint16_t)code_of(j);
    }
}

/* A bit for each value, and for each group the mean of its negative and that of its other values; or, with `even`, the
   sign and the mean magnitude. */
TEMPLATE(class T) codec_means(const T *g, float *rest, const uint32_t *bad, const uint32_t *step, const int64_t *spans,
                              uint8_t *out, int64_t group, int even) {
    if (*bad) return;
    GROUP
    SHARED(int, counts, 32);
    const int64_t there = n - first < group ? n - first : group, clock = CLOCK;
    float below, above;
    if (even) {
        above = (float)(wide_sum(group, [&](int64_t j) { return fabsf(value(j)); }, quads, pieces) / (double)there);
        below = -above;
    } else {
        int many = 0;
        for (int64_t j = threadIdx.x; j < there; j += blockDim.x) many += value(j) >= 0.0f;
        many = row_reduce<Add>(many, counts);
        const double few = (double)(there - many > 1 ? there - many : 1), more = (double)(many > 1 ? many : 1);
        below = (float)(wide_sum(
            group, [&](int64_t j) { const float v = value(j); return v < 0.0f ? v : 0.0f; }, quads, pieces) / few) + 0.0f;
        above = (float)(wide_sum(
            group, [&](int64_t j) { const float v = value(j); return v > 0.0f ? v : 0.0f; }, quads, pieces) / more) + 0.0f;
    }
    if (threadIdx.x == 0) {
        float *const means = (float *)(out + span[3]);
        if (even) means[blockIdx.x] = above;
        else { means[2 * blockIdx.x] = below; means[2 * blockIdx.x + 1] = above; }
    }
    for (int64_t b = threadIdx.x; b < group / 8; b += blockDim.x)
        if (first / 8 + b < (n + 31) / 32 * 4)
            out[span[2] + first / 8 + b] = packed<1>([&](int k) {
                const int64_t j = b * 8 + k, i = first + j;
                if (i >= n) return 0u;
                const float v = value(j);
                const unsigned up = even ? sign_of(v, i, clock) : (unsigned)(v >= 0.0f);
                left[i] = v - (up ? above : below);
                return up;
            });
}

/* --- few values, and where they are ------------------------------------------------------------------------------- */

/* The span[8] values of largest magnitude, of equals the first, and no zeros: values, 16 bits of their positions, how many
   lie in each 65536, how many there are. One block for each slice: it finds the smallest magnitude that is sent byte by
   byte, then each warp writes its part of the slice behind the warps before it. */
TEMPLATE(class T) codec_top(const T *g, float *rest, const uint32_t *bad, const int64_t *spans, uint8_t *out) {
    if (*bad) return;
    SPAN
    float *const left = rest + span[0], *const values = (float *)(out + span[2]);
    uint16_t *const low = (uint16_t *)(out + span[3]);
    uint32_t *const counts = (uint32_t *)(out + span[4]), *const found = (uint32_t *)(out + span[5]);
    SHARED(uint32_t, bins, 256);
    SHARED(uint32_t, state, 2);
    SHARED(uint32_t, tally, 64);
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5, warps = blockDim.x >> 5;
    for (int64_t i = t; i < n; i += blockDim.x) left[i] = left[i] + (float)widen(g[span[0] + i]);
    for (int64_t j = t; j < (n + 65535) / 65536; j += blockDim.x) counts[j] = 0;

    uint32_t cut = 0, mask = 0, ties = (uint32_t)span[8];
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int j = t; j < 256; j += blockDim.x) bins[j] = 0;
        __syncthreads();
        for (int64_t i = t; i < n; i += blockDim.x) {
            const uint32_t size = as_word(left[i]) & 0x7fffffffu;
            if ((size & mask) == cut) atomicAdd(&bins[size >> shift & 255u], 1u);
        }
        __syncthreads();
        if (t == 0) {
            int digit = 255;
            for (; digit > 0 && ties > bins[digit]; digit--) ties -= bins[digit];
            state[0] = (uint32_t)digit;
            state[1] = ties;
        }
        __syncthreads();
        cut |= state[0] << shift;
        mask |= 255u << shift;
        ties = state[1];
    }
    if (cut == 0) ties = 0;

    const int64_t part = ((n + warps - 1) / warps + 31) / 32 * 32;
    const int64_t begin = warp * part, end = begin + part < n ? begin + part : n;
    uint32_t above = 0, equal = 0;
    for (int64_t at = begin; at < end; at += 32) {
        const uint32_t size = at + lane < end ? as_word(left[at + lane]) & 0x7fffffffu : 0;
        above += __popc(__ballot_sync(FULL, size > cut));
        equal += __popc(__ballot_sync(FULL, cut && size == cut));
    }
    if (lane == 0) { tally[warp] = above; tally[32 + warp] = equal; }
    __syncthreads();
    above = equal = 0;
    for (int w = 0; w < warp; w++) { above += tally[w]; equal += tally[32 + w]; }
    for (int64_t at = begin; at < end; at += 32) {
        const int64_t i = at + lane;
        const float v = i < end ? left[i] : 0.0f;
        const uint32_t size = as_word(v) & 0x7fffffffu, before = (1u << lane) - 1;
        const bool over = size > cut, same = cut && size == cut;
        const uint32_t overs = __ballot_sync(FULL, over), sames = __ballot_sync(FULL, same);
        const uint32_t rank = equal + __popc(sames & before);
        if (over || (same && rank < ties)) {
            const uint32_t place = above + __popc(overs & before) + (rank < ties ? rank : ties);
            values[place] = v;
            low[place] = (uint16_t)i;
            atomicAdd(&counts[i >> 16], 1u);
            left[i] = 0.0f;
        }
        above += __popc(overs);
        equal += __popc(sames);
    }
    if (warp == warps - 1 && lane == 0) *found = above + (equal < ties ? equal : ties);
}

TEMPLATE(class T) codec_add(const T *g, float *rest, const uint32_t *bad, int64_t n) {
    if (*bad) return;
    EVERY(i, n) rest[i] = rest[i] + (float)widen(g[i]);
}

/* One value at random of each of span[8] equal ranges, and what the generator began with. `rest` has had `g` added. */
TEMPLATE(class T) codec_some(const T *g, float *rest, const uint32_t *bad, const uint32_t *step, const uint64_t *key,
                             const int64_t *spans, uint8_t *out) {
    if (*bad) return;
    SPAN
    const int64_t many = span[8];
    uint64_t *const words = (uint64_t *)(out + span[3]);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        words[0] = key[0]; words[1] = key[1]; words[2] = 0;
        words[3] = (uint64_t)span[6]; words[4] = (uint64_t)CLOCK; words[5] = key[2];
    }
    EVERY(i, many) {
        uint64_t c[4] = {(uint64_t)(i / 8) + 1, (uint64_t)span[6], (uint64_t)CLOCK, key[2]};
        philox(c, key[0], key[1]);
        const uint64_t draw = c[i / 2 % 4] >> (32 * (i % 2)) & 0xffffffffull;
        const int64_t from = i * n / many, size = (i + 1) * n / many - from;
        const int64_t at = span[0] + from + (int64_t)(draw * (uint64_t)size >> 32);
        float *const value = (float *)(out + span[2]) + i;
        if (rest) { *value = rest[at]; rest[at] = 0.0f; }
        else *value = (float)widen(g[at]) * (float)size;
    }
}
