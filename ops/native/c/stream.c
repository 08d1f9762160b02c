/* A copy past the caches: the destination is not read before it is written, as ordinary stores do it line by line, and
   takes no room that others need. memcpy does so too, but only when a single copy is larger than the caches. */
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#define LOAD(p) _mm512_loadu_si512((const void *)(p))
#define STREAM(p, x) _mm512_stream_si512((void *)(p), x)
#elif defined(__AVX__)
#define WIDTH 32
#define LOAD(p) _mm256_loadu_si256((const void *)(p))
#define STREAM(p, x) _mm256_stream_si256((void *)(p), x)
#elif defined(__SSE2__)
#define WIDTH 16
#define LOAD(p) _mm_loadu_si128((const void *)(p))
#define STREAM(p, x) _mm_stream_si128((void *)(p), x)
#endif

#define STEP 256    /* bytes in a turn of the loop: four lines */
#define AHEAD 2048  /* bytes between what is asked for and what is copied */

EXPORT void stream_copy(char *restrict out, const char *restrict in, long n) {
#ifdef WIDTH
    long head = (long)(-(uintptr_t)out & 63);  /* streaming stores go to whole lines */
    if (head > n) head = n;
    memcpy(out, in, head);
    long at = head;
    for (; at + STEP <= n; at += STEP) {
        for (int k = 0; k < STEP; k += 64) __builtin_prefetch(in + at + AHEAD + k, 0);
        for (int k = 0; k < STEP; k += WIDTH) STREAM(out + at + k, LOAD(in + at + k));
    }
    _mm_sfence();  /* in order with every store that follows */
    memcpy(out + at, in + at, n - at);
#else
    memcpy(out, in, n);
#endif
}
