/* Inputs moved by ABA: each sample draws an adjustment, and each of its features takes the change of the
 * category that its attribution falls into. The file includes itself once for each type of numbers. */
#ifndef REAL

#include "vectors.h"

/* What `s` holds; then how many features lie below each cut, none where categories go by sign. */
enum { REPLICAS, BATCH, FEATURES, MEMBERS, CATEGORIES, MAGNITUDES, CUTS, COUNTS };
enum { FIXED, FOLDED, SIGNED };    /* magnitudes are 1, or drawn and taken without their sign, or with it */
enum { NO_MEMORY = -1, TOO_MANY = -2 };    /* what a call can end with, beside how many it left */
#define MOST_CATEGORIES 64

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

/* A sample's change in each category, which begin at 1, and none in category 0. */
static void NAME(change)(const int64_t *s, const REAL *table, const double *edges, double chosen,
                         double factor, REAL *changes)
{
    int64_t member = 0;
    for (int64_t m = 0; m + 1 < s[MEMBERS]; m++) member += chosen >= edges[m];
    changes[0] = 0;
    for (int64_t c = 0; c < s[CATEGORIES]; c++)
        changes[c + 1] = (REAL)(factor * (double)table[member * s[CATEGORIES] + c]);
}

/* x plus the change of each feature's category. */
static void NAME(by_kinds)(const int64_t *s, const REAL *restrict x, const unsigned char *restrict kinds,
                           const REAL *changes, REAL *restrict to)
{
    const int64_t features = s[FEATURES];
    const REAL lowest = changes[1], second = changes[2], third = s[CATEGORIES] > 2 ? changes[3] : 0;
    if (s[CATEGORIES] > 3)
        for (int64_t n = 0; n < features; n++) to[n] = x[n] + changes[kinds[n]];
    else
        for (int64_t n = 0; n < features; n++) {
            const WHOLE kind = kinds[n];
            to[n] = x[n] + (kind == 1 ? lowest : kind == 2 ? second : kind == 3 ? third : 0);
        }
}

/* Whether comparing a sample's map with two numbers, `parts`, is enough for its categories. own: the map in
 * order, or NULL. */
INLINE int NAME(compared)(const int64_t *s, const REAL *map, const REAL *own, REAL *parts)
{
    const int64_t cuts = s[CUTS];
    if (cuts > 2 || s[FEATURES] > INT32_MAX) return 0;
    if (own) {
        if (!NAME(clear)(s, own)) return 0;
        for (int64_t c = 0; c < cuts; c++) parts[c] = own[s[COUNTS + c] - 1];
    } else if (!NAME(cuts_of)(s, map, parts))
        return 0;
    if (cuts == 1) parts[1] = parts[0];
    return 1;
}

/* x, map, to: [replica, sample, feature]. chosen, magnitudes: [replica, sample]; edges: [replica, member - 1];
 * table: [replica, member, category]; strengths: [replica]. order: of features that tie. magnitudes and order
 * may be NULL. ordered: maps in order, NaN last, of `some` samples, which are `many`, or of all where that is
 * NULL. Where `ordered` is NULL, `some` is filled with the samples that cannot do without. Gives how many
 * these are, or less than 0. */
int64_t NAME(adjust)(const int64_t *s, const REAL *restrict x, const REAL *restrict map, const REAL *ordered,
                     int64_t *some, int64_t many, const double *chosen, const double *magnitudes,
                     const double *edges, const REAL *table, const double *strengths, const int64_t *order,
                     REAL *restrict into)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    int64_t left = 0;
    if (s[CATEGORIES] > MOST_CATEGORIES) return TOO_MANY;
    signed char *below = ordered ? (signed char *)scratch((size_t)(cuts * features) + 1) : NULL;
    if (ordered && !below) return NO_MEMORY;
    const int64_t count = ordered && some ? many : s[REPLICAS] * s[BATCH];
    for (int64_t k = 0; k < count; k++) {
        const int64_t i = ordered && some ? some[k] : k;
        const REAL *own = ordered ? ordered + k * features : NULL, *restrict seen = map + i * features;
        REAL parts[2] = {0, 0};
        const int64_t r = i / s[BATCH];
        const REAL *restrict from = x + i * features;
        REAL *restrict to = into + i * features;
        const double drawn = s[MAGNITUDES] == FIXED ? 1 : magnitudes[i];
        const double magnitude = s[MAGNITUDES] == FOLDED ? fabs(drawn) : drawn;
        REAL changes[MOST_CATEGORIES + 1];
        NAME(change)(s, table + r * s[MEMBERS] * s[CATEGORIES], edges + r * (s[MEMBERS] - 1), chosen[i],
                     strengths[r] * magnitude, changes);
        const REAL lowest = changes[1], second = changes[2], highest = changes[s[CATEGORIES]];
        if (!cuts)
            for (int64_t n = 0; n < features; n++)
                to[n] = from[n] + (seen[n] < 0 ? lowest : seen[n] > 0 ? second : 0);
        else if (NAME(compared)(s, seen, own, parts)) {
            const REAL low = parts[0], high = parts[1];
            for (int64_t n = 0; n < features; n++)
                to[n] = from[n] + (seen[n] <= low ? lowest : seen[n] <= high ? second : highest);
        } else if (own)
            NAME(by_rank)(s, from, seen, own, order, changes + 1, below, to);
        else
            some[left++] = i;
    }
    return left;
}

/* The category of each feature, 1 the lowest and 0 none, into `rows` of a longer list. The rest as above. */
int64_t NAME(categories)(const int64_t *s, const REAL *restrict map, const REAL *ordered, int64_t *some,
                         int64_t many, const int64_t *rows, const int64_t *order, unsigned char *restrict into)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    int64_t left = 0;
    if (s[CATEGORIES] > MOST_CATEGORIES) return TOO_MANY;
    REAL *none = ordered ? (REAL *)scratch((size_t)(2 * features) * sizeof(REAL) + (size_t)(cuts * features)) : NULL;
    if (ordered && !none) return NO_MEMORY;
    REAL *made = none + features, codes[MOST_CATEGORIES];
    signed char *below = (signed char *)(made + features);
    for (int64_t c = 0; c < s[CATEGORIES]; c++) codes[c] = (REAL)(c + 1);
    for (int64_t n = 0; ordered && n < features; n++) none[n] = 0;
    const int64_t count = ordered && some ? many : s[REPLICAS] * s[BATCH];
    for (int64_t k = 0; k < count; k++) {
        const int64_t i = ordered && some ? some[k] : k;
        const REAL *own = ordered ? ordered + k * features : NULL, *restrict seen = map + i * features;
        REAL parts[2] = {0, 0};
        unsigned char *restrict to = into + rows[i] * features;
        if (!cuts)
            for (int64_t n = 0; n < features; n++)
                to[n] = (unsigned char)(seen[n] < 0 ? 1 : seen[n] > 0 ? 2 : 0);
        else if (NAME(compared)(s, seen, own, parts)) {
            const REAL low = parts[0], high = parts[1];
            const unsigned char highest = (unsigned char)(cuts + 1);
            for (int64_t n = 0; n < features; n++)
                to[n] = (unsigned char)(seen[n] <= low ? 1 : seen[n] <= high ? 2 : highest);
        } else if (own) {
            NAME(by_rank)(s, none, seen, own, order, codes, below, made);
            for (int64_t n = 0; n < features; n++) /* with NaN, one may be in two */
                to[n] = (unsigned char)(made[n] <= (REAL)s[CATEGORIES] ? made[n] : 0);
        } else
            some[left++] = i;
    }
    return left;
}

/* x moved by categories that were kept, `rows` of a longer list. The rest as above. */
int64_t NAME(moved)(const int64_t *s, const REAL *restrict x, const unsigned char *kinds, const int64_t *rows,
                    const double *chosen, const double *magnitudes, const double *edges, const REAL *table,
                    const double *strengths, REAL *restrict to)
{
    const int64_t features = s[FEATURES];
    if (s[CATEGORIES] > MOST_CATEGORIES) return TOO_MANY;
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++) {
        const int64_t r = i / s[BATCH];
        const double drawn = s[MAGNITUDES] == FIXED ? 1 : magnitudes[i];
        const double magnitude = s[MAGNITUDES] == FOLDED ? fabs(drawn) : drawn;
        REAL changes[MOST_CATEGORIES + 1];
        NAME(change)(s, table + r * s[MEMBERS] * s[CATEGORIES], edges + r * (s[MEMBERS] - 1), chosen[i],
                     strengths[r] * magnitude, changes);
        NAME(by_kinds)(s, x + i * features, kinds + rows[i] * features, changes, to + i * features);
    }
    return 0;
}

#endif
