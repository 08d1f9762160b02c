/* Random numbers, the very ones of the CPU: NumPy's Philox 4x64-10 (Salmon et al., SC 2011). `key` is in the memory of
   the GPU, five words: two of the key, index, step and worker; so a recorded step draws new numbers when they change. */
/* The four words of block b of the stream; the generator counts before it draws. */
#define WORDS(b) \
    uint64_t c[4] = {(uint64_t)(b) + 1, key[2], key[3], key[4]}; \
    philox(c, key[0], key[1]);
#define EVERY_BLOCK(b, size) \
    for (int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; b < (size); b += (int64_t)gridDim.x * blockDim.x)

/* 0 where 16 random bits are less than `dropped`, else `scale`. */
TEMPLATE(class T) dropout_mask(const uint64_t *key, T *mask, int64_t size, int dropped, double scale) {
    typedef typename Wide<T>::type A;
    const T kept = narrow<T>((A)scale), gone = narrow<T>((A)0);
    EVERY_BLOCK(b, (size + 15) / 16) {
        WORDS(b)
#pragma unroll
        for (int k = 0; k < 16; k++) {
            const int64_t i = b * 16 + k;
            if (i < size) mask[i] = (int)(c[k / 4] >> (16 * (k % 4)) & 0xffff) >= dropped ? kept : gone;
        }
    }
}

/* From 0 up to, but without, 1: 24 bits, in float16 at most 1 - 2**-11. */
TEMPLATE(class T) random_uniform(const uint64_t *key, T *out, int64_t size, float most) {
    EVERY_BLOCK(b, (size + 7) / 8) {
        WORDS(b)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int64_t i = b * 8 + k;
            const float v = (float)((uint32_t)(c[k / 2] >> (32 * (k % 2))) >> 8) * 5.9604644775390625e-08f;
            if (i < size) out[i] = narrow<T>(v < most ? v : most);
        }
    }
}

/* 53 bits. */
TEMPLATE(class T) random_uniform_wide(const uint64_t *key, T *out, int64_t size, float most) {
    EVERY_BLOCK(b, (size + 3) / 4) {
        WORDS(b)
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (b * 4 + k < size) out[b * 4 + k] = narrow<T>((double)(c[k] >> 11) * 1.1102230246251565e-16);
    }
}
