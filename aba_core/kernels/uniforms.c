/* Uniform draws in (0, 1) of many places of each row, by the mixing of randomness.py. Whole numbers are
 * exact and so is what is made of them, so the bits are those of the tensor code. */
#include "vectors.h"

static inline uint64_t mixed(uint64_t bits)
{
    bits += 0x9E3779B97F4A7C15u;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
    return bits ^ (bits >> 31);
}

/* s: rows, places, stride. keys, begins: [row]; to: [row, place], of the counters begin + stride · place. */
void uniforms(const int64_t *s, const int64_t *restrict keys, const int64_t *restrict begins,
              double *restrict to)
{
    const int64_t places = s[1];
    const uint64_t stride = (uint64_t)s[2];
    for (int64_t i = 0; i < s[0]; i++, to += places) {
        const uint64_t key = (uint64_t)keys[i], begin = (uint64_t)begins[i];
        for (int64_t n = 0; n < places; n++) {
            const int64_t bits = (int64_t)(mixed(key ^ (begin + stride * (uint64_t)n)) >> 11);
            const double drawn = ((double)bits + 0.5) * 0x1p-53;
            to[n] = drawn < 1.0 - 0x1p-53 ? drawn : 1.0 - 0x1p-53;
        }
    }
}
