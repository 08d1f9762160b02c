/* Many small arrays and one long one: memory in, memory out. */

#include <string.h>

EXPORT void gather(char *out, const void *const *from, const long *bytes, long n) {
    for (long i = 0; i < n; i++) {
        memcpy(out, from[i], (size_t)bytes[i]);
        out += bytes[i];
    }
}

EXPORT void scatter(const char *in, void *const *to, const long *at, const long *bytes, long n) {
    for (long i = 0; i < n; i++) memcpy(to[i], in + at[i], (size_t)bytes[i]);
}
