/* Uniform draws: the last mixing of the counter-based hash of aba_core/randomness.py, bit for bit. */
#include "vectors.h"

/* The finaliser of SplitMix64. */
INLINE uint64_t mix(uint64_t bits)
{
    bits += 0x9E3779B97F4A7C15u;
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return bits ^ bits >> 31;
}

/* to[row, column]: in (0, 1), of heads[row], which mix stream and step, and places[row, column].
 * s: rows, columns. */
void uniforms(const int64_t *s, const uint64_t *heads, const uint64_t *restrict places, double *restrict to)
{
    const double most = 1 - 0x1p-53;
    for (int64_t row = 0; row < s[0]; row++, places += s[1], to += s[1])
        for (int64_t n = 0; n < s[1]; n++) {
            const int64_t whole = (int64_t)(mix(heads[row] ^ places[n]) >> 11);
            const double value = ((double)whole + 0.5) * 0x1p-53;
            to[n] = value < most ? value : most;    /* the topmost number would round to 1 */
        }
}
