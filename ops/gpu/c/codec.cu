/* Gradients in one or two bits a value, and in half precision: bit for bit what the codecs of the CPU send
   (shoal/kvstore/codecs/signs.py, plain.py). `rest` is what was not sent, in S; a byte has its first value in its
   highest bits; the last bytes are filled up as the CPU fills them, with values of 0. Where `*bad` is set, a value is
   infinite or nan: nothing is changed, and what is in `out` means nothing. */
#define EVERY(i, size) \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (size); i += (int64_t)gridDim.x * blockDim.x)

/* *bad = 1 if a sum is not finite; it was 0. */
TEMPLATE(class T, class S) codec_bad(const T *g, const S *rest, uint32_t *bad, int64_t n) {
    bool found = false;
    EVERY(i, n) found = found || !finite_((rest ? rest[i] : (S)0) + (S)widen(g[i]));
    if (found) *bad = 1;
}

TEMPLATE(class T, class S) codec_two(const T *g, S *rest, const uint32_t *bad, uint8_t *out, int64_t n, int64_t bytes,
                                     double threshold) {
    if (*bad) return;
    const S t = (S)threshold;
    EVERY(b, bytes) {
        unsigned code = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int64_t i = b * 4 + k;
            if (i >= n) continue;
            const S v = rest[i] + (S)widen(g[i]);
            const bool up = v >= t, down = v <= -t;
            code |= (unsigned)((up || down) << 1 | up) << (6 - 2 * k);
            rest[i] = v - (up ? t : down ? -t : (S)0);
        }
        out[b] = (uint8_t)code;
    }
}

TEMPLATE(class T, class S) codec_one(const T *g, S *rest, const uint32_t *bad, uint8_t *out, int64_t n, int64_t bytes,
                                     double threshold) {
    if (*bad) return;
    const S t = (S)threshold;
    EVERY(b, bytes) {
        unsigned code = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int64_t i = b * 8 + k;
            const S v = i < n ? rest[i] + (S)widen(g[i]) : (S)0;
            const bool up = v > t;
            code |= (unsigned)up << (7 - k);
            if (i < n) rest[i] = v - (up ? (S)1 : (S)-1);
        }
        out[b] = (uint8_t)code;
    }
}

/* A zero is + and - in turn over positions and steps; `*step` counts from 1. */
TEMPLATE(class T, class S) codec_sign(const T *g, const uint32_t *step, const uint32_t *bad, uint8_t *out, int64_t n,
                                      int64_t bytes) {
    if (*bad) return;
    const uint32_t clock = *step - 1;
    EVERY(b, bytes) {
        unsigned code = 0;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int64_t i = b * 8 + k;
            const S v = i < n ? (S)widen(g[i]) : (S)-1;
            code |= (unsigned)(v > (S)0 || (v == (S)0 && (((uint32_t)i + clock) & 1))) << (7 - k);
        }
        out[b] = (uint8_t)code;
    }
}

/* *bad = 1 if a finite value becomes infinite; infinities and nan pass. */
TEMPLATE(class T) codec_half(const T *g, f16 *out, uint32_t *bad, int64_t n) {
    bool found = false;
    EVERY(i, n) {
        const f16 h = narrow<f16>((float)widen(g[i]));
        found = found || (!finite_(widen(h)) && finite_(widen(g[i])));
        out[i] = h;
    }
    if (found) *bad = 1;
}
