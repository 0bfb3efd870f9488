/* Convolution over the tokens of texts, bias, ReLU and the maximum over the text in one pass, and the
 * way back through the winning window of each text and output alone: one of hundreds.
 *
 * x: [text, token, element]; weight: [output, element, tap]; bias: [output] or NULL; y, winners, ties,
 * gradient: [text, output]; all contiguous. A window of `taps` tokens lies in one piece. A winner is
 * the window's first token, or -1 where ReLU stopped all. Windows that tie share the gradient, as in
 * PyTorch's amax: ties counts them. The file includes itself once for each type of numbers.
 */
#ifndef REAL

#include "vectors.h"

#define POSITIONS 6

enum { TEXTS, TOKENS, ELEMENTS, OUTPUTS, TAPS };

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

/* `vectors` of outputs over all windows of one text. w: [element of the window, output]. */
INLINE void NAME(text)(const REAL *x, int64_t windows, int64_t elements, int64_t terms, const REAL *w,
                       const REAL *bias, int64_t padded, const int vectors, int64_t here, REAL *y,
                       int32_t *winners, int32_t *ties)
{
    NAME(vec) best[4] = {{0}, {0}, {0}, {0}};
    NAME(mask) winner[4], count[4] = {{0}, {0}, {0}, {0}};
    UNROLL
    for (int v = 0; v < vectors; v++) winner[v] = (NAME(mask)){0} - 1;
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
                const NAME(mask) better = (NAME(mask))(value > best[v]) | (NAME(mask))(value != value);
                const NAME(mask) equal = (NAME(mask))(value == best[v]);
                best[v] = (NAME(vec))NAME(select)(better, (NAME(mask))value, (NAME(mask))best[v]);
                winner[v] = NAME(select)(better, (NAME(mask)){0} + (WHOLE)(window + p), winner[v]);
                count[v] = NAME(select)(better, (NAME(mask)){0} + 1, count[v] - equal);
            }
        window += positions;
    }
    for (int v = 0; v < vectors; v++)
        for (int64_t l = 0; l < (int64_t)LANES && v * (int64_t)LANES + l < here; l++) {
            const int64_t o = v * (int64_t)LANES + l;
            y[o] = best[v][l];
            if (winners) {
                winners[o] = (int32_t)winner[v][l];
                ties[o] = (int32_t)count[v][l];
            }
        }
}

/* winners and ties may be NULL. Gives 0, or 1 where memory ran out. */
int NAME(tokens_forward)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *bias, REAL *y,
                         int32_t *winners, int32_t *ties)
{
    const int64_t elements = s[ELEMENTS], outputs = s[OUTPUTS], taps = s[TAPS];
    const int64_t terms = taps * elements, windows = s[TOKENS] - taps + 1;
    const int64_t padded = (int64_t)rounded((size_t)outputs, LANES), most = REGISTERS >= 32 ? 4 : 2;
    REAL *w = (REAL *)scratch((size_t)((terms + 1) * padded) * sizeof(REAL));
    if (!w) return 1;
    REAL *b = w + terms * padded;
    memset(w, 0, (size_t)((terms + 1) * padded) * sizeof(REAL));
    for (int64_t o = 0; o < outputs; o++) {
        for (int64_t e = 0; e < elements; e++)
            for (int64_t k = 0; k < taps; k++)
                w[(k * elements + e) * padded + o] = weight[(o * elements + e) * taps + k];
        if (bias) b[o] = bias[o];
    }
    for (int64_t i = 0; i < s[TEXTS]; i++)
        for (int64_t o = 0; o < outputs;) {
            const int64_t left = (padded - o) / (int64_t)LANES, at = i * outputs + o;
            const REAL *text = x + i * s[TOKENS] * elements;
            int32_t *won = winners ? winners + at : NULL, *tied = ties ? ties + at : NULL;
#define OUTPUTS_OF(vectors)                                                                         \
    NAME(text)(text, windows, elements, terms, w + o, b + o, padded, vectors, outputs - o, y + at,  \
               won, tied);                                                                          \
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
    return 0;
}

/* What one window adds to the gradients, each of which may be NULL. */
INLINE void NAME(window)(int64_t terms, REAL g, const REAL *restrict x, const REAL *restrict w,
                         REAL *restrict to_x, REAL *restrict to_w)
{
    if (to_x)
        for (int64_t j = 0; j < terms; j++) to_x[j] += g * w[j];
    if (to_w)
        for (int64_t j = 0; j < terms; j++) to_w[j] += g * x[j];
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

/* to_x: [text, token, element]; to_weight, to_bias: as weight and bias; each may be NULL. Gives 0, or
 * 1 where memory ran out. */
int NAME(tokens_backward)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *bias,
                          const REAL *gradient, const REAL *y, const int32_t *winners,
                          const int32_t *ties, REAL *to_x, REAL *to_weight, REAL *to_bias)
{
    const int64_t elements = s[ELEMENTS], outputs = s[OUTPUTS], taps = s[TAPS];
    const int64_t terms = taps * elements, windows = s[TOKENS] - taps + 1;
    const int64_t length = s[TOKENS] * elements;
    REAL *w = (REAL *)scratch((size_t)(2 * terms * outputs) * sizeof(REAL));
    if (!w) return 1;
    REAL *sums = w + terms * outputs;
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t e = 0; e < elements; e++)
            for (int64_t k = 0; k < taps; k++)
                w[o * terms + k * elements + e] = weight[(o * elements + e) * taps + k];
    if (to_weight) memset(sums, 0, (size_t)(terms * outputs) * sizeof(REAL));
    if (to_x) memset(to_x, 0, (size_t)(s[TEXTS] * length) * sizeof(REAL));
    if (to_bias) memset(to_bias, 0, (size_t)outputs * sizeof(REAL));
    for (int64_t i = 0; i < s[TEXTS]; i++)
        for (int64_t o = 0; o < outputs; o++) {
            const int64_t at = i * outputs + o;
            if (winners[at] < 0) continue;
            const REAL *text = x + i * length, *own = w + o * terms;
            REAL *changed = to_x ? to_x + i * length : NULL, *sum = to_weight ? sums + o * terms : NULL;
            if (to_bias) to_bias[o] += gradient[at];
            if (ties[at] <= 1) {
                const int64_t begin = winners[at] * elements;
                NAME(window)(terms, gradient[at], text + begin, own, changed ? changed + begin : NULL,
                             sum);
                continue;
            }
            if (NAME(alike)(ties[at], windows, elements, terms, text, winners[at], gradient[at], own,
                            changed, sum))
                continue;
            /* Windows that tie are sought again: compared with the winner by one and the same loop, as
             * compilers may round another one differently. */
            REAL largest = 0, share = 0;
            int64_t found = 0;
            for (int pass = 0; pass < 2; pass++, share = gradient[at] / (REAL)found)
                for (int64_t begin = winners[at] * elements; begin < windows * elements; begin += elements) {
                    REAL value = bias ? bias[o] : 0;
                    for (int64_t j = 0; j < terms; j++) value += text[begin + j] * own[j];
                    if (begin == winners[at] * elements) largest = value;
                    if (value != largest) continue;
                    if (pass)
                        NAME(window)(terms, share, text + begin, own, changed ? changed + begin : NULL,
                                     sum);
                    else
                        found++;
                }
        }
    for (int64_t o = 0; to_weight && o < outputs; o++)
        for (int64_t e = 0; e < elements; e++)
            for (int64_t k = 0; k < taps; k++)
                to_weight[(o * elements + e) * taps + k] = sums[o * terms + k * elements + e];
    return 0;
}

#endif
