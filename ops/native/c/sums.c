/* Sums over rows. A thread has columns of its own, and adds their rows in single precision block by block, the blocks
   in double: accurate, and the same bits for any number of threads. */

#define WIDE 64
#define BLOCK 128

EXPORT void column_sums(const float *x, float *out, long rows, long n) {
#pragma omp parallel for schedule(static) num_threads(SHOAL_TEAM(rows * n))
    for (long from = 0; from < n; from += WIDE) {
        long width = n - from < WIDE ? n - from : WIDE;
        double sum[WIDE] = {0};
        for (long start = 0; start < rows; start += BLOCK) {
            long end = start + BLOCK < rows ? start + BLOCK : rows;
            float part[WIDE] = {0};
            for (long r = start; r < end; r++) {
                const float *row = x + r * n + from;
                if (width == WIDE) {
#pragma omp simd
                    for (long j = 0; j < WIDE; j++) part[j] += row[j];
                } else {
                    for (long j = 0; j < width; j++) part[j] += row[j];
                }
            }
            for (long j = 0; j < width; j++) sum[j] += part[j];
        }
        for (long j = 0; j < width; j++) out[from + j] = (float)sum[j];
    }
}
