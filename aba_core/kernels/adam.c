/* Adam. The file includes itself once for each type of numbers. */
#ifndef REAL

#include "vectors.h"

#define REAL float
#define ROOT sqrtf
#define NAME(name) name##_float
#include "adam.c"
#undef REAL
#undef ROOT
#undef NAME
#define REAL double
#define ROOT sqrt
#define NAME(name) name##_double
#include "adam.c"

#else

/* One step of Adam, every number read and written once. values, gradient, first, second: [replica,
 * parameter], contiguous. rates: one a replica, the first moment's correction in them. decay: what
 * is added of the values to their gradient. share_*: of the gradient, and of its square, in the
 * moments. correction: what the root of the second moment is multiplied by. No line leaves a
 * compiler the choice of which product to fuse. */
void NAME(adam)(const int64_t *s, REAL *restrict values, const REAL *restrict gradient,
                REAL *restrict first, REAL *restrict second, const REAL *restrict rates,
                const double *numbers)
{
    const REAL decay = (REAL)numbers[0], share_1 = (REAL)numbers[1], share_2 = (REAL)numbers[2];
    const REAL correction = (REAL)numbers[3], tiny = (REAL)numbers[4];
    for (int64_t r = 0; r < s[0]; r++) {
        const REAL rate = rates[r];
        for (int64_t n = r * s[1]; n < (r + 1) * s[1]; n++) {
            const REAL g = gradient[n] + decay * values[n];
            const REAL m = first[n] + share_1 * (g - first[n]);
            const REAL v = second[n] + share_2 * (g * g - second[n]);
            first[n] = m;
            second[n] = v;
            values[n] -= rate * m / (ROOT(v) * correction + tiny);
        }
    }
}

#endif
