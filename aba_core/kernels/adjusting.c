/* Inputs moved by ABA: each sample draws an adjustment, and each of its features takes the change of the
 * category that its attribution falls into. The file includes itself once for each type of numbers. */
#ifndef REAL

#include "vectors.h"

/* What `s` holds; then how many features lie below each cut, none where categories go by sign. */
enum { REPLICAS, BATCH, FEATURES, MEMBERS, CATEGORIES, MAGNITUDES, CUTS, COUNTS };
enum { FIXED, FOLDED, SIGNED };    /* magnitudes are 1, or drawn and taken without their sign, or with it */
enum { NO_MEMORY = 1, TOO_MANY = 2 };    /* what a call can end with, beside 0 */
#define MOST_CATEGORIES 64
#define GUESSES 16    /* of a cut, before it is sought bit by bit */

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

#include "lanes.h"

/* A cut. count: how many values it has below it. at: the next guess; below: how many values are not above `low`,
 * which are too few, and above: not above `high`, too many; less than 0: not known. gap: between neighbours. */
typedef struct {
    WHOLE count, below, above;
    REAL at, low, high, gap;
} NAME(cut);

INLINE WHOLE NAME(total)(const NAME(mask) *counts)
{
    const NAME(mask) all = counts[0] + counts[1] + counts[2] + counts[3];
    WHOLE sum = 0;
    for (size_t l = 0; l < LANES; l++) sum -= all[l];
    return sum;
}

/* How many values are not above each of two numbers. */
static void NAME(counted)(const REAL *restrict values, WHOLE many, REAL one, REAL other, WHOLE *restrict to)
{
    NAME(mask) ones[4] = {{0}}, others[4] = {{0}};
    WHOLE n = 0;
    for (; n + 4 * (WHOLE)LANES <= many; n += 4 * (WHOLE)LANES)
        UNROLL
        for (int p = 0; p < 4; p++) {
            const NAME(vec) seen = NAME(load)(values + n + p * (WHOLE)LANES);
            ones[p] += seen <= one; /* true is -1 */
            others[p] += seen <= other;
        }
    to[0] = NAME(total)(ones);
    to[1] = NAME(total)(others);
    for (; n < many; n++) {
        to[0] += values[n] <= one;
        to[1] += values[n] <= other;
    }
}

/* The size of values: the mean without signs, of many values by every fourth block. */
static REAL NAME(scale)(const REAL *values, WHOLE many)
{
    const WHOLE block = 4 * (WHOLE)LANES, apart = many < 16 * block ? block : 4 * block;
    NAME(vec) sums[4] = {{0}};
    REAL sum = 0;
    WHOLE n = 0, taken = 0;
    for (; n + block <= many; n += apart, taken += block)
        UNROLL
        for (int p = 0; p < 4; p++) {
            const NAME(vec) seen = NAME(load)(values + n + p * (WHOLE)LANES);
            sums[p] += (NAME(vec))NAME(select)(seen < 0, (NAME(mask))-seen, (NAME(mask))seen);
        }
    for (; apart == block && n < many; n++, taken++) sum += values[n] < 0 ? -values[n] : values[n];
    sums[0] += sums[1] + sums[2] + sums[3];
    for (size_t l = 0; l < LANES; l++) sum += sums[0][l];
    return sum / (REAL)taken;
}

/* The next guess after one that `seen` values are not above: by the gap that is usual until there is one on
 * either side, a little further than it says; then in between, at times in the middle. */
static void NAME(guess)(NAME(cut) *cut, WHOLE seen, int tries)
{
    const REAL off = (REAL)(cut->count - seen);
    if (off > 0) cut->low = cut->at, cut->below = seen;
    else cut->high = cut->at, cut->above = seen;
    if (cut->below < 0 || cut->above < 0) {
        cut->at += cut->gap * ((REAL)1.5 * off + (off > 0 ? 1 : -1));
        cut->gap *= 2;
    } else if (tries % 4 == 3)
        cut->at = cut->low + (cut->high - cut->low) / 2;
    else
        cut->at = cut->low + (cut->high - cut->low) * ((REAL)(cut->count - cut->below) + (REAL)0.5) /
                                 (REAL)(cut->above - cut->below);
}

/* A number's place among all numbers, in their order; the same once more gives the number's bits. */
INLINE WHOLE NAME(turned)(WHOLE bits)
{
    const WHOLE others = (WHOLE)(((uint64_t)1 << (8 * sizeof(REAL) - 1)) - 1);
    return bits < 0 ? bits ^ others : bits;
}

/* The value that has `count` values not above it, or as few more as there can be: how many these are. NaN, and
 * 0, where the others are too few. */
static WHOLE NAME(sought)(const REAL *values, WHOLE many, WHOLE count, REAL *found)
{
    const REAL ends[2] = {-(REAL)INFINITY, (REAL)INFINITY};
    WHOLE places[2], seen[2], above;
    memcpy(places, ends, sizeof ends);
    WHOLE low = NAME(turned)(places[0]) - 1, high = places[1];
    NAME(counted)(values, many, ends[1], ends[1], seen);
    *found = (REAL)NAN;
    if (seen[0] < count) return 0;
    for (above = seen[0]; high != low + 1;) {
        /* The first is zero. If it is enough, the next is just below: maps of zeros are common. */
        const WHOLE place = high == -1 ? -2 : (low & high) + ((low ^ high) >> 1), bits = NAME(turned)(place);
        REAL at;
        memcpy(&at, &bits, sizeof at);
        NAME(counted)(values, many, at, at, seen);
        if (seen[0] < count) low = place;
        else high = place, above = seen[0];
    }
    high = NAME(turned)(high);
    memcpy(found, &high, sizeof *found);
    return above;
}

/* Cuts of a sample's map, as `sought` has them or between two values; whether to compare with them is enough.
 * first: guesses for values of size 1. */
static int NAME(cuts_of)(const int64_t *s, const NAME(cut) *first, const REAL *values, REAL *cuts)
{
    const WHOLE many = (WHOLE)s[FEATURES];
    const REAL scale = NAME(scale)(values, many);
    int enough = s[CUTS] <= 2;
    for (int64_t c = 0; c < s[CUTS]; c += 2) {
        NAME(cut) both[2] = {first[c], first[c + 1 < s[CUTS] ? c + 1 : c]};
        WHOLE seen[2] = {-1, -1};
        for (int k = 0; k < 2; k++) both[k].at *= scale, both[k].gap *= scale;
        for (int tries = 0; tries < GUESSES && scale > 0; tries++) {
            int left = 0;
            NAME(counted)(values, many, both[0].at, both[1].at, seen);
            for (int k = 0; k < 2; k++)
                if (both[k].gap > 0 && seen[k] != both[k].count) NAME(guess)(both + k, seen[k], tries), left++;
            if (!left) break;
        }
        for (int k = 0; k < 2; k++) {
            const WHOLE count = both[k].count;
            const int parts = count > 0 && count < many; /* otherwise all are on one side */
            if (parts && seen[k] != count) seen[k] = NAME(sought)(values, many, count, &both[k].at);
            enough &= parts && seen[k] == count;
            cuts[c + k] = both[k].at;
        }
    }
    return enough;
}

/* Where cuts are guessed first: as of normal values, nearly. */
static void NAME(first_cuts)(const int64_t *s, NAME(cut) *to)
{
    for (int64_t c = 0; c < s[CUTS]; c++) {
        const double many = (double)s[FEATURES], share = (double)s[COUNTS + c] / many, left = 1 - share;
        const int inside = share > 0 && left > 0;
        to[c] = (NAME(cut)){
            (WHOLE)s[COUNTS + c], -1, -1, inside ? (REAL)(log(share / left) / 1.4) : 0, 0, 0,
            inside ? (REAL)(1 / (1.4 * many * share * left)) : 0};
    }
}

/* Categories by exact sizes whatever the values: of equal ones on a cut those that `order` has first. A cut
 * that is NaN has nothing below it. below: FEATURES bytes a cut. */
static void NAME(by_rank)(const int64_t *s, const REAL *x, const REAL *map, const REAL *at, const int64_t *order,
                          const REAL *changes, signed char *below, REAL *to)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    for (int64_t c = 0; c < cuts; c++) {
        const int64_t count = s[COUNTS + c];
        const REAL cut = at[c];
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

/* Sample i's change in each category, which begin at 1, and none in category 0. */
static void NAME(change)(const int64_t *s, int64_t i, const double *chosen, const double *magnitudes,
                         const double *edges, const REAL *table, const double *strengths, REAL *changes)
{
    const int64_t r = i / s[BATCH], categories = s[CATEGORIES];
    const double drawn = s[MAGNITUDES] == FIXED ? 1 : magnitudes[i];
    const double factor = strengths[r] * (s[MAGNITUDES] == FOLDED ? fabs(drawn) : drawn);
    int64_t member = r * s[MEMBERS];
    edges += r * (s[MEMBERS] - 1);
    for (int64_t m = 0; m + 1 < s[MEMBERS]; m++) member += chosen[i] >= edges[m];
    changes[0] = 0;
    for (int64_t c = 0; c < categories; c++) changes[c + 1] = (REAL)(factor * (double)table[member * categories + c]);
}

/* The change of each feature's category is added. */
static void NAME(by_kinds)(const int64_t *s, const unsigned char *restrict kinds, const REAL *restrict changes,
                           REAL *restrict to)
{
    const int64_t features = s[FEATURES];
    const REAL lowest = changes[1], second = changes[2], third = s[CATEGORIES] > 2 ? changes[3] : 0;
    if (s[CATEGORIES] > 3)
        for (int64_t n = 0; n < features; n++) to[n] += changes[kinds[n]];
    else
        for (int64_t n = 0; n < features; n++) {
            const WHOLE kind = kinds[n];
            to[n] += kind == 1 ? lowest : kind == 2 ? second : kind == 3 ? third : 0;
        }
}

/* x, map, to: [replica, sample, feature]. chosen, magnitudes: [replica, sample]; edges: [replica, member - 1];
 * table: [replica, member, category]; strengths: [replica]. order: of features that tie. magnitudes and order
 * may be NULL. */
int NAME(adjust)(const int64_t *s, const REAL *restrict x, const REAL *restrict map, const double *chosen,
                 const double *magnitudes, const double *edges, const REAL *table, const double *strengths,
                 const int64_t *order, REAL *restrict into)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    NAME(cut) first[MOST_CATEGORIES];
    REAL at[MOST_CATEGORIES + 1];
    if (s[CATEGORIES] > MOST_CATEGORIES || features > INT32_MAX) return TOO_MANY;
    signed char *below = (signed char *)scratch((size_t)(cuts * features) + 1);
    if (!below) return NO_MEMORY;
    NAME(first_cuts)(s, first);
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++) {
        const REAL *restrict from = x + i * features, *restrict seen = map + i * features;
        REAL *restrict to = into + i * features;
        REAL changes[MOST_CATEGORIES + 1];
        NAME(change)(s, i, chosen, magnitudes, edges, table, strengths, changes);
        const REAL lowest = changes[1], second = changes[2], highest = changes[s[CATEGORIES]];
        if (!cuts)
            for (int64_t n = 0; n < features; n++)
                to[n] = from[n] + (seen[n] < 0 ? lowest : seen[n] > 0 ? second : 0);
        else if (NAME(cuts_of)(s, first, seen, at)) {
            const REAL low = at[0], high = at[1];
            for (int64_t n = 0; n < features; n++)
                to[n] = from[n] + (seen[n] <= low ? lowest : seen[n] <= high ? second : highest);
        } else
            NAME(by_rank)(s, from, seen, at, order, changes + 1, below, to);
    }
    return 0;
}

/* The category of each feature, 1 the lowest and 0 none, into `rows` of a longer list. The rest as above. */
int NAME(categories)(const int64_t *s, const REAL *restrict map, const int64_t *rows, const int64_t *order,
                     unsigned char *restrict into)
{
    const int64_t features = s[FEATURES], cuts = s[CUTS];
    NAME(cut) first[MOST_CATEGORIES];
    REAL at[MOST_CATEGORIES + 1], codes[MOST_CATEGORIES];
    if (s[CATEGORIES] > MOST_CATEGORIES || features > INT32_MAX) return TOO_MANY;
    REAL *none = (REAL *)scratch((size_t)(2 * features) * sizeof(REAL) + (size_t)(cuts * features) + 1);
    if (!none) return NO_MEMORY;
    REAL *made = none + features;
    signed char *below = (signed char *)(made + features);
    NAME(first_cuts)(s, first);
    for (int64_t c = 0; c < s[CATEGORIES]; c++) codes[c] = (REAL)(c + 1);
    for (int64_t n = 0; n < features; n++) none[n] = 0;
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++) {
        const REAL *restrict seen = map + i * features;
        unsigned char *restrict to = into + rows[i] * features;
        if (!cuts)
            for (int64_t n = 0; n < features; n++)
                to[n] = (unsigned char)(seen[n] < 0 ? 1 : seen[n] > 0 ? 2 : 0);
        else if (NAME(cuts_of)(s, first, seen, at)) {
            /* Of one cut, the second is NaN, which nothing lies below. */
            const REAL low = at[0], high = cuts > 1 ? at[1] : (REAL)NAN;
            const WHOLE highest = (WHOLE)cuts + 1;
            for (int64_t n = 0; n < features; n++)
                to[n] = (unsigned char)(highest - (seen[n] <= low) - (seen[n] <= high));
        } else {
            NAME(by_rank)(s, none, seen, at, order, codes, below, made);
            for (int64_t n = 0; n < features; n++) /* with NaN, one may be in two */
                to[n] = (unsigned char)(made[n] <= (REAL)s[CATEGORIES] ? made[n] : 0);
        }
    }
    return 0;
}

/* x moved by categories that were kept, `rows` of a longer list; `to` may be x. The rest as above. */
int NAME(moved)(const int64_t *s, const REAL *x, const unsigned char *kinds, const int64_t *rows,
                const double *chosen, const double *magnitudes, const double *edges, const REAL *table,
                const double *strengths, REAL *to)
{
    const int64_t features = s[FEATURES];
    if (s[CATEGORIES] > MOST_CATEGORIES) return TOO_MANY;
    for (int64_t i = 0; i < s[REPLICAS] * s[BATCH]; i++) {
        REAL changes[MOST_CATEGORIES + 1];
        NAME(change)(s, i, chosen, magnitudes, edges, table, strengths, changes);
        if (to != x) memcpy(to + i * features, x + i * features, (size_t)features * sizeof(REAL));
        NAME(by_kinds)(s, kinds + rows[i] * features, changes, to + i * features);
    }
    return 0;
}

#endif
