/* A whole pass of a chain, forward, back or both with cross-entropy between them: blocks (fused.c),
 * linear layers, ReLU and flattening in a row, or convolutions over tokens (tokens.c) and such layers. One replica after the other, so that what a replica
 * remembers for its way back is still in the cache.
 *
 * Parameters are the rows of one matrix [replica, parameter], and so are their gradients. The file
 * includes itself once for each type of numbers.
 */
#ifndef REAL

#include "vectors.h"

/* What `sizes` holds; then PARTS numbers a step. DIVISOR: what slopes of losses are divided by. */
enum { REPLICAS, BATCH, STEPS, X_REPLICA, PARAMETERS, DIVISOR, PROGRAM };
/* A step. Places in a row of parameters, -1 for none. LINEAR has its inputs in CHANNELS, RELU the numbers
 * of a sample. FLATTEN brings [row, column, channel], as blocks leave it, into PyTorch's order.
 * READ is a chain's first step: ELEMENTS of TOKENS seen by BRANCHES, whose own numbers, each an OUTPUTS, its
 * taps as KERNEL, WEIGHT and BIAS, follow the last step; its WEIGHT is that of the first. */
enum { KIND, CHANNELS, HEIGHT, WIDTH, OUTPUTS, KERNEL, PAD_ROWS, PAD_COLUMNS, WEIGHT, BIAS, PARTS };
enum { BLOCK, LINEAR, RELU, FLATTEN, READ };
enum { ELEMENTS = CHANNELS, TOKENS = HEIGHT, BRANCHES = WIDTH };
/* What a pass can end with, beside 1, no memory, and 2 of fused.c. */
enum { NO_CLASS = 3 };
#define BLOCK_SIZES 28    /* as many as `sizes` of fused.c holds */
#define PART 64           /* samples that a pass without a way back takes at once */
#define MOST_BRANCHES 16

static const int64_t *step_of(const int64_t *s, int64_t k) { return s + PROGRAM + k * PARTS; }

static int64_t rows_of(const int64_t *p) { return (p[HEIGHT] + 2 * p[PAD_ROWS] - p[KERNEL] + 1) / 2; }

static int64_t columns_of(const int64_t *p)
{
    return (p[WIDTH] + 2 * p[PAD_COLUMNS] - p[KERNEL] + 1) / 2;
}

/* Numbers of a sample before and after a step. */
static int64_t before(const int64_t *p)
{
    if (p[KIND] == READ) return p[TOKENS] * p[ELEMENTS];
    return p[KIND] == BLOCK || p[KIND] == FLATTEN ? p[CHANNELS] * p[HEIGHT] * p[WIDTH] : p[CHANNELS];
}

static int64_t after(const int64_t *p)
{
    if (p[KIND] == BLOCK) return p[OUTPUTS] * rows_of(p) * columns_of(p);
    return p[KIND] == LINEAR || p[KIND] == READ ? p[OUTPUTS] : before(p);
}

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#include "chain.c"
#undef REAL
#undef WHOLE
#undef NAME
#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "chain.c"

#else

#include "lanes.h"

int NAME(forward)(const int64_t *, const REAL *, const REAL *, const REAL *, REAL *, signed char *);
int NAME(backward)(const int64_t *, const REAL *, const REAL *, const REAL *, const signed char *,
                   REAL *, REAL *, REAL *);
int NAME(cross_entropy)(const int64_t *, const REAL *, const int64_t *, REAL *, REAL *);
int64_t NAME(tokens_sums)(const int64_t *);
int NAME(tokens_forward)(const int64_t *, const REAL *, const REAL *const *, REAL *, int32_t *, int32_t *,
                         REAL *);
int NAME(tokens_near)(const int64_t *, const REAL *, const REAL *, const REAL *, const REAL *,
                      const REAL *const *, REAL *, int32_t *, int32_t *);
int NAME(tokens_backward)(const int64_t *, const REAL *, const REAL *const *, const REAL *,
                          const int32_t *, const int32_t *, REAL *, REAL *const *);

/* Numbers that a step keeps of `batch` samples: its outputs, and winners behind them. */
static size_t NAME(kept_of)(const int64_t *p, int64_t batch)
{
    const size_t many = rounded((size_t)(batch * after(p)), 64);
    if (p[KIND] == READ) return many + 2 * many * sizeof(int32_t) / sizeof(REAL);
    return p[KIND] == BLOCK ? many + many / sizeof(REAL) : many;
}

static size_t NAME(keeps)(const int64_t *s, int64_t batch)
{
    size_t sum = 0;
    for (int64_t k = 0; k < s[STEPS]; k++) sum += NAME(kept_of)(step_of(s, k), batch);
    return sum;
}

/* Numbers that a replica keeps for its way back. */
int64_t NAME(chain_keeps)(const int64_t *s) { return (int64_t)NAME(keeps)(s, s[BATCH]); }

/* --- products ----------------------------------------------------------------------------------- */

/* Sums of products along rows are made in SHARES parts whatever a vector's width, and added in one
 * order. */
#define SHARES (64 / sizeof(REAL))
#define WIDE (64 / VECTOR)

/* The sum of the SHARES parts, which `parts` vectors hold. */
INLINE REAL NAME(sum_of)(NAME(vec) *parts)
{
    UNROLL
    for (int half = (int)WIDE / 2; half; half /= 2)
        UNROLL
        for (int part = 0; part < half; part++) parts[part] += parts[part + half];
    NAME(vec) sum = parts[0];
    UNROLL
    for (int half = (int)LANES / 2; half; half /= 2) {
        NAME(vec) above = {0};
        UNROLL
        for (int l = 0; l < half; l++) above[l] = sum[l + half];
        sum += above;
    }
    return sum[0];
}

/* to[sample, output] of `samples` by `outputs`: bias + x · w along `inputs` numbers. A part of the sums
 * after the other, so that many of them fit into the registers. */
INLINE void NAME(along)(const REAL *x, const REAL *w, const REAL *bias, int64_t inputs, REAL *to,
                        int64_t stride, const int samples, const int outputs)
{
    NAME(vec) sum[16][WIDE];
    const int64_t whole = inputs - inputs % (int64_t)SHARES;
    for (int part = 0; part < (int)WIDE; part++) {
        NAME(vec) own[16] = {{0}};
        for (int64_t i = part * (int64_t)LANES; i < whole; i += (int64_t)SHARES) {
            NAME(vec) seen[4];
            UNROLL
            for (int n = 0; n < samples; n++) seen[n] = HELD(NAME(load)(x + n * inputs + i));
            UNROLL
            for (int o = 0; o < outputs; o++) {
                const NAME(vec) weight = HELD(NAME(load)(w + o * inputs + i));
                UNROLL
                for (int n = 0; n < samples; n++) own[n * outputs + o] += seen[n] * weight;
            }
        }
        UNROLL
        for (int n = 0; n < samples * outputs; n++) sum[n][part] = own[n];
    }
    UNROLL
    for (int n = 0; n < samples; n++)
        UNROLL
        for (int o = 0; o < outputs; o++) {
            NAME(vec) *parts = sum[n * outputs + o];
            if (whole < inputs) {
                REAL share[SHARES];
                memcpy(share, parts, sizeof share);
                for (int64_t rest = whole; rest < inputs; rest++)
                    share[rest - whole] += x[n * inputs + rest] * w[o * inputs + rest];
                memcpy(parts, share, sizeof share);
            }
            to[n * stride + o] = NAME(sum_of)(parts) + (bias ? bias[o] : 0);
        }
}

/* y[sample, output] = x[sample, input] · w[output, input] + bias. */
static void NAME(linear)(const REAL *x, const REAL *w, const REAL *bias, int64_t samples,
                         int64_t inputs, int64_t outputs, REAL *y)
{
#define MANY (REGISTERS >= 32 ? 4 : 2)
#define ALONG(m, n)                                                                                \
    NAME(along)(x + i * inputs, w + o * inputs, bias ? bias + o : NULL, inputs,                    \
                y + i * outputs + o, outputs, m, n)
    for (int64_t o = 0; o < outputs;) {
        const int many = outputs - o >= MANY;
        for (int64_t i = 0; i < samples;) {
            const int four = samples - i >= 4;
            if (many && four) ALONG(4, MANY);
            else if (many) ALONG(1, MANY);
            else if (four) ALONG(4, 1);
            else ALONG(1, 1);
            i += four ? 4 : 1;
        }
        o += many ? MANY : 1;
    }
#undef ALONG
#undef MANY
}

/* `rows` by `vectors` of to[m, n] = sum over k of a[k, m] b[k, n], in the order of k. */
INLINE void NAME(tile)(const REAL *a, int64_t a_k, int64_t a_m, const REAL *b, int64_t b_k,
                       int64_t terms, REAL *to, int64_t stride, const int rows, const int vectors)
{
    NAME(vec) sum[16] = {{0}};
    for (int64_t k = 0; k < terms; k++, a += a_k, b += b_k) {
        NAME(vec) seen[2];
        __builtin_prefetch(b + 64 / sizeof(REAL)); /* rows lie apart: no processor foresees the next columns */
        UNROLL
        for (int v = 0; v < vectors; v++) seen[v] = HELD(NAME(load)(b + v * (int64_t)LANES));
        UNROLL
        for (int m = 0; m < rows; m++)
            UNROLL
            for (int v = 0; v < vectors; v++) sum[m * vectors + v] += a[m * a_m] * seen[v];
    }
    UNROLL
    for (int m = 0; m < rows; m++)
        UNROLL
        for (int v = 0; v < vectors; v++)
            NAME(store)(to + m * stride + v * (int64_t)LANES, sum[m * vectors + v]);
}

/* to[m, n] = sum over k of a[k, m] b[k, n]; b and to have rows of `columns` numbers. Tiles of 16 registers are
 * 5 by 2: ten sums hide a product's latency, and batches of 20 and 50 leave no rows over. */
static void NAME(product)(const REAL *a, int64_t a_k, int64_t a_m, const REAL *b, int64_t terms,
                          int64_t many, int64_t columns, REAL *to)
{
#define TILE(rows, vectors)                                                                        \
    NAME(tile)(a + m * a_m, a_k, a_m, b + n, columns, terms, to + m * columns + n, columns, rows,  \
               vectors)
    int64_t n = 0;
    while (columns - n >= (int64_t)LANES) {
        const int two = columns - n >= 2 * (int64_t)LANES;
        for (int64_t m = 0; m < many;) {
            if (REGISTERS >= 32 && many - m >= 8) {
                if (two) TILE(8, 2);
                else TILE(8, 1);
                m += 8;
            } else if (REGISTERS < 32 && many - m >= 5) {
                if (two) TILE(5, 2);
                else TILE(5, 1);
                m += 5;
            } else if (many - m >= 4) {
                if (two) TILE(4, 2);
                else TILE(4, 1);
                m += 4;
            } else {
                if (two) TILE(1, 2);
                else TILE(1, 1);
                m += 1;
            }
        }
        n += (two ? 2 : 1) * (int64_t)LANES;
    }
#undef TILE
    for (int64_t m = 0; n < columns && m < many; m++) {
        REAL sum[LANES] = {0};
        for (int64_t k = 0; k < terms; k++)
            for (int64_t j = n; j < columns; j++) sum[j - n] += a[k * a_k + m * a_m] * b[k * columns + j];
        for (int64_t j = n; j < columns; j++) to[m * columns + j] = sum[j - n];
    }
}

static void NAME(column_sums)(const REAL *restrict a, int64_t rows, int64_t columns, REAL *restrict to)
{
    memset(to, 0, (size_t)columns * sizeof(REAL));
    for (int64_t m = 0; m < rows; m++, a += columns)
        for (int64_t n = 0; n < columns; n++) to[n] += a[n];
}

/* --- steps -------------------------------------------------------------------------------------- */

/* [place, channel] of each sample to [channel, place], or (back) the other way round. */
INLINE void NAME(reordered)(const REAL *restrict x, int64_t samples, int64_t channels,
                            const int64_t places, const int back, REAL *restrict to)
{
    for (int64_t i = 0; i < samples; i++, x += channels * places, to += channels * places)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t n = 0; n < places; n++)
                if (back)
                    to[n * channels + c] = x[c * places + n];
                else
                    to[c * places + n] = x[n * channels + c];
}

static void NAME(reorder)(const REAL *x, int64_t samples, int64_t channels, int64_t places, int back,
                          REAL *to)
{
    if (places == 4 && back) NAME(reordered)(x, samples, channels, 4, 1, to);
    else if (places == 4) NAME(reordered)(x, samples, channels, 4, 0, to);
    else NAME(reordered)(x, samples, channels, places, back, to);
}

/* One replica's sizes of a block, as fused.c has them. first: whether its pictures are the chain's inputs,
 * [channel, row, column]; otherwise [row, column, channel], as another block left them. */
static void NAME(sizes_of)(const int64_t *p, int64_t batch, int first, int64_t *to)
{
    const int64_t c = p[CHANNELS], h = p[HEIGHT], w = p[WIDTH], o = p[OUTPUTS], k = p[KERNEL];
    const int64_t rows = rows_of(p), columns = columns_of(p);
    const int64_t made[BLOCK_SIZES] = {
        1, batch, c, h, w, o, k, p[PAD_ROWS], p[PAD_COLUMNS],
        0, c * h * w, first ? h * w : 1, first ? w : w * c, first ? 1 : c,
        0, c * k * k, k * k, k, 1, 0, 1,
        0, rows * columns * o, 1, columns * o, o, 0, 0};
    memcpy(to, made, sizeof made);
}

/* One replica's branches as tokens.c has them: sizes; parameters, or (gradients) where theirs go. */
static void NAME(branches_of)(const int64_t *s, int64_t batch, const REAL *row, int64_t *sizes,
                              const REAL **values)
{
    const int64_t *p = step_of(s, 0);
    const int64_t made[4] = {batch, p[TOKENS], p[ELEMENTS], p[BRANCHES]};
    memcpy(sizes, made, sizeof made);
    for (int64_t b = 0; b < p[BRANCHES]; b++) {
        const int64_t *own = step_of(s, s[STEPS] + b);
        sizes[4 + 2 * b] = own[OUTPUTS];
        sizes[5 + 2 * b] = own[KERNEL];
        values[2 * b] = row ? row + own[WEIGHT] : NULL;
        values[2 * b + 1] = row && own[BIAS] >= 0 ? row + own[BIAS] : NULL;
    }
}

/* Sums of a text CNN's convolutions, kept at `base`; where that is NULL, they are to be kept at this pass's
 * inputs. shifts: of most elements of a text from the base, one a text. NULL in `sums` for none of it. */
typedef struct {
    REAL *sums;
    const REAL *base, *shifts;
} NAME(near);

/* How many sums a replica keeps. */
int64_t NAME(chain_sums)(const int64_t *s)
{
    int64_t sizes[4 + 2 * MOST_BRANCHES];
    const REAL *values[2 * MOST_BRANCHES];
    NAME(branches_of)(s, s[BATCH], NULL, sizes, values);
    return NAME(tokens_sums)(sizes);
}

/* Steps forward for one replica. Gives its outputs in `y`, 0 in `failed` where all went well. */
static const REAL *NAME(forwards)(const int64_t *s, int64_t batch, const REAL *x, const REAL *row,
                                  REAL *kept, int returning, NAME(near) near, int *failed)
{
    for (int64_t k = 0; k < s[STEPS]; k++) {
        const int64_t *p = step_of(s, k);
        const REAL *weight = row + p[WEIGHT], *bias = p[BIAS] < 0 ? NULL : row + p[BIAS];
        if (p[KIND] == BLOCK) {
            int64_t sizes[BLOCK_SIZES];
            NAME(sizes_of)(p, batch, k == 0, sizes);
            signed char *winners = (signed char *)(kept + rounded((size_t)(batch * after(p)), 64));
            *failed = NAME(forward)(sizes, x, weight, bias, kept, returning ? winners : NULL);
            if (*failed) return NULL;
        } else if (p[KIND] == READ) {
            int64_t sizes[4 + 2 * MOST_BRANCHES];
            const REAL *values[2 * MOST_BRANCHES];
            NAME(branches_of)(s, batch, row, sizes, values);
            const size_t many = rounded((size_t)(batch * after(p)), 64);
            int32_t *winners = returning ? (int32_t *)(kept + many) : NULL;
            int32_t *ties = returning ? winners + many : NULL;
            *failed = near.base ? NAME(tokens_near)(sizes, x, near.base, near.shifts, near.sums, values, kept, winners, ties)
                                : NAME(tokens_forward)(sizes, x, values, kept, winners, ties, near.sums);
            if (*failed) return NULL;
        } else if (p[KIND] == LINEAR)
            NAME(linear)(x, weight, bias, batch, p[CHANNELS], p[OUTPUTS], kept);
        else if (p[KIND] == RELU)
            for (int64_t n = 0; n < batch * p[CHANNELS]; n++) kept[n] = x[n] < 0 ? 0 : x[n];
        else
            NAME(reorder)(x, batch, p[CHANNELS], p[HEIGHT] * p[WIDTH], 0, kept);
        x = kept;
        kept += NAME(kept_of)(p, batch);
    }
    return x;
}

/* Steps back for one replica. gradient: of its outputs; it and `other` are overwritten. kept: the end of
 * what it kept. to_row, to_x: may be NULL. */
static int NAME(backwards)(const int64_t *s, const REAL *x, const REAL *row, const REAL *kept,
                           REAL *gradient, REAL *other, REAL *to_row, REAL *to_x)
{
    const int64_t batch = s[BATCH];
    int64_t last = 0;
    while (!to_x && step_of(s, last)[WEIGHT] < 0) last++;
    for (int64_t k = s[STEPS] - 1; k >= last; k--) {
        const int64_t *p = step_of(s, k);
        const REAL *y = kept - NAME(kept_of)(p, batch);
        const REAL *seen = k ? y - NAME(kept_of)(step_of(s, k - 1), batch) : x;
        const int on = to_x || k > last;
        REAL *to_weight = to_row && p[WEIGHT] >= 0 ? to_row + p[WEIGHT] : NULL;
        REAL *to_bias = to_row && p[BIAS] >= 0 ? to_row + p[BIAS] : NULL;
        REAL *to = k ? other : to_x;
        if (p[KIND] == BLOCK) {
            int64_t sizes[BLOCK_SIZES];
            NAME(sizes_of)(p, batch, k == 0, sizes);
            const signed char *winners = (const signed char *)(y + rounded((size_t)(batch * after(p)), 64));
            REAL *placed = k || p[CHANNELS] == 1 ? to : other; /* still channels last */
            const int failed = NAME(backward)(sizes, seen, row + p[WEIGHT], gradient, winners,
                                              on ? placed : NULL, to_weight, to_bias);
            if (failed) return failed;
            if (on && placed != to) NAME(reorder)(placed, batch, p[CHANNELS], p[HEIGHT] * p[WIDTH], 0, to);
        } else if (p[KIND] == READ) {
            int64_t sizes[4 + 2 * MOST_BRANCHES];
            const REAL *values[2 * MOST_BRANCHES], *places[2 * MOST_BRANCHES];
            NAME(branches_of)(s, batch, to_row, sizes, places);
            NAME(branches_of)(s, batch, row, sizes, values);
            const size_t many = rounded((size_t)(batch * after(p)), 64);
            const int32_t *winners = (const int32_t *)(y + many);
            if (NAME(tokens_backward)(sizes, x, values, gradient, winners, winners + many, to_x,
                                      (REAL *const *)places))
                return 1;
        } else if (p[KIND] == LINEAR) {
            const int64_t inputs = p[CHANNELS], outputs = p[OUTPUTS];
            if (to_weight) NAME(product)(gradient, outputs, 1, seen, batch, outputs, inputs, to_weight);
            if (to_bias) NAME(column_sums)(gradient, batch, outputs, to_bias);
            if (on) NAME(product)(gradient, 1, outputs, row + p[WEIGHT], outputs, batch, inputs, to);
        } else if (p[KIND] == RELU) {
            for (int64_t n = 0; on && n < batch * p[CHANNELS]; n++) to[n] = y[n] <= 0 ? 0 : gradient[n];
        } else if (on)
            NAME(reorder)(gradient, batch, p[CHANNELS], p[HEIGHT] * p[WIDTH], 1, to);
        kept = y;
        other = gradient;
        gradient = to;
    }
    return 0;
}

/* x: [replica, sample, feature], each replica's in one piece; flat, to_flat: [replica, parameter].
 *
 * Three uses. Forward: `logits` alone; with `kept`, chain_keeps numbers a replica, for a way back. Back:
 * `slopes`, of the logits, with `kept` of the way forward. Both: `classes` [replica, sample], which gives
 * `losses` too, and the gradients of their sum over DIVISOR. to_flat, to_x: may be NULL. sums, base, shifts:
 * see `near`, of all replicas; base as x. Gives 0, 1 where memory ran out, 2 where a picture is too large, 3
 * where a class is none. */
int NAME(chain)(const int64_t *s, const REAL *x, const REAL *flat, REAL *kept, REAL *logits,
                const REAL *slopes, const int64_t *classes, REAL *losses, REAL *to_flat, REAL *to_x,
                REAL *sums, const REAL *base, const REAL *shifts)
{
    const int64_t batch = s[BATCH], each = before(step_of(s, 0)), outputs = after(step_of(s, s[STEPS] - 1));
    const int back = slopes || classes;
    /* Without a way back, a part of the batch at a time: it stays in the cache. */
    const int64_t at_once = kept || back || sums || batch < PART ? batch : PART;
    const int64_t summed = sums ? NAME(chain_sums)(s) : 0;
    const size_t keeps = NAME(keeps)(s, at_once);
    size_t widest = rounded((size_t)(batch * outputs), 64);
    for (int64_t k = 0; k < s[STEPS]; k++) {
        const size_t wide = rounded((size_t)(batch * before(step_of(s, k))), 64);
        widest = wide > widest ? wide : widest;
    }
    const size_t own = kept ? 0 : keeps;
    REAL *memory = (REAL *)scratch((own + (back ? 2 * widest : 0) + 64) * sizeof(REAL));
    if (!memory) return 1;
    REAL *gradient = memory + own, *other = gradient + widest;
    for (int64_t r = 0; r < s[REPLICAS]; r++) {
        const REAL *mine = x + r * s[X_REPLICA], *row = flat + r * s[PARAMETERS];
        REAL *held = kept ? kept + (size_t)r * keeps : memory, *to = to_flat ? to_flat + r * s[PARAMETERS] : NULL;
        const NAME(near) near = {sums ? sums + r * summed : NULL, base ? base + r * s[X_REPLICA] : NULL,
                                 base ? shifts + r * batch : NULL};
        int failed = 0;
        for (int64_t first = 0; !slopes && first < batch; first += at_once) {
            const int64_t many = batch - first < at_once ? batch - first : at_once;
            const REAL *y = NAME(forwards)(s, many, mine + first * each, row, held, kept || back, near,
                                           &failed);
            if (failed) return failed;
            if (classes) {
                const int64_t sizes[2] = {batch, outputs};
                if (NAME(cross_entropy)(sizes, y, classes + r * batch, losses + r * batch, gradient)) return NO_CLASS;
                const REAL share = 1 / (REAL)s[DIVISOR];
                for (int64_t n = 0; s[DIVISOR] != 1 && n < batch * outputs; n++) gradient[n] *= share;
            } else
                memcpy(logits + (r * batch + first) * outputs, y, (size_t)(many * outputs) * sizeof(REAL));
        }
        if (slopes)
            memcpy(gradient, slopes + r * batch * outputs, (size_t)(batch * outputs) * sizeof(REAL));
        if (back)
            failed = NAME(backwards)(s, mine, row, held + keeps, gradient, other, to,
                                     to_x ? to_x + r * batch * each : NULL);
        if (failed) return failed;
    }
    return 0;
}

#endif
