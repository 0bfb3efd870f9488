/* Inputs moved by the category that each feature's attribution falls into. The file includes itself once
 * for each type of numbers. */
#ifndef REAL

#include "vectors.h"

#define REAL float
#define NAME(name) name##_float
#include "adjusting.c"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "adjusting.c"

#else

/* s: samples, features, cuts. x, map, to: [sample, feature]; cuts: [sample, cut], increasing; changes:
 * [sample, cut + 1]. A feature belongs to the first category whose cut its attribution is not above. */
void NAME(adjust)(const int64_t *s, const REAL *restrict x, const REAL *restrict map,
                  const REAL *restrict cuts, const REAL *restrict changes, REAL *restrict to)
{
    const int64_t features = s[1], many = s[2];
    for (int64_t i = 0; i < s[0]; i++, cuts += many, changes += many + 1) {
        const REAL low = cuts[0], high = cuts[many - 1];
        const REAL lowest = changes[0], second = changes[1], highest = changes[many];
        for (int64_t n = i * features; many <= 2 && n < (i + 1) * features; n++)
            to[n] = x[n] + (map[n] <= low ? lowest : map[n] <= high ? second : highest);
        for (int64_t n = i * features; many > 2 && n < (i + 1) * features; n++) {
            int64_t category = 0;
            while (category < many && !(map[n] <= cuts[category])) category++;
            to[n] = x[n] + changes[category];
        }
    }
}

#endif
