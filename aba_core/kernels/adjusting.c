/* Inputs moved by ABA: each sample draws an adjustment, and each of its features takes the change of the
 * category that its attribution falls into. The file includes itself once for each type of numbers. */
#ifndef REAL

#include "vectors.h"

/* What `s` holds; then how many features lie below each cut, none where categories go by sign. */
enum { REPLICAS, BATCH, FEATURES, MEMBERS, CATEGORIES, MAGNITUDES, CUTS, COUNTS };
enum { FIXED, FOLDED, SIGNED };    /* magnitudes are 1, or drawn and taken without their sign, or with it */
#define MOST_CATEGORIES 64

/* values, a row each, into rows of `to`, which are known from now on. s: rows, bytes of each. */
void keep(const int64_t *s, const char *values, const int64_t *rows, char *to, unsigned char *known)
{
    for (int64_t i = 0; i < s[0]; i++) {
        memcpy(to + rows[i] * s[1], values + i * s[1], (size_t)s[1]);
        known[rows[i]] = 1;
    }
}

#define REAL float
#define NAME(name) name##_float
#include "adjusting.c"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "adjusting.c"

#else

/* Whether comparing with the cuts is enough: no ties on a cut, no category empty, no cut that is NaN. */
static int NAME(clear)(const int64_t *s, const REAL *ordered)
{
    int64_t last = 0;
    for (int64_t c = 0; c < s[CUTS]; c++) {
        const int64_t count = s[COUNTS + c];
        if (count <= last || count >= s[FEATURES] || !(ordered[count - 1] < ordered[count])) return 0;
        last = count;
    }
    return 1;
}

/* Categories by exact sizes whatever the values: of equal ones on a cut those that `order` has first. A cut
 * that is NaN has nothing below it. below: FEATURES bytes a cut. */
static void NAME(by_rank)(const int64_t *s, const REAL *x, const REAL *map, const REAL *ordered,
                          const int64_t *order, const REAL *changes, signed char *below, REAL *to)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    for (int64_t c = 0; c < cuts; c++) {
        const int64_t count = s[COUNTS + c];
        const REAL cut = ordered[count ? count - 1 : 0];
        signed char *mine = below + c * features;
        int64_t left = count;
        for (int64_t n = 0; n < features; n++) {
            mine[n] = count == features || (count && map[n] < cut);
            left -= mine[n];
        }
        for (int64_t n = 0; n < features && left > 0; n++)
            if (map[order[n]] == cut) {
                mine[order[n]] = 1;
                left--;
            }
    }
    for (int64_t n = 0; n < features; n++) {
        REAL value = x[n];
        for (int64_t c = 0; c <= cuts; c++) {
            const int in = c == cuts || below[c * features + n], before = c && below[(c - 1) * features + n];
            if (in && !before) value += changes[c];
        }
        to[n] = value;
    }
}

/* A sample's change in each category. */
static void NAME(change)(const int64_t *s, const REAL *table, const double *edges, double chosen,
                         double factor, REAL *changes)
{
    int64_t member = 0;
    for (int64_t m = 0; m + 1 < s[MEMBERS]; m++) member += chosen >= edges[m];
    for (int64_t c = 0; c < s[CATEGORIES]; c++)
        changes[c] = (REAL)(factor * (double)table[member * s[CATEGORIES] + c]);
}

/* x, to: [replica, sample, feature]; map: the same, or `rows` [replica, sample] of a longer one. ordered: each
 * sample's map in order, NaN last; NULL: by sign. chosen, magnitudes: [replica, sample]; edges: [replica,
 * member - 1]; table: [replica, member, category]; strengths: [replica]. known: a byte for each row of the map, 0
 * where its sample stays as it is. order: of features that tie. rows, known, magnitudes, ordered and order
 * may be NULL. Gives 0, 1 where memory ran out, 2 for too many categories. */
int NAME(adjust)(const int64_t *s, const REAL *restrict x, const REAL *restrict map, const REAL *ordered,
                 const int64_t *rows, const unsigned char *known, const double *chosen,
                 const double *magnitudes, const double *edges, const REAL *table, const double *strengths,
                 const int64_t *order, REAL *restrict to)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    if (s[CATEGORIES] > MOST_CATEGORIES) return 2;
    signed char *below = ordered ? (signed char *)scratch((size_t)(cuts * features) + 1) : NULL;
    if (ordered && !below) return 1;
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++, x += features, to += features) {
        const int64_t r = i / s[BATCH], row = rows ? rows[i] : i;
        const REAL *restrict seen = map + row * features;
        const double drawn = s[MAGNITUDES] == FIXED ? 1 : magnitudes[i];
        const double magnitude = s[MAGNITUDES] == FOLDED ? fabs(drawn) : drawn;
        REAL changes[MOST_CATEGORIES];
        NAME(change)(s, table + r * s[MEMBERS] * s[CATEGORIES], edges + r * (s[MEMBERS] - 1), chosen[i],
                     strengths[r] * magnitude, changes);
        const REAL *own = ordered ? ordered + i * features : NULL;
        if (known && !known[row])
            memcpy(to, x, (size_t)features * sizeof(REAL));
        else if (!own)
            for (int64_t n = 0; n < features; n++)
                to[n] = x[n] + (seen[n] < 0 ? changes[0] : seen[n] > 0 ? changes[1] : 0);
        else if (cuts > 2 || !NAME(clear)(s, own))
            NAME(by_rank)(s, x, seen, own, order, changes, below, to);
        else {
            const REAL low = own[s[COUNTS] - 1], high = own[s[COUNTS + cuts - 1] - 1];
            const REAL lowest = changes[0], second = changes[1], highest = changes[cuts];
            for (int64_t n = 0; n < features; n++)
                to[n] = x[n] + (seen[n] <= low ? lowest : seen[n] <= high ? second : highest);
        }
    }
    return 0;
}

#endif
