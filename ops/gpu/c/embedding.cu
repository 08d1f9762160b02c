/* Rows of a table, and their gradient without atomics. */

/* out[r] = table[index[r]]; a negative index counts from the end, one that is no row gives nan. A block for a row. */
TEMPLATE(class T, class I) take(const T *table, const I *index, T *out, int64_t count, int64_t rows, int64_t n) {
    for (int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; r < count; r += (int64_t)gridDim.x * blockDim.y) {
        int64_t k = (int64_t)index[r];
        if (k < 0) k += rows;
        const bool known = k >= 0 && k < rows;
        const T *x = table + (known ? k : 0) * n;
        T *y = out + r * n;
        const bool packs = n % Packed<T>::count == 0 && aligned16(x) && aligned16(y);
        typedef typename Wide<T>::type A;
        if (known) map(x, y, n, packs, [](int64_t, A v) { return v; });
        else for (int64_t i = threadIdx.x; i < n; i += blockDim.x) y[i] = narrow<T>((A)NAN);
    }
}

/* table[index[r]] += g[r] over a table of zeros. Block x has the rows k with k % gridDim.x == x: it goes through all
   indices, collects up to `most` of its own in order, sorts them by row (the first come first), and adds each row's in
   one go; block y has every gridDim.y-th strip of columns. An index that is no row is left out. */
TEMPLATE(class T, class I) take_add(const T *g, const I *index, T *table, int64_t count, int64_t rows, int64_t n) {
    typedef typename Wide<T>::type A;
    const int most = 1024;
    SHARED(int64_t, given_row, 1024);
    SHARED(int64_t, row_of, 1024);
    SHARED(int, given_at, 1024);
    SHARED(int, at, 1024);
    SHARED(int, warps_have, 32);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    int have = 0;
    int64_t base = 0; /* positions in `at` are relative to it, so that they fit into 32 bits */
    for (int64_t from = 0; from < count || have; from += blockDim.x) {
        if (from < count) {
            const int64_t r = from + threadIdx.x;
            int64_t k = r < count ? (int64_t)index[r] : rows;
            if (k < 0) k += rows;
            const bool mine = k >= 0 && k < rows && k % gridDim.x == blockIdx.x;
            const unsigned which = __ballot_sync(FULL, mine);
            if (lane == 0) warps_have[warp] = __popc(which);
            __syncthreads();
            int before = have, all = have;
            for (int v = 0; v < warps; v++) {
                if (v < warp) before += warps_have[v];
                all += warps_have[v];
            }
            if (mine) {
                const int place = before + __popc(which & ((1u << lane) - 1u));
                given_row[place] = k;
                given_at[place] = (int)(r - base);
            }
            have = all;
            __syncthreads();
            if (have + (int)blockDim.x <= most && from + blockDim.x < count) continue;
        }
        for (int a = threadIdx.x; a < have; a += blockDim.x) {
            int rank = 0;
            for (int b = 0; b < have; b++) rank += given_row[b] < given_row[a] || (given_row[b] == given_row[a] && b < a);
            row_of[rank] = given_row[a];
            at[rank] = given_at[a];
        }
        __syncthreads();
        for (int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.y * blockDim.x) {
            for (int a = 0; a < have;) {
                const int64_t k = row_of[a];
                A sum = widen(table[k * n + i]);
                for (; a < have && row_of[a] == k; a++) sum += (A)widen(g[(base + at[a]) * n + i]);
                table[k * n + i] = narrow<T>(sum);
            }
        }
        __syncthreads();
        have = 0;
        base = from + blockDim.x;
    }
}
