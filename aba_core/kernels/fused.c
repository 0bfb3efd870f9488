/* Convolution, bias, maximum pooling and ReLU of all replicas' pictures in one pass, and the way
 * back through the winning place of each pooling window alone: a quarter of the places, and fewer
 * after ReLU.
 *
 * y = relu(max over 2 x 2 places of (weight * x + bias)), stride 1, square kernels, zero padding.
 * Pictures are copied into a padded scratch with channels last, so that nothing in the loops asks
 * for borders or strides. A winner is a byte: 0 to 3 is the place in the window by rows, DEAD says
 * that ReLU stopped it. Ties and NaN as in PyTorch: the first maximum wins, NaN wins over numbers.
 *
 * Every product is added by one fused operation where the processor has one, always the same way
 * round and in an order that no vector's width decides: AVX2, AVX-512 and NEON give the same bits.
 *
 * The file includes itself once for each type of numbers. It keeps one scratch a thread, has no
 * other state, and starts no threads.
 */
#ifndef REAL

#include "vectors.h"

#define DEAD 4
#define FEW_CHANNELS 4      /* up to so many, the way back treats a window's patch as one vector */
#define AT_ONCE (16 * 1024) /* bytes of pictures that the way back holds at once: they stay near */

/* What `sizes` holds. Strides are in elements. */
enum {
    REPLICAS, BATCH, CHANNELS, HEIGHT, WIDTH, OUTPUTS, KERNEL, PAD_ROWS, PAD_COLUMNS,
    X_STRIDES,                      /* replica, batch, channel, row, column */
    WEIGHT_STRIDES = X_STRIDES + 5, /* replica, output, channel, row, column */
    BIAS_STRIDES = WEIGHT_STRIDES + 5, /* replica, output */
    GRADIENT_STRIDES = BIAS_STRIDES + 2, /* replica, batch, output, row, column */
    TO_WEIGHT = GRADIENT_STRIDES + 5, TO_BIAS, /* strides of replicas */
    SIZES
};

/* Whether products are added without being rounded before, which decides last bits. */
int fuses_products(void)
{
#ifdef __FP_FAST_FMA
    return 1;
#else
    return 0;
#endif
}

#define REAL float
#define WHOLE int32_t
#define NAME(name) name##_float
#include "fused.c"
#undef REAL
#undef WHOLE
#undef NAME
#define REAL double
#define WHOLE int64_t
#define NAME(name) name##_double
#include "fused.c"

#else

#include "lanes.h"

typedef WHOLE NAME(bits) __attribute__((may_alias));

/* One picture's `channels` into a frame of zeros, [row, column, channel] with `step` numbers a place. */
static void NAME(frame)(REAL *to, const REAL *x, const int64_t *s, int64_t channels, int64_t step)
{
    const int64_t *stride = s + X_STRIDES;
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    if (s[PAD_ROWS] || s[PAD_COLUMNS] || step != channels)
        memset(to, 0, (size_t)(high * wide * step) * sizeof(REAL));
    for (int64_t row = 0; row < s[HEIGHT]; row++) {
        const REAL *from = x + row * stride[3];
        REAL *line = to + ((row + s[PAD_ROWS]) * wide + s[PAD_COLUMNS]) * step;
        if (channels == step && (stride[2] == 1 || channels == 1) && stride[4] == channels)
            memcpy(line, from, (size_t)(s[WIDTH] * channels) * sizeof(REAL));
        else if (stride[2] == 1)
            for (int64_t column = 0; column < s[WIDTH]; column++)
                for (int64_t c = 0; c < channels; c++)
                    line[column * step + c] = from[column * stride[4] + c];
        else
            for (int64_t c = 0; c < channels; c++)
                for (int64_t column = 0; column < s[WIDTH]; column++)
                    line[column * step + c] = from[c * stride[2] + column * stride[4]];
    }
}

/* One line of the kernel added to the sums of `windows`. lines: 1 where the upper places of windows see
 * more than border, plus 2 where the lower ones do. left, right: whether the first place's first column
 * and the last place's last column are border, which adds nothing. */
INLINE const REAL *NAME(line_of)(const REAL *upper, const REAL *lower, int64_t channels, int kernel,
                                 const REAL *w, int64_t outputs_padded, const int vectors,
                                 const int windows, const int lines, const int left, const int right,
                                 NAME(vec) *sum)
{
#define COLUMNS(from, to, first, last)                                                             \
    for (int64_t j = (from) * channels; j < (to) * channels; j++, w += outputs_padded) {           \
        NAME(vec) weight[4];                                                                       \
        UNROLL                                                                                     \
        for (int v = 0; v < vectors; v++) weight[v] = HELD(NAME(load)(w + v * LANES));             \
        UNROLL                                                                                     \
        for (int p = 0; p < 4 * windows; p++) {                                                    \
            const int column = 2 * (p / 4) + p % 2, line = p % 4 < 2 ? 1 : 2;                      \
            if (!(lines & line) || column < (first) || column > (last)) continue;                  \
            const REAL value = (line == 1 ? upper : lower)[column * channels + j];                 \
            UNROLL                                                                                 \
            for (int v = 0; v < vectors; v++) sum[v * 4 * windows + p] += value * weight[v];       \
        }                                                                                          \
    }
    if (left) COLUMNS(0, 1, 1, 99)
    COLUMNS(left, kernel - right, 0, 99)
    if (right) COLUMNS(kernel - 1, kernel, 0, 2 * windows - 2)
#undef COLUMNS
    return w;
}

/* `vectors` of outputs at `windows` neighbouring pooling windows. w: [place, channel, output]. upper, lower:
 * the first and last lines of the kernel that see more than border from the windows' upper places are
 * edges[0] and edges[1], from their lower ones edges[2] and edges[3]; skips: whether the others are
 * left out. */
INLINE void NAME(windows)(const REAL *x, int64_t wide, int64_t channels, int kernel, const REAL *w,
                          int64_t outputs_padded, const REAL *bias, const int vectors,
                          const int windows, const int *edges, const int left, const int right,
                          const int skips, REAL *y, WHOLE *winners, int64_t outputs, int64_t here)
{
    NAME(vec) sum[16];
    UNROLL
    for (int v = 0; v < vectors; v++)
        UNROLL
        for (int p = 0; p < 4 * windows; p++) sum[v * 4 * windows + p] = NAME(load)(bias + v * LANES);
    for (int row = 0; row < kernel; row++) {
        const REAL *upper = x + row * wide * channels, *lower = upper + wide * channels;
        const int up = row >= edges[0] && row <= edges[1], low = row >= edges[2] && row <= edges[3];
#define LINES(which)                                                                               \
    w = NAME(line_of)(upper, lower, channels, kernel, w, outputs_padded, vectors, windows, which,  \
                      left, right, sum)
        if (!skips || (up && low)) LINES(3);
        else if (low) LINES(2);
        else if (up) LINES(1);
        else w += kernel * channels * outputs_padded;
#undef LINES
    }
    UNROLL
    for (int n = 0; n < windows; n++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            const NAME(vec) *place = sum + v * 4 * windows + 4 * n;
            NAME(vec) best = place[0];
            NAME(mask) winner = {0};
            UNROLL
            for (int p = 1; p < 4; p++) {
                const NAME(mask) better = (NAME(mask))(place[p] > best) | (NAME(mask))(place[p] != place[p]);
                best = (NAME(vec))NAME(select)(better, (NAME(mask))place[p], (NAME(mask))best);
                winner = NAME(select)(better, (NAME(mask)){0} + p, winner);
            }
            const NAME(vec) zero = {0};
            const NAME(mask) alive = (NAME(mask))(best > zero) | (NAME(mask))(best != best);
            best = (NAME(vec))((NAME(mask))best & alive);
            const NAME(mask) code = NAME(select)(alive, winner, (NAME(mask)){0} + DEAD);
            const int64_t at = n * outputs + v * (int64_t)LANES, left = here - v * (int64_t)LANES;
            if (left >= (int64_t)LANES) {
                NAME(store)(y + at, best);
                if (winners) memcpy(winners + at, &code, sizeof code);
            } else
                for (int64_t l = 0; l < left; l++) {
                    y[at + l] = best[l];
                    if (winners) winners[at + l] = code[l];
                }
        }
    }
}

/* All windows of one picture. x: its frame. skips: whether borders are left out, which pays where there
 * are many channels. */
INLINE void NAME(picture)(const REAL *x, const int64_t *s, int64_t channels, int kernel,
                          const int skips, int64_t rows, int64_t columns, const REAL *w, const REAL *bias, int64_t padded, REAL *y,
                          WHOLE *winners)
{
    const int64_t outputs = s[OUTPUTS], wide = s[WIDTH] + 2 * s[PAD_COLUMNS];
    const int64_t top = s[PAD_ROWS], bottom = s[HEIGHT] + s[PAD_ROWS] - 1;
#define WINDOWS(many, next, left, right)                                                           \
    NAME(windows)(x + (2 * row * wide + 2 * column) * channels, wide, channels, kernel, w + o,     \
                  padded, bias + o, many, next, edges, left, right, skips, y + at,                 \
                  winners ? winners + at : NULL, outputs, outputs - o)
    for (int64_t o = 0; o < outputs;) {
        const int two = outputs - o > (int64_t)LANES;
        for (int64_t row = 0; row < rows; row++) {
            const int edges[4] = {(int)(top - 2 * row), (int)(bottom - 2 * row),
                                  (int)(top - 2 * row - 1), (int)(bottom - 2 * row - 1)};
            for (int64_t column = 0; column < columns;) {
                const int64_t at = (row * columns + column) * outputs + o, left = columns - column;
                if (two && left >= 2 && REGISTERS >= 32) {
                    const int first = column < s[PAD_COLUMNS];
                    const int last = 2 * column + 2 + kernel >= s[WIDTH] + s[PAD_COLUMNS];
                    if (skips && first && last) WINDOWS(2, 2, 1, 1);
                    else if (skips && first) WINDOWS(2, 2, 1, 0);
                    else if (skips && last) WINDOWS(2, 2, 0, 1);
                    else WINDOWS(2, 2, 0, 0);
                    column += 2;
                } else if (two) {
                    WINDOWS(2, 1, 0, 0);
                    column += 1;
                } else if (left >= 4 && REGISTERS >= 32 && channels <= FEW_CHANNELS) {
                    WINDOWS(1, 4, 0, 0);
                    column += 4;
                } else if (left >= 2) {
                    WINDOWS(1, 2, 0, 0);
                    column += 2;
                } else {
                    WINDOWS(1, 1, 0, 0);
                    column += 1;
                }
            }
        }
        o += (two ? 2 : 1) * (int64_t)LANES;
    }
#undef WINDOWS
}

/* One channel's kernel, its numbers `apart`. */
INLINE void NAME(scattered)(const REAL *restrict from, const int64_t *stride, const int64_t kernel,
                            int64_t apart, REAL *restrict to)
{
    for (int64_t i = 0; i < kernel; i++)
        for (int64_t j = 0; j < kernel; j++)
            to[(i * kernel + j) * apart] = from[i * stride[3] + j * stride[4]];
}

/* y, winners: [replica, batch, row, column, output], contiguous; winners may be NULL, bias too.
 * Gives 0, or 1 where memory ran out. */
int NAME(forward)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *bias, REAL *y,
                  signed char *winners)
{
    const int64_t channels = s[CHANNELS], outputs = s[OUTPUTS], kernel = s[KERNEL];
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    const int64_t rows = (high - kernel + 1) / 2, columns = (wide - kernel + 1) / 2;
    const int64_t padded = (int64_t)rounded((size_t)outputs, LANES);
    const int64_t terms = kernel * kernel * channels, each = rows * columns * outputs;
    const int64_t *stride = s + WEIGHT_STRIDES;
    const size_t framed = rounded((size_t)(high * wide * channels), LANES);
    REAL *frame = (REAL *)scratch((framed + (size_t)((terms + 1) * padded + each)) * sizeof(REAL));
    if (!frame) return 1;
    REAL *w = frame + framed, *b = w + terms * padded;
    /* Winners are made in vectors as wide as numbers, and become bytes in one long loop. */
    WHOLE *wide_winners = winners ? (WHOLE *)(b + padded) : NULL;
    memset(w, 0, (size_t)((terms + 1) * padded) * sizeof(REAL));
    for (int64_t r = 0; r < s[REPLICAS]; r++) {
        const REAL *from = weight + r * stride[0];
        for (int64_t o = 0; o < outputs; o++)
            for (int64_t c = 0; c < channels; c++) {
                const REAL *taps = from + o * stride[1] + c * stride[2];
                REAL *to = w + c * padded + o;
                if (kernel == 3) NAME(scattered)(taps, stride, 3, channels * padded, to);
                else NAME(scattered)(taps, stride, kernel, channels * padded, to);
            }
        for (int64_t o = 0; bias && o < outputs; o++)
            b[o] = bias[r * s[BIAS_STRIDES] + o * s[BIAS_STRIDES + 1]];
        for (int64_t i = 0; i < s[BATCH]; i++) {
            const int64_t at = (r * s[BATCH] + i) * each;
            NAME(frame)(frame, x + r * s[X_STRIDES] + i * s[X_STRIDES + 1], s, channels, channels);
#define PICTURE(deep, square, skips)                                                           \
    NAME(picture)(frame, s, deep, square, skips, rows, columns, w, b, padded, y + at, wide_winners)
            if (kernel == 3 && channels == 1)
                PICTURE(1, 3, 0);
            else if (kernel == 3 && channels == 3)
                PICTURE(3, 3, 0);
            else
                PICTURE(channels, (int)kernel, 1);
#undef PICTURE
            for (int64_t n = 0; winners && n < each; n++) winners[at + n] = (signed char)wide_winners[n];
        }
    }
    return 0;
}

/* Gradients of `lines` lines of one output's kernel, for one vector of channels: in registers. apart: how
 * far from one another its windows lie. */
INLINE void NAME(to_weights)(const REAL *x, int64_t wide, const int kernel,
                             const int lines, const int32_t *places, const REAL *gradients,
                             int64_t count, int64_t apart, REAL *to)
{
    NAME(vec) sum[16];
    UNROLL
    for (int k = 0; k < lines * kernel; k++) sum[k] = NAME(load)(to + k * (int64_t)LANES);
    for (int64_t e = 0; e < count * apart; e += apart) {
        const REAL *at = x + places[e], g = gradients[e];
        UNROLL
        for (int k = 0; k < lines * kernel; k++)
            sum[k] += g * NAME(load)(at + (k / kernel * wide + k % kernel) * (int64_t)LANES);
    }
    UNROLL
    for (int k = 0; k < lines * kernel; k++) NAME(store)(to + k * (int64_t)LANES, sum[k]);
}

/* What a pooling window's outputs add to the inputs' gradient, for one vector of channels and `rows` by
 * `columns` places of the patch that the window sees: in registers. w: each output's kernel with zeros
 * above and on its left, which end the one before, so that a shift brings every winner's kernel to its
 * place in the patch. list: which of the outputs
 * are alive, or NULL for all. */
INLINE void NAME(to_patch)(REAL *x, int64_t wide, const int kernel, const int rows,
                           const int columns, const REAL *w, const REAL *gradients,
                           const int32_t *shifts, const int32_t *list, int64_t count)
{
    NAME(vec) sum[16] = {{0}};
    const int ring = kernel + 1;
    for (int64_t e = 0; e < count; e++) {
        const int64_t o = list ? list[e] : e;
        const REAL *from = w + o * ring * ring * (int64_t)LANES + shifts[o], g = gradients[o];
        UNROLL
        for (int k = 0; k < rows * columns; k++)
            sum[k] += g * NAME(load)(from + (k / columns * ring + k % columns) * (int64_t)LANES);
    }
    UNROLL
    for (int k = 0; k < rows * columns; k++) {
        REAL *to = x + (k / columns * wide + k % columns) * (int64_t)LANES;
        NAME(store)(to, NAME(load)(to) + sum[k]);
    }
}

/* All windows of one picture: what they add to its frame. count: outputs. live: whether most are. */
INLINE void NAME(to_frame)(REAL *frame, const int64_t *s, const int kernel,
                           int64_t rows, int64_t columns, const REAL *w, const REAL *gradients,
                           const int32_t *shifts, int32_t *list, const signed char *winners,
                           const int live)
{
    const int64_t outputs = s[OUTPUTS], wide = s[WIDTH] + 2 * s[PAD_COLUMNS];
    const int side = kernel + 1, ring = side;
    for (int64_t window = 0; window < rows * columns; window++) {
        const int64_t row = 2 * (window / columns), column = 2 * (window % columns);
        const REAL *g = gradients + window * outputs;
        const int32_t *shift = shifts + window * outputs;
        int64_t count = outputs;
        if (!live) {
            count = 0;
            for (int64_t o = 0; o < outputs; o++) {
                list[count] = (int32_t)o;
                count += winners[window * outputs + o] != DEAD;
            }
        }
        /* Of a patch of 4 x 4, three rows or columns where the fourth is border. */
        const int64_t down = row < s[PAD_ROWS], right = column < s[PAD_COLUMNS];
        const int three_rows = down || row + 3 >= s[HEIGHT] + s[PAD_ROWS];
        const int three_columns = right || column + 3 >= s[WIDTH] + s[PAD_COLUMNS];
#define PATCH(high, across, lower, along)                                                          \
    NAME(to_patch)(frame + ((row + (lower)) * wide + column + (along)) * (int64_t)LANES, wide,     \
                   kernel, high, across, w + ((lower) * ring + (along)) * (int64_t)LANES, g, shift, \
                   live ? NULL : list, count)
        if (kernel == 3 && REGISTERS >= 32 && three_rows && three_columns)
            PATCH(3, 3, down, right);
        else if (kernel == 3 && REGISTERS >= 32 && three_rows)
            PATCH(3, 4, down, 0);
        else if (kernel == 3 && REGISTERS >= 32 && three_columns)
            PATCH(4, 3, 0, right);
        else if (kernel == 3 && REGISTERS >= 32)
            PATCH(4, 4, 0, 0);
        else if (kernel == 3)
            for (int lower = 0; lower < side; lower += 2) PATCH(2, 4, lower, 0);
        else
            for (int lower = 0; lower < side; lower++) PATCH(1, 6, lower, 0);
#undef PATCH
    }
}

/* The inside of a frame into `channels` of a picture [row, column, channel]. */
static void NAME(unframe)(REAL *to, const REAL *frame, const int64_t *s, int64_t channels, int64_t step)
{
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], apart = s[CHANNELS];
    for (int64_t row = 0; row < s[HEIGHT]; row++) {
        const REAL *line = frame + ((row + s[PAD_ROWS]) * wide + s[PAD_COLUMNS]) * step;
        REAL *out = to + row * s[WIDTH] * apart;
        if (step == apart)
            memcpy(out, line, (size_t)(s[WIDTH] * step) * sizeof(REAL));
        else
            for (int64_t column = 0; column < s[WIDTH]; column++)
                for (int64_t c = 0; c < channels; c++) out[column * apart + c] = line[column * step + c];
    }
}

/* One picture's gradient as [place, output], 0 where ReLU stopped it. Long loops without branches:
 * nobody could foresee them, and compilers make vectors of them. */
static void NAME(gradient_of)(const int64_t *s, const REAL *gradient, const signed char *restrict winners,
                              int64_t rows, int64_t columns, REAL *g)
{
    const int64_t *stride = s + GRADIENT_STRIDES, outputs = s[OUTPUTS];
    const int64_t count = rows * columns * outputs;
    NAME(bits) *restrict values = (NAME(bits) *)g;
    if (stride[2] == 1 && stride[4] == outputs && stride[3] == columns * outputs) {
        const NAME(bits) *from = (const NAME(bits) *)gradient;
        for (int64_t n = 0; n < count; n++) values[n] = from[n] & -(WHOLE)(winners[n] != DEAD);
        return;
    }
    REAL *to = g;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++, to += outputs) {
            const REAL *from = gradient + row * stride[3] + column * stride[4];
            for (int64_t o = 0; o < outputs; o++) to[o] = from[o * stride[2]];
        }
    for (int64_t n = 0; n < count; n++) values[n] &= -(WHOLE)(winners[n] != DEAD);
}

/* Where one picture's winners lie in the frames, the first of which begins at `begin`, and how far from
 * the beginning of its kernel the patch does; gives how many are alive. */
static int64_t NAME(found)(const int64_t *s, const signed char *restrict winners, int64_t rows,
                           int64_t columns, int64_t begin, int32_t *restrict places,
                           int32_t *restrict shifts)
{
    const int32_t across = (int32_t)LANES, down = (int32_t)(s[WIDTH] + 2 * s[PAD_COLUMNS]) * across;
    const int32_t ring = (int32_t)(s[KERNEL] + 1) * across;
    int64_t alive = 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) {
            const int32_t corner = (int32_t)begin * across + 2 * ((int32_t)row * down + (int32_t)column * across);
            int32_t here = 0;
            for (int64_t o = 0; o < s[OUTPUTS]; o++) {
                const int32_t winner = winners[o], low = winner >> 1 & 1, right = winner & 1;
                places[o] = corner + low * down + right * across;
                shifts[o] = ring + across - low * ring - right * across;
                here += winner != DEAD;
            }
            alive += here;
            winners += s[OUTPUTS], places += s[OUTPUTS], shifts += s[OUTPUTS];
        }
    return alive;
}

/* The living ones among one output's windows: where they won, and with which gradient. */
static int64_t NAME(listed)(int64_t windows, int64_t outputs, const signed char *winners,
                            const int32_t *places, const REAL *gradients, int32_t *list, REAL *living)
{
    int64_t count = 0;
    for (int64_t n = 0; n < windows * outputs; n += outputs) {
        list[count] = places[n];
        living[count] = gradients[n];
        count += winners[n] != DEAD;
    }
    return count;
}

/* Kernels for `to_patch`, `here` channels of them. */
INLINE void NAME(ringed)(const REAL *restrict from, const int64_t *stride, int64_t outputs, int64_t here,
                         const int64_t kernel, REAL *restrict to)
{
    for (int64_t o = 0; o < outputs; o++, from += stride[1], to += (kernel + 1) * (kernel + 1) * (int64_t)LANES)
        for (int64_t c = 0; c < here; c++)
            for (int64_t i = 0; i < kernel; i++)
                for (int64_t j = 0; j < kernel; j++)
                    to[((i + 1) * (kernel + 1) + j + 1) * (int64_t)LANES + c] =
                        from[c * stride[2] + i * stride[3] + j * stride[4]];
}

/* Sums [output, place, channel] as PyTorch has weights, `here` channels of them. */
INLINE void NAME(unpacked)(const REAL *restrict sums, int64_t outputs, int64_t channels, int64_t here,
                           const int64_t taps, REAL *restrict to)
{
    for (int64_t o = 0; o < outputs; o++, sums += taps * (int64_t)LANES, to += taps * channels)
        for (int64_t c = 0; c < here; c++)
            for (int64_t k = 0; k < taps; k++) to[c * taps + k] = sums[k * (int64_t)LANES + c];
}

/* Many channels: a vector holds channels of one place. To the inputs, a window's patch stays in
 * registers while its outputs' kernels are added up; to the weights, an output's kernel does while its
 * windows are gone through, all of them or, where that pays, a list of the living ones. */
static int NAME(many)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *gradient,
                      const signed char *winners, REAL *to_x, REAL *to_weight, REAL *to_bias)
{
    const int64_t channels = s[CHANNELS], outputs = s[OUTPUTS], kernel = s[KERNEL];
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    const int64_t taps = kernel * kernel, ring = kernel + 1, lanes = (int64_t)LANES;
    const int64_t vectors = (channels + lanes - 1) / lanes;
    const int64_t rows = (high - kernel + 1) / 2, columns = (wide - kernel + 1) / 2;
    const int64_t each = rows * columns * outputs;
    const size_t frame = (size_t)(high * wide * lanes), packed = (size_t)(outputs * taps * lanes);
    const size_t ringed = (size_t)((outputs * ring * ring + ring + 1) * lanes);
    int64_t pictures = (int64_t)(AT_ONCE / (frame * sizeof(REAL)));
    pictures = pictures < 1 ? 1 : pictures > s[BATCH] ? s[BATCH] : pictures;
    if (frame * (size_t)(pictures + 1) > INT32_MAX || ringed > INT32_MAX) return 2;
    /* One more than there can be: a list's last entry is written before it is counted. */
    const size_t events = rounded((size_t)(pictures * each), 64);
    const size_t listed = rounded((size_t)(pictures * rows * columns + outputs) + 1, 64);
    const size_t frames = frame * (size_t)pictures, many = (size_t)vectors;
    REAL *x_frames = (REAL *)scratch((frames + frame + many * (packed + ringed) + events + listed) *
                                         sizeof(REAL) +
                                     (2 * events + listed) * sizeof(int32_t));
    if (!x_frames) return 1;
    REAL *gradient_frame = x_frames + frames, *kernels = gradient_frame + frame;
    REAL *sums = kernels + many * ringed, *gradients = sums + many * packed, *living = gradients + events;
    int32_t *places = (int32_t *)(living + listed), *shifts = places + events, *list = shifts + events;
    if (to_x) memset(kernels, 0, many * ringed * sizeof(REAL));
    for (int64_t r = 0; r < s[REPLICAS]; r++) {
        const int64_t *stride = s + WEIGHT_STRIDES;
        for (int64_t v = 0; to_x && v < vectors; v++) {
            const int64_t here = channels - v * lanes < lanes ? channels - v * lanes : lanes;
            const REAL *from = weight + r * stride[0] + v * lanes * stride[2];
            REAL *to = kernels + v * (int64_t)ringed;
            if (kernel == 3) NAME(ringed)(from, stride, outputs, here, 3, to);
            else NAME(ringed)(from, stride, outputs, here, kernel, to);
        }
        if (to_weight) memset(sums, 0, many * packed * sizeof(REAL));
        for (int64_t first = 0; first < s[BATCH]; first += pictures) {
            const int64_t left = s[BATCH] - first, some = left < pictures ? left : pictures;
            const int64_t start = r * s[BATCH] + first, windows = some * rows * columns;
            const signed char *won = winners + start * each;
            int64_t live = 0;
            for (int64_t i = 0; i < some; i++) {
                NAME(gradient_of)(s, gradient + r * s[GRADIENT_STRIDES] +
                                         (first + i) * s[GRADIENT_STRIDES + 1],
                                  won + i * each, rows, columns, gradients + i * each);
                live += NAME(found)(s, won + i * each, rows, columns, i * high * wide,
                                    places + i * each, shifts + i * each);
            }
            for (int64_t n = 0; to_bias && n < windows; n++) {
                REAL *restrict sum = to_bias + r * s[TO_BIAS];
                for (int64_t o = 0; o < outputs; o++) sum[o] += gradients[n * outputs + o];
            }
            const int most = 2 * live > windows * outputs;
            for (int64_t v = 0; v < vectors; v++) {
                const int64_t here = channels - v * lanes < lanes ? channels - v * lanes : lanes;
                for (int64_t i = 0; to_x && i < some; i++) {
                    memset(gradient_frame, 0, frame * sizeof(REAL));
#define FRAME(square, all)                                                                         \
    NAME(to_frame)(gradient_frame, s, square, rows, columns, kernels + v * (int64_t)ringed,        \
                   gradients + i * each, shifts + i * each, list, won + i * each, all)
                    if (kernel == 3 && most) FRAME(3, 1);
                    else if (kernel == 3) FRAME(3, 0);
                    else if (most) FRAME(5, 1);
                    else FRAME(5, 0);
#undef FRAME
                    NAME(unframe)(to_x + (start + i) * s[HEIGHT] * s[WIDTH] * channels + v * lanes,
                                  gradient_frame, s, here, lanes);
                }
                for (int64_t i = 0; to_weight && i < some; i++)
                    NAME(frame)(x_frames + (size_t)i * frame,
                                x + r * s[X_STRIDES] + (first + i) * s[X_STRIDES + 1] +
                                    v * lanes * s[X_STRIDES + 2],
                                s, here, lanes);
                /* To list what is alive takes as long as going through all once. */
                const int lists = !most && kernel > 3;
                for (int64_t o = 0; to_weight && o < outputs; o++) {
                    const REAL *g = gradients + o;
                    const int32_t *at = places + o;
                    REAL *sum = sums + v * (int64_t)packed + o * taps * lanes;
                    int64_t count = windows, apart = outputs;
                    if (lists) {
                        count = NAME(listed)(windows, outputs, won + o, at, g, list, living);
                        g = living, at = list, apart = 1;
                    }
                    /* Kernels of 5 x 5 a line at a time: no processor has registers for all. */
                    if (kernel == 3)
                        NAME(to_weights)(x_frames, wide, 3, 3, at, g, count, apart, sum);
                    else
                        for (int64_t line = 0; line < kernel; line++)
                            NAME(to_weights)(x_frames + line * wide * lanes, wide, 5, 1, at, g, count,
                                             apart, sum + line * kernel * lanes);
                }
            }
        }
        for (int64_t v = 0; to_weight && v < vectors; v++) {
            const int64_t here = channels - v * lanes < lanes ? channels - v * lanes : lanes;
            const REAL *sum = sums + v * (int64_t)packed;
            REAL *to = to_weight + r * s[TO_WEIGHT] + v * lanes * taps;
            if (kernel == 3) NAME(unpacked)(sum, outputs, channels, here, 9, to);
            else NAME(unpacked)(sum, outputs, channels, here, taps, to);
        }
    }
    return 0;
}

/* Few channels: a vector holds the whole patch that a pooling window sees. For each output and
 * each place in the window there is one kernel, shifted to that place, or the sum of the patches
 * that won there; what ReLU stopped goes to a fifth that nobody reads. */
INLINE int NAME(few)(const int64_t *s, const int64_t channels, const int64_t kernel, const REAL *x,
                     const REAL *weight, const REAL *gradient, const signed char *winners,
                     REAL *to_x, REAL *to_weight, REAL *to_bias)
{
    const int64_t outputs = s[OUTPUTS];
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    const int64_t rows = (high - kernel + 1) / 2, columns = (wide - kernel + 1) / 2;
    const int64_t side = kernel + 1, line = side * channels, taps = kernel * kernel;
    const int64_t vectors = (side * line + (int64_t)LANES - 1) / (int64_t)LANES;
    const int64_t length = vectors * (int64_t)LANES, places = rows * columns;
    const size_t frame = rounded((size_t)(high * wide * channels), LANES);
    const size_t all = (size_t)(outputs * 5 * length);
    if (all > INT32_MAX) return 2;
    const size_t values = rounded((size_t)(places * outputs), 64);
    REAL *x_frame = (REAL *)scratch((2 * frame + 2 * all + values + (size_t)(columns * length)) *
                                        sizeof(REAL) +
                                    values * sizeof(int32_t));
    if (!x_frame) return 1;
    REAL *x_gradient = x_frame + frame, *kernels = x_gradient + frame, *sums = kernels + all;
    REAL *patches = sums + all, *g = patches + columns * length;
    int32_t *shifts = (int32_t *)(g + values);
    memset(patches, 0, (size_t)(columns * length) * sizeof(REAL));
    for (int64_t r = 0; r < s[REPLICAS]; r++) {
        const int64_t *stride = s + WEIGHT_STRIDES;
        if (to_x) {
            memset(kernels, 0, all * sizeof(REAL));
            for (int64_t o = 0; o < outputs; o++)
                for (int64_t p = 0; p < 4; p++)
                    for (int64_t k = 0; k < taps; k++)
                        for (int64_t c = 0; c < channels; c++)
                            kernels[(o * 5 + p) * length + (k / kernel + p / 2) * line +
                                    (k % kernel + p % 2) * channels + c] =
                                weight[r * stride[0] + o * stride[1] + c * stride[2] +
                                       k / kernel * stride[3] + k % kernel * stride[4]];
        }
        if (to_weight) memset(sums, 0, all * sizeof(REAL));
        for (int64_t i = 0; i < s[BATCH]; i++) {
            const int64_t at = r * s[BATCH] + i;
            const signed char *won = winners + at * places * outputs;
            NAME(gradient_of)(s, gradient + r * s[GRADIENT_STRIDES] + i * s[GRADIENT_STRIDES + 1], won, rows,
                              columns, g);
            /* How far from an output's first of five tables each winner's own begins. */
            for (int64_t n = 0; n < places * outputs; n++) shifts[n] = won[n] * (int32_t)length;
            if (to_bias) {
                REAL *restrict sum = to_bias + r * s[TO_BIAS];
                for (int64_t place = 0; place < places; place++)
                    for (int64_t o = 0; o < outputs; o++) sum[o] += g[place * outputs + o];
            }
            if (to_weight)
                NAME(frame)(x_frame, x + r * s[X_STRIDES] + i * s[X_STRIDES + 1], s, channels, channels);
            if (to_x) memset(x_gradient, 0, frame * sizeof(REAL));
            const REAL *own = g;
            const int32_t *shift = shifts;
            for (int64_t row = 0; row < rows; row++, own += columns * outputs, shift += columns * outputs) {
                /* A row of patches at once: what is stored in parts cannot be loaded whole at once. */
                const int64_t corner = 2 * row * wide * channels;
                for (int64_t column = 0; to_weight && column < columns; column++)
                    for (int64_t k = 0; k < side; k++)
                        for (int64_t j = 0; j < line; j++)
                            patches[column * length + k * line + j] =
                                x_frame[corner + (k * wide + 2 * column) * channels + j];
                /* Both at once read gradients and shifts once. */
                for (int64_t column = 0; to_weight && to_x && column < columns; column++)
                    for (int64_t v = 0; v < length; v += (int64_t)LANES) {
                        const NAME(vec) seen = NAME(load)(patches + column * length + v);
                        NAME(vec) sum[4] = {{0}, {0}, {0}, {0}};
                        int64_t o = column * outputs, end = o + outputs, table = v;
#define BOTH(n)                                                                                    \
    do {                                                                                           \
        const REAL slope = own[o + (n)];                                                           \
        const int64_t place = table + 5 * (n) * length + shift[o + (n)];                           \
        sum[n] += slope * NAME(load)(kernels + place);                                             \
        NAME(store)(sums + place, NAME(load)(sums + place) + slope * seen);                        \
    } while (0)
                        for (; o + 4 <= end; o += 4, table += 20 * length) {
                            BOTH(0);
                            BOTH(1);
                            BOTH(2);
                            BOTH(3);
                        }
                        for (; o < end; o++, table += 5 * length) BOTH(0);
#undef BOTH
                        NAME(store)(patches + column * length + v, (sum[0] + sum[1]) + (sum[2] + sum[3]));
                    }
                for (int64_t column = 0; to_weight && !to_x && column < columns; column++)
                    for (int64_t v = 0; v < length; v += (int64_t)LANES) {
                        const NAME(vec) seen = NAME(load)(patches + column * length + v);
                        REAL *table = sums + v;
                        for (int64_t o = column * outputs; o < (column + 1) * outputs; o++) {
                            REAL *sum = table + shift[o];
                            NAME(store)(sum, NAME(load)(sum) + own[o] * seen);
                            table += 5 * length;
                        }
                    }
                for (int64_t column = 0; to_x && !to_weight && column < columns; column++)
                    for (int64_t v = 0; v < length; v += (int64_t)LANES) {
                        NAME(vec) sum[4] = {{0}, {0}, {0}, {0}};
                        const REAL *table = kernels + v;
                        int64_t o = column * outputs, end = o + outputs;
                        for (; o + 4 <= end; o += 4, table += 20 * length)
                            UNROLL
                            for (int n = 0; n < 4; n++)
                                sum[n] += own[o + n] * NAME(load)(table + 5 * n * length + shift[o + n]);
                        for (; o < end; o++, table += 5 * length)
                            sum[0] += own[o] * NAME(load)(table + shift[o]);
                        NAME(store)(patches + column * length + v, (sum[0] + sum[1]) + (sum[2] + sum[3]));
                    }
                /* Neighbours overlap: two columns of each patch in one go, which do not. */
                for (int64_t k = 0; to_x && k < side; k++)
                    for (int64_t two = 0; two < side; two += 2)
                        for (int64_t column = 0; column < columns; column++)
                            for (int64_t j = 0; j < 2 * channels; j++)
                                x_gradient[corner + (k * wide + 2 * column + two) * channels + j] +=
                                    patches[column * length + k * line + two * channels + j];
            }
            if (to_x)
                NAME(unframe)(to_x + at * s[HEIGHT] * s[WIDTH] * channels, x_gradient, s, channels, channels);
        }
        for (int64_t o = 0; to_weight && o < outputs; o++)
            for (int64_t c = 0; c < channels; c++)
                for (int64_t k = 0; k < taps; k++) {
                    REAL sum = 0;
                    for (int64_t p = 0; p < 4; p++)
                        sum += sums[(o * 5 + p) * length + (k / kernel + p / 2) * line +
                                    (k % kernel + p % 2) * channels + c];
                    to_weight[r * s[TO_WEIGHT] + (o * channels + c) * taps + k] = sum;
                }
    }
    return 0;
}

/* gradient: of y, in any strides. to_x: [replica, batch, row, column, channel]; to_weight:
 * [replica, output, channel, row, column]; to_bias: [replica, output]; each replica's contiguous, each
 * may be NULL. Gives 0, 1 where memory ran out, or 2 where a picture is too large for 32 bits. */
int NAME(backward)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *gradient,
                   const signed char *winners, REAL *to_x, REAL *to_weight, REAL *to_bias)
{
    for (int64_t r = 0; to_bias && r < s[REPLICAS]; r++)
        memset(to_bias + r * s[TO_BIAS], 0, (size_t)s[OUTPUTS] * sizeof(REAL));
#define FEW(deep, square)                                                                          \
    NAME(few)(s, deep, square, x, weight, gradient, winners, to_x, to_weight, to_bias)
    if (s[CHANNELS] > FEW_CHANNELS)
        return NAME(many)(s, x, weight, gradient, winners, to_x, to_weight, to_bias);
    if (s[CHANNELS] == 1 && s[KERNEL] == 3) return FEW(1, 3);
    if (s[CHANNELS] == 3 && s[KERNEL] == 3) return FEW(3, 3);
    return FEW(s[CHANNELS], s[KERNEL]);
#undef FEW
}

#endif
