/* Inputs moved by ABA: each sample draws an adjustment, and each of its features takes the change of the
 * category that its attribution falls into. The file includes itself once for each type of numbers. */
#ifndef REAL

#include "vectors.h"

/* What `s` holds; then how many features lie below each cut, none where categories go by sign. */
enum { REPLICAS, BATCH, FEATURES, MEMBERS, CATEGORIES, MAGNITUDES, CUTS, COUNTS };
enum { FIXED, FOLDED, SIGNED };    /* magnitudes are 1, or drawn and taken without their sign, or with it */
enum { NO_MEMORY = 1, TOO_MANY = 2, NEEDS_ORDER = 3 };    /* what a call can end with, beside 0 */
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
#define WHOLE int32_t
#define NAME(name) name##_float
#include "adjusting.c"
#undef REAL
#undef WHOLE
#undef NAME
#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "adjusting.c"

#else

/* A number that `count` of the values are not above, into `found`; 0 where a few guesses give none, as with
 * ties there, or NaN. Guesses follow the number of values below the ones before. scale: the size of values. */
static int NAME(parted)(const REAL *restrict values, WHOLE many, WHOLE count, REAL scale, REAL *found)
{
    const double share = (double)count / (double)many;
    REAL at = scale * (REAL)(log(share / (1 - share)) / 1.4), low = 0, high = 0, width = scale / 4;
    WHOLE below = -1, above = -1; /* how many are not above `low` and `high` */
    for (int tries = 0; tries < 24; tries++) {
        WHOLE seen = 0;
        for (WHOLE n = 0; n < many; n++) seen += values[n] <= at;
        if (seen == count) {
            *found = at;
            return 1;
        }
        if (seen < count) low = at, below = seen;
        else high = at, above = seen;
        if (below < 0 || above < 0) {
            at = below < 0 ? high - width : low + width;
            width *= 2;
        } else if (tries % 4 == 3)
            at = low + (high - low) / 2;
        else
            at = low + (high - low) * ((REAL)(count - below) + (REAL)0.5) / (REAL)(above - below);
    }
    return 0;
}

/* Numbers that part a sample's categories, one a cut; 0 where they were not found. */
static int NAME(cuts_of)(const int64_t *s, const REAL *values, REAL *cuts)
{
    REAL part[16] = {0}, sum = 0;
    const WHOLE many = (WHOLE)s[FEATURES];
    WHOLE n = 0;
    for (; n + 16 <= many; n += 16)
        for (int l = 0; l < 16; l++) part[l] += values[n + l] < 0 ? -values[n + l] : values[n + l];
    for (; n < many; n++) sum += values[n] < 0 ? -values[n] : values[n];
    for (int l = 0; l < 16; l++) sum += part[l];
    for (int64_t c = 0; c < s[CUTS]; c++) {
        const int64_t count = s[COUNTS + c];
        if (count <= 0 || count >= many || (c && count <= s[COUNTS + c - 1])) return 0;
        if (!NAME(parted)(values, many, (WHOLE)count, sum / (REAL)many, cuts + c)) return 0;
    }
    return 1;
}

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
 * sample's map in order, NaN last. chosen, magnitudes: [replica, sample]; edges: [replica, member - 1]; table:
 * [replica, member, category]; strengths: [replica]. known: a byte for each row of the map, 0 where its sample
 * stays as it is. order: of features that tie. rows, known, magnitudes, ordered and order may be NULL. Gives 0,
 * 1 where memory ran out, 2 for too many categories, 3 where it cannot do without `ordered`. */
int NAME(adjust)(const int64_t *s, const REAL *restrict x, const REAL *restrict map, const REAL *ordered,
                 const int64_t *rows, const unsigned char *known, const double *chosen,
                 const double *magnitudes, const double *edges, const REAL *table, const double *strengths,
                 const int64_t *order, REAL *restrict to)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    if (s[CATEGORIES] > MOST_CATEGORIES) return TOO_MANY;
    signed char *below = ordered ? (signed char *)scratch((size_t)(cuts * features) + 1) : NULL;
    if (ordered && !below) return NO_MEMORY;
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++, x += features, to += features) {
        const int64_t r = i / s[BATCH], row = rows ? rows[i] : i;
        const REAL *restrict seen = map + row * features;
        if (known && !known[row]) {
            memcpy(to, x, (size_t)features * sizeof(REAL));
            continue;
        }
        const double drawn = s[MAGNITUDES] == FIXED ? 1 : magnitudes[i];
        const double magnitude = s[MAGNITUDES] == FOLDED ? fabs(drawn) : drawn;
        REAL changes[MOST_CATEGORIES], parts[2] = {0, 0};
        NAME(change)(s, table + r * s[MEMBERS] * s[CATEGORIES], edges + r * (s[MEMBERS] - 1), chosen[i],
                     strengths[r] * magnitude, changes);
        if (!cuts) {
            for (int64_t n = 0; n < features; n++)
                to[n] = x[n] + (seen[n] < 0 ? changes[0] : seen[n] > 0 ? changes[1] : 0);
            continue;
        }
        const REAL *own = ordered ? ordered + i * features : NULL;
        if (own && (cuts > 2 || !NAME(clear)(s, own))) {
            NAME(by_rank)(s, x, seen, own, order, changes, below, to);
            continue;
        }
        if (!own && (cuts > 2 || features > INT32_MAX || !NAME(cuts_of)(s, seen, parts))) return NEEDS_ORDER;
        const REAL low = own ? own[s[COUNTS] - 1] : parts[0], lowest = changes[0], second = changes[1];
        const REAL high = own ? own[s[COUNTS + cuts - 1] - 1] : parts[cuts - 1], highest = changes[cuts];
        for (int64_t n = 0; n < features; n++)
            to[n] = x[n] + (seen[n] <= low ? lowest : seen[n] <= high ? second : highest);
    }
    return 0;
}

#endif
