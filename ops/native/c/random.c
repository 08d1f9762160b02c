/* Philox 4x64-10 (Salmon et al., SC'11), the stream of numpy.random.Philox: each block from its own counter. */

typedef unsigned __int128 wide_t;

INLINE void philox(const uint64_t *counter, uint64_t k0, uint64_t k1, uint64_t *out) {
    uint64_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    for (int round = 0; round < 10; round++) {
        wide_t p = (wide_t)a * 0xD2E7470EE14C6C93ULL, q = (wide_t)c * 0xCA5A826395121157ULL;
        a = (uint64_t)(q >> 64) ^ b ^ k0;
        b = (uint64_t)q;
        c = (uint64_t)(p >> 64) ^ d ^ k1;
        d = (uint64_t)p;
        k0 += 0x9E3779B97F4A7C15ULL;
        k1 += 0xBB67AE8584CAA73BULL;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

/* mask[i] = scale where the i-th number of 16 bits is at least dropped, else 0. words: k0, k1, index, step, worker. */
EXPORT void dropout_mask(const uint64_t *words, float *mask, long n, long dropped, float scale) {
    long blocks = (n + 15) / 16;
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(n * 2))
    for (long block = 0; block < blocks; block++) {
        uint64_t counter[4] = {(uint64_t)block + 1, words[2], words[3], words[4]}, bits[4];
        uint16_t small[16];
        philox(counter, words[0], words[1], bits);
        for (int i = 0; i < 16; i++) small[i] = (uint16_t)(bits[i / 4] >> (16 * (i % 4)));
        long first = block * 16, count = n - first < 16 ? n - first : 16;
        for (long i = 0; i < count; i++) mask[first + i] = small[i] >= dropped ? scale : 0.0f;
    }
}
