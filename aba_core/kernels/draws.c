/* Uniform draws: the last mixing of the counter-based hash of aba_core/randomness.py, bit for bit: whole
 * numbers are exact, and so is what is made of them. */
#include "vectors.h"

/* The finaliser of SplitMix64. */
INLINE uint64_t mix(uint64_t bits)
{
    bits += 0x9E3779B97F4A7C15u;
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return bits ^ bits >> 31;
}

/* In (0, 1): the topmost number would round to 1. */
INLINE double unit_interval(uint64_t bits)
{
    const double most = 1 - 0x1p-53, value = ((double)(int64_t)(bits >> 11) + 0.5) * 0x1p-53;
    return value < most ? value : most;
}

/* to[row, column]: of heads[row], which mix stream and step, and places[row, column]. s: rows, columns. */
void uniforms(const int64_t *s, const uint64_t *heads, const uint64_t *restrict places, double *restrict to)
{
    for (int64_t row = 0; row < s[0]; row++, places += s[1], to += s[1])
        for (int64_t n = 0; n < s[1]; n++) to[n] = unit_interval(mix(heads[row] ^ places[n]));
}

/* The same of the places begins[row] + stride · column, which are many. s: rows, columns, stride. */
void uniforms_along(const int64_t *s, const uint64_t *heads, const uint64_t *begins, double *restrict to)
{
    const uint64_t stride = (uint64_t)s[2];
    for (int64_t row = 0; row < s[0]; row++, to += s[1])
        for (int64_t n = 0; n < s[1]; n++)
            to[n] = unit_interval(mix(heads[row] ^ (begins[row] + stride * (uint64_t)n)));
}
