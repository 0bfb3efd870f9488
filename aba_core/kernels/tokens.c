/* Convolutions over the tokens of texts, bias, ReLU and the maximum over the text in one pass, and the
 * way back through the winning window of each text and output alone: one of hundreds. Several
 * convolutions, the branches, see the same texts; their outputs stand side by side.
 *
 * x: [text, token, element]; y, winners, ties, gradient: [text, output of all branches]. values: a
 * branch's weight, [output, element, tap], and its bias, [output] or NULL. All contiguous. A window of
 * `taps` tokens lies in one piece. A winner is the window's first token, or -1 where ReLU stopped all.
 * Windows that tie share the gradient, as in PyTorch's amax: ties counts them. The file includes itself
 * once for each type of numbers.
 */
#ifndef REAL

#include "vectors.h"

#define POSITIONS 6
#define SPARSE 0.4    /* of the elements: with more, products of them all take less time (benchmarks/README.md) */

/* What `s` holds; then outputs and taps of each branch. */
enum { TEXTS, TOKENS, ELEMENTS, BRANCHES, HEAD };

static int64_t outputs_of(const int64_t *s, int64_t b) { return s[HEAD + 2 * b]; }
static int64_t terms_of(const int64_t *s, int64_t b) { return s[HEAD + 2 * b + 1] * s[ELEMENTS]; }
static int64_t windows_of(const int64_t *s, int64_t b) { return s[TOKENS] - s[HEAD + 2 * b + 1] + 1; }

static int64_t all_outputs(const int64_t *s)
{
    int64_t sum = 0;
    for (int64_t b = 0; b < s[BRANCHES]; b++) sum += outputs_of(s, b);
    return sum;
}

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#include "tokens.c"
#undef REAL
#undef WHOLE
#undef NAME
#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "tokens.c"

#else

#include "lanes.h"

/* A branch's outputs with those that fill the last vector. */
static int64_t NAME(padded)(const int64_t *s, int64_t b)
{
    return (int64_t)rounded((size_t)outputs_of(s, b), LANES);
}

/* How many sums `tokens_forward` keeps. */
int64_t NAME(tokens_sums)(const int64_t *s)
{
    int64_t sum = 0;
    for (int64_t b = 0; b < s[BRANCHES]; b++) sum += s[TEXTS] * windows_of(s, b) * NAME(padded)(s, b);
    return sum;
}

/* The largest value so far, the window that it came from and how many windows have it. */
typedef struct {
    NAME(vec) value;
    NAME(mask) window, count;
} NAME(best);

INLINE NAME(best) NAME(none)(void) { return (NAME(best)){{0}, (NAME(mask)){0} - 1, {0}}; }

INLINE void NAME(compare)(NAME(best) *best, NAME(vec) value, int64_t window)
{
    const NAME(mask) better = (NAME(mask))(value > best->value) | (NAME(mask))(value != value);
    const NAME(mask) equal = (NAME(mask))(value == best->value);
    best->value = (NAME(vec))NAME(select)(better, (NAME(mask))value, (NAME(mask))best->value);
    best->window = NAME(select)(better, (NAME(mask)){0} + (WHOLE)window, best->window);
    best->count = NAME(select)(better, (NAME(mask)){0} + 1, best->count - equal);
}

/* `vectors` of the best, of which the first `here` numbers are outputs. */
INLINE void NAME(written)(const NAME(best) *best, const int vectors, int64_t here, REAL *y,
                          int32_t *winners, int32_t *ties)
{
    for (int v = 0; v < vectors; v++)
        for (int64_t l = 0; l < (int64_t)LANES && v * (int64_t)LANES + l < here; l++) {
            const int64_t o = v * (int64_t)LANES + l;
            y[o] = best[v].value[l];
            if (winners) {
                winners[o] = (int32_t)best[v].window[l];
                ties[o] = (int32_t)best[v].count[l];
            }
        }
}

/* `vectors` of outputs over all windows of one text. w: [element of the window, output]. sums: where each
 * window's are kept, [window, output], or NULL. */
INLINE void NAME(text)(const REAL *x, int64_t windows, int64_t elements, int64_t terms, const REAL *w,
                       const REAL *bias, int64_t padded, const int vectors, int64_t here, REAL *y,
                       int32_t *winners, int32_t *ties, REAL *sums)
{
    NAME(best) best[4];
    UNROLL
    for (int v = 0; v < vectors; v++) best[v] = NAME(none)();
    for (int64_t window = 0; window < windows;) {
        NAME(vec) sum[4 * POSITIONS];
        const int many = windows - window >= POSITIONS;
        const REAL *at = x + window * elements;
        UNROLL
        for (int v = 0; v < vectors; v++)
            UNROLL
            for (int p = 0; p < POSITIONS; p++) sum[v * POSITIONS + p] = NAME(load)(bias + v * LANES);
#define TERMS(positions)                                                                           \
    for (int64_t j = 0; j < terms; j++) {                                                          \
        NAME(vec) weight[4];                                                                       \
        UNROLL                                                                                     \
        for (int v = 0; v < vectors; v++) weight[v] = NAME(load)(w + j * padded + v * LANES);      \
        UNROLL                                                                                     \
        for (int p = 0; p < positions; p++) {                                                      \
            const REAL value = at[p * elements + j];                                               \
            UNROLL                                                                                 \
            for (int v = 0; v < vectors; v++) sum[v * POSITIONS + p] += value * weight[v];         \
        }                                                                                          \
    }
        if (many) {
            TERMS(POSITIONS)
        } else {
            TERMS(1)
        }
#undef TERMS
        const int positions = many ? POSITIONS : 1;
        for (int p = 0; p < positions; p++)
            UNROLL
            for (int v = 0; v < vectors; v++) {
                const NAME(vec) value = sum[v * POSITIONS + p];
                if (sums) NAME(store)(sums + (window + p) * padded + v * (int64_t)LANES, value);
                NAME(compare)(best + v, value, window + p);
            }
        window += positions;
    }
    NAME(written)(best, vectors, here, y, winners, ties);
}

/* A branch's weight and bias as vectors of outputs: [element of the window, output], 0 past the last one, and
 * a row for the bias behind. */
static void NAME(by_outputs)(const int64_t *s, int64_t b, const REAL *weight, const REAL *bias, REAL *w)
{
    const int64_t elements = s[ELEMENTS], taps = s[HEAD + 2 * b + 1], padded = NAME(padded)(s, b);
    REAL *biases = w + terms_of(s, b) * padded;
    memset(w, 0, (size_t)((terms_of(s, b) + 1) * padded) * sizeof(REAL));
    for (int64_t o = 0; o < outputs_of(s, b); o++) {
        for (int64_t e = 0; e < elements; e++)
            for (int64_t k = 0; k < taps; k++)
                w[(k * elements + e) * padded + o] = weight[(o * elements + e) * taps + k];
        if (bias) biases[o] = bias[o];
    }
}

/* One text through one branch, whose weights are `w`. sums: as in `text`, or NULL. */
static void NAME(through)(const int64_t *s, int64_t b, const REAL *x, const REAL *w, REAL *y,
                          int32_t *winners, int32_t *ties, REAL *sums)
{
    const int64_t elements = s[ELEMENTS], outputs = outputs_of(s, b), padded = NAME(padded)(s, b);
    const int64_t terms = terms_of(s, b), windows = windows_of(s, b), most = REGISTERS >= 32 ? 4 : 2;
    const REAL *biases = w + terms * padded;
    for (int64_t o = 0; o < outputs;) {
        const int64_t left = (padded - o) / (int64_t)LANES;
#define OUTPUTS_OF(vectors)                                                                         \
    NAME(text)(x, windows, elements, terms, w + o, biases + o, padded, vectors, outputs - o, y + o, \
               winners ? winners + o : NULL, ties ? ties + o : NULL, sums ? sums + o : NULL);       \
    o += vectors * (int64_t)LANES
        if (left >= 4 && most == 4) {
            OUTPUTS_OF(4);
        } else if (left >= 2) {
            OUTPUTS_OF(2);
        } else {
            OUTPUTS_OF(1);
        }
#undef OUTPUTS_OF
    }
}

/* One branch forward. row: numbers from a text to the next in y, winners and ties. sums: as in `text`, of all
 * texts, or NULL. */
static int NAME(branch)(const int64_t *s, int64_t b, const REAL *x, const REAL *weight, const REAL *bias,
                        int64_t row, REAL *y, int32_t *winners, int32_t *ties, REAL *sums)
{
    const int64_t padded = NAME(padded)(s, b), each = windows_of(s, b) * padded;
    REAL *w = (REAL *)scratch((size_t)((terms_of(s, b) + 1) * padded) * sizeof(REAL));
    if (!w) return 1;
    NAME(by_outputs)(s, b, weight, bias, w);
    for (int64_t i = 0; i < s[TEXTS]; i++)
        NAME(through)(s, b, x + i * s[TOKENS] * s[ELEMENTS], w, y + i * row, winners ? winners + i * row : NULL,
                      ties ? ties + i * row : NULL, sums ? sums + i * each : NULL);
    return 0;
}

/* winners and ties may be NULL. sums: each window's, before ReLU, [branch, text, window, padded output]; kept
 * for `tokens_near`; or NULL. Gives 0, or 1 where memory ran out. */
int NAME(tokens_forward)(const int64_t *s, const REAL *x, const REAL *const *values, REAL *y,
                         int32_t *winners, int32_t *ties, REAL *sums)
{
    const int64_t row = all_outputs(s);
    for (int64_t b = 0, at = 0; b < s[BRANCHES]; at += outputs_of(s, b++)) {
        if (NAME(branch)(s, b, x, values[2 * b], values[2 * b + 1], row, y + at,
                         winners ? winners + at : NULL, ties ? ties + at : NULL, sums))
            return 1;
        if (sums) sums += s[TEXTS] * windows_of(s, b) * NAME(padded)(s, b);
    }
    return 0;
}

/* --- at inputs near others ---------------------------------------------------------------------- */

/* Where and by how much x differs from `base` + shift: element and difference, token by token; those of token
 * t end before ends[t + 1]. */
static void NAME(differing)(int64_t tokens, int64_t elements, const REAL *restrict x,
                            const REAL *restrict base, REAL shift, int32_t *restrict ends,
                            int32_t *restrict where, REAL *restrict by)
{
    int32_t many = 0;
    ends[0] = 0;
    for (int64_t t = 0; t < tokens; t++, x += elements, base += elements) {
        for (int64_t e = 0; e < elements; e++) {
            const REAL difference = x[e] - (base[e] + shift);
            where[many] = (int32_t)e;
            by[many] = difference;
            many += difference != 0;
        }
        ends[t + 1] = many;
    }
}

/* to[window] = from[window] + what one tap makes of the differences of the token that it sees, `vectors` of
 * outputs; and shift · total, unless that is NULL. w: the tap's, [element, output]: it stays in the first cache. */
INLINE void NAME(tap)(int64_t windows, const int32_t *ends, const int32_t *where, const REAL *by,
                      const REAL *w, REAL shift, const REAL *total, int64_t padded, const int vectors,
                      const REAL *from, REAL *to)
{
    for (int64_t window = 0; window < windows; window++, from += padded, to += padded) {
        NAME(vec) sum[8];
        UNROLL
        for (int v = 0; v < vectors; v++) sum[v] = NAME(load)(from + v * (int64_t)LANES);
        if (total)
            UNROLL
            for (int v = 0; v < vectors; v++) sum[v] += shift * NAME(load)(total + v * (int64_t)LANES);
        for (int32_t n = ends[window]; n < ends[window + 1]; n++) {
            const REAL difference = by[n], *own = w + where[n] * padded;
            UNROLL
            for (int v = 0; v < vectors; v++) sum[v] += difference * NAME(load)(own + v * (int64_t)LANES);
        }
        UNROLL
        for (int v = 0; v < vectors; v++) NAME(store)(to + v * (int64_t)LANES, sum[v]);
    }
}

/* One text through one branch as `through`, from the `sums` kept at base and what differs from base + shift.
 * w: behind the row of the bias, the sum of each output's weights. made: memory for as many sums. */
static void NAME(through_differing)(const int64_t *s, int64_t b, const int32_t *ends, const int32_t *where,
                                    const REAL *by, REAL shift, const REAL *w, const REAL *sums, REAL *made,
                                    REAL *y, int32_t *winners, int32_t *ties)
{
    const int64_t padded = NAME(padded)(s, b), windows = windows_of(s, b), taps = s[HEAD + 2 * b + 1];
    const REAL *total = w + (terms_of(s, b) + 1) * padded;
    for (int64_t o = 0; o < padded;) {
        const int64_t left = (padded - o) / (int64_t)LANES;
        const int64_t vectors = left >= 8 ? 8 : left >= 4 ? 4 : 1;
        for (int64_t k = 0; k < taps; k++) {
            const REAL *tap = w + k * s[ELEMENTS] * padded + o, *from = (k ? made : sums) + o;
#define TAP(vectors)                                                                               \
    NAME(tap)(windows, ends + k, where, by, tap, shift, k ? NULL : total + o, padded, vectors, from, made + o)
            if (vectors == 8) TAP(8);
            else if (vectors == 4) TAP(4);
            else TAP(1);
#undef TAP
        }
        o += vectors * (int64_t)LANES;
    }
    for (int64_t o = 0; o < padded; o += (int64_t)LANES) {
        NAME(best) best = NAME(none)();
        for (int64_t window = 0; window < windows; window++)
            NAME(compare)(&best, NAME(load)(made + window * padded + o), window);
        NAME(written)(&best, 1, outputs_of(s, b) - o, y + o, winners ? winners + o : NULL, ties ? ties + o : NULL);
    }
}

/* As tokens_forward, from the `sums` that tokens_forward kept at `base`: a convolution is linear, so that only
 * what x differs from base + shift needs products. Right for any x; a text that differs in more than a share
 * SPARSE of its elements goes through as usual. shifts: one a text. */
int NAME(tokens_near)(const int64_t *s, const REAL *x, const REAL *base, const REAL *shifts, const REAL *sums,
                      const REAL *const *values, REAL *y, int32_t *winners, int32_t *ties)
{
    const int64_t tokens = s[TOKENS], length = tokens * s[ELEMENTS], row = all_outputs(s);
    int64_t numbers = 0, widest = 0;
    for (int64_t b = 0; b < s[BRANCHES]; b++) {
        const int64_t padded = NAME(padded)(s, b);
        numbers += (terms_of(s, b) + 2) * padded;
        widest = padded > widest ? padded : widest;
    }
    REAL *weights = (REAL *)scratch((size_t)(numbers + tokens * widest + length + 1) * sizeof(REAL) +
                                    (size_t)(length + tokens + 2) * sizeof(int32_t));
    if (!weights) return 1;
    REAL *made = weights + numbers, *by = made + tokens * widest;
    int32_t *ends = (int32_t *)(by + length + 1), *where = ends + tokens + 1;
    REAL *w = weights;
    for (int64_t b = 0; b < s[BRANCHES]; b++) {
        const int64_t padded = NAME(padded)(s, b), terms = terms_of(s, b);
        REAL *total = w + (terms + 1) * padded;
        NAME(by_outputs)(s, b, values[2 * b], values[2 * b + 1], w);
        memset(total, 0, (size_t)padded * sizeof(REAL));
        for (int64_t j = 0; j < terms; j++)
            for (int64_t o = 0; o < padded; o++) total[o] += w[j * padded + o];
        w = total + padded;
    }
    for (int64_t i = 0; i < s[TEXTS]; i++) {
        const REAL *text = x + i * length, *kept = sums;
        NAME(differing)(tokens, s[ELEMENTS], text, base + i * length, shifts[i], ends, where, by);
        const int sparse = (double)ends[tokens] <= SPARSE * (double)length;
        w = weights;
        for (int64_t b = 0, at = i * row; b < s[BRANCHES]; at += outputs_of(s, b++)) {
            const int64_t padded = NAME(padded)(s, b), each = windows_of(s, b) * padded;
            int32_t *won = winners ? winners + at : NULL, *tied = ties ? ties + at : NULL;
            if (sparse)
                NAME(through_differing)(s, b, ends, where, by, shifts[i], w, kept + i * each, made, y + at,
                                        won, tied);
            else
                NAME(through)(s, b, text, w, y + at, won, tied, NULL);
            kept += s[TEXTS] * each;
            w += (terms_of(s, b) + 2) * padded;
        }
    }
    return 0;
}

INLINE void NAME(added)(int64_t terms, REAL g, const REAL *restrict from, REAL *restrict to)
{
    int64_t j = 0;
    for (; j + (int64_t)LANES <= terms; j += (int64_t)LANES)
        NAME(store)(to + j, NAME(load)(to + j) + g * NAME(load)(from + j));
    for (; j < terms; j++) to[j] += g * from[j];
}

/* What one window adds to the gradients, each of which may be NULL. */
INLINE void NAME(window)(int64_t terms, REAL g, const REAL *x, const REAL *w, REAL *to_x, REAL *to_w)
{
    if (to_x) NAME(added)(terms, g, w, to_x);
    if (to_w) NAME(added)(terms, g, x, to_w);
}

/* Whether the windows that tie are copies of the winner, as where texts are padded: told by comparing
 * bytes, which takes a hundredth of computing them. If so, their share is added to the gradients. */
INLINE int NAME(alike)(int32_t ties, int64_t windows, int64_t elements, int64_t terms, const REAL *text,
                       int64_t winner, REAL g, const REAL *w, REAL *to_x, REAL *to_w)
{
    const REAL *won = text + winner * elements;
    const size_t bytes = (size_t)terms * sizeof(REAL);
    int64_t found = 0;
    for (int64_t i = winner; i < windows; i++) found += !memcmp(text + i * elements, won, bytes);
    if (found != ties) return 0;
    NAME(window)(terms, g, won, w, NULL, to_w);
    for (int64_t i = winner; to_x && i < windows; i++)
        if (!memcmp(text + i * elements, won, bytes))
            NAME(window)(terms, g / (REAL)found, won, w, to_x + i * elements, NULL);
    return 1;
}

/* One text's way back through one output, whose windows tie. w: [tap, element]. */
static void NAME(tied)(int32_t ties, int64_t windows, int64_t elements, int64_t terms, const REAL *text,
                       int64_t winner, REAL g, const REAL *w, REAL bias, REAL *to_x, REAL *to_w)
{
    if (NAME(alike)(ties, windows, elements, terms, text, winner, g, w, to_x, to_w)) return;
    /* Windows that tie are sought again: compared with the winner by one and the same loop, as
     * compilers may round another one differently. */
    REAL largest = 0, share = 0;
    int64_t found = 0;
    for (int pass = 0; pass < 2; pass++, share = g / (REAL)found)
        for (int64_t begin = winner * elements; begin < windows * elements; begin += elements) {
            REAL value = bias;
            for (int64_t j = 0; j < terms; j++) value += text[begin + j] * w[j];
            if (begin == winner * elements) largest = value;
            if (value != largest) continue;
            if (pass)
                NAME(window)(terms, share, text + begin, w, to_x ? to_x + begin : NULL, to_w);
            else
                found++;
        }
}

/* [element, tap] of each output to [tap, element], or (back) the other way round. */
static void NAME(turned)(const REAL *restrict from, int64_t outputs, int64_t elements, int64_t taps,
                         int back, REAL *restrict to)
{
    for (int64_t o = 0; o < outputs; o++, from += elements * taps, to += elements * taps)
        for (int64_t k = 0; k < taps; k++)
            for (int64_t e = 0; e < elements; e++)
                if (back) to[e * taps + k] = from[k * elements + e];
                else to[k * elements + e] = from[e * taps + k];
}

/* to_x: as x, or NULL. to: where a branch's gradients to weight and bias go, each may be NULL. A text
 * goes through all branches before the next, so that its gradient stays in the cache. Gives 0, or 1
 * where memory ran out. */
int NAME(tokens_backward)(const int64_t *s, const REAL *x, const REAL *const *values,
                          const REAL *gradient, const int32_t *winners, const int32_t *ties, REAL *to_x,
                          REAL *const *to)
{
    const int64_t elements = s[ELEMENTS], length = s[TOKENS] * elements, row = all_outputs(s);
    int64_t numbers = 0;
    for (int64_t b = 0; b < s[BRANCHES]; b++) numbers += outputs_of(s, b) * terms_of(s, b);
    REAL *weights = (REAL *)scratch((size_t)(2 * numbers) * sizeof(REAL));
    if (!weights) return 1;
    REAL *sums = weights + numbers;
    for (int64_t b = 0, at = 0; b < s[BRANCHES]; at += outputs_of(s, b) * terms_of(s, b), b++) {
        const int64_t outputs = outputs_of(s, b), taps = s[HEAD + 2 * b + 1];
        NAME(turned)(values[2 * b], outputs, elements, taps, 0, weights + at);
        if (to[2 * b]) memset(sums + at, 0, (size_t)(outputs * terms_of(s, b)) * sizeof(REAL));
        if (to[2 * b + 1]) memset(to[2 * b + 1], 0, (size_t)outputs * sizeof(REAL));
    }
    for (int64_t i = 0; i < s[TEXTS]; i++) {
        const REAL *text = x + i * length, *w = weights;
        REAL *changed = to_x ? to_x + i * length : NULL, *sum = sums;
        if (changed) memset(changed, 0, (size_t)length * sizeof(REAL));
        for (int64_t b = 0, at = i * row; b < s[BRANCHES]; b++) {
            const int64_t terms = terms_of(s, b), windows = windows_of(s, b);
            REAL *to_w = to[2 * b], *to_bias = to[2 * b + 1];
            for (int64_t o = 0; o < outputs_of(s, b); o++, at++, w += terms, sum += terms) {
                if (winners[at] < 0) continue;
                const int64_t begin = winners[at] * elements;
                if (to_bias) to_bias[o] += gradient[at];
                if (ties[at] <= 1)
                    NAME(window)(terms, gradient[at], text + begin, w, changed ? changed + begin : NULL,
                                 to_w ? sum : NULL);
                else
                    NAME(tied)(ties[at], windows, elements, terms, text, winners[at], gradient[at], w,
                               values[2 * b + 1] ? values[2 * b + 1][o] : 0, changed, to_w ? sum : NULL);
            }
        }
    }
    for (int64_t b = 0; b < s[BRANCHES]; sums += outputs_of(s, b) * terms_of(s, b), b++)
        if (to[2 * b])
            NAME(turned)(sums, outputs_of(s, b), elements, s[HEAD + 2 * b + 1], 1, to[2 * b]);
    return 0;
}

#endif
