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

/* One picture into a frame of zeros, [row, column, channel] with `step` numbers a place. */
static void NAME(frame)(REAL *to, const REAL *x, const int64_t *s, int64_t step)
{
    const int64_t *stride = s + X_STRIDES, channels = s[CHANNELS];
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

/* `vectors` of outputs at `windows` neighbouring pooling windows. w: [place, channel, output]. */
INLINE void NAME(windows)(const REAL *x, int64_t wide, int64_t channels, int kernel, const REAL *w,
                          int64_t outputs_padded, const REAL *bias, const int vectors,
                          const int windows, REAL *y, WHOLE *winners, int64_t outputs,
                          int64_t here)
{
    NAME(vec) sum[16];
    UNROLL
    for (int v = 0; v < vectors; v++)
        UNROLL
        for (int p = 0; p < 4 * windows; p++) sum[v * 4 * windows + p] = NAME(load)(bias + v * LANES);
    for (int row = 0; row < kernel; row++) {
        const REAL *upper = x + row * wide * channels, *lower = upper + wide * channels;
        for (int64_t j = 0; j < kernel * channels; j++, w += outputs_padded) {
            NAME(vec) weight[4];
            UNROLL
            for (int v = 0; v < vectors; v++) weight[v] = NAME(load)(w + v * LANES);
            UNROLL
            for (int p = 0; p < 4 * windows; p++) {
                const int64_t column = 2 * (p / 4) + p % 2;
                const REAL value = (p % 4 < 2 ? upper : lower)[column * channels + j];
                UNROLL
                for (int v = 0; v < vectors; v++) sum[v * 4 * windows + p] += value * weight[v];
            }
        }
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

/* All windows of one picture. x: its frame. */
INLINE void NAME(picture)(const REAL *x, int64_t wide, int64_t channels, int kernel, int64_t rows,
                          int64_t columns, const REAL *w, const REAL *bias, int64_t outputs,
                          int64_t padded, REAL *y, WHOLE *winners)
{
#define WINDOWS(many, next)                                                                  \
    NAME(windows)(x + (2 * row * wide + 2 * column) * channels, wide, channels, kernel, w + o,     \
                  padded, bias + o, many, next, y + at, winners ? winners + at : NULL,       \
                  outputs, outputs - o)
    for (int64_t o = 0; o < outputs;) {
        const int two = outputs - o > (int64_t)LANES;
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; column < columns;) {
                const int64_t at = (row * columns + column) * outputs + o, left = columns - column;
                if (two && left >= 2 && REGISTERS >= 32) {
                    WINDOWS(2, 2);
                    column += 2;
                } else if (two) {
                    WINDOWS(2, 1);
                    column += 1;
                } else if (left >= 4 && REGISTERS >= 32 && channels <= FEW_CHANNELS) {
                    WINDOWS(1, 4);
                    column += 4;
                } else if (left >= 2) {
                    WINDOWS(1, 2);
                    column += 2;
                } else {
                    WINDOWS(1, 1);
                    column += 1;
                }
            }
        o += (two ? 2 : 1) * (int64_t)LANES;
    }
#undef WINDOWS
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
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < kernel * kernel; k++) {
                REAL *to = w + (k * channels + c) * padded;
                const REAL *tap = from + c * stride[2] + k / kernel * stride[3] + k % kernel * stride[4];
                for (int64_t o = 0; o < outputs; o++) to[o] = tap[o * stride[1]];
            }
        for (int64_t o = 0; bias && o < outputs; o++)
            b[o] = bias[r * s[BIAS_STRIDES] + o * s[BIAS_STRIDES + 1]];
        for (int64_t i = 0; i < s[BATCH]; i++) {
            const int64_t at = (r * s[BATCH] + i) * each;
            NAME(frame)(frame, x + r * s[X_STRIDES] + i * s[X_STRIDES + 1], s, channels);
#define PICTURE(deep, square)                                                                  \
    NAME(picture)(frame, wide, deep, square, rows, columns, w, b, outputs, padded, y + at, \
                  wide_winners)
            if (kernel == 3 && channels == 1)
                PICTURE(1, 3);
            else if (kernel == 3 && channels == 3)
                PICTURE(3, 3);
            else
                PICTURE(channels, (int)kernel);
#undef PICTURE
            for (int64_t n = 0; winners && n < each; n++) winners[at + n] = (signed char)wide_winners[n];
        }
    }
    return 0;
}

/* Some pictures of one replica, on their way back. */
typedef struct {
    const int64_t *s;
    int64_t wide, high, rows, columns, step; /* step: numbers a place in frames */
    const REAL *gradient;
    const signed char *winners;
} NAME(pass);

/* Where in their frames one output's living windows won, and with which gradient. */
static int64_t NAME(events)(const NAME(pass) *p, int64_t pictures, int64_t o, int32_t *places,
                            REAL *gradients)
{
    const int64_t *stride = p->s + GRADIENT_STRIDES, outputs = p->s[OUTPUTS], step = p->step;
    const int32_t within[5] = {0, (int32_t)step, (int32_t)(p->wide * step),
                               (int32_t)((p->wide + 1) * step), 0};
    const signed char *winner = p->winners + o;
    int64_t count = 0;
    for (int64_t i = 0; i < pictures; i++)
        for (int64_t row = 0; row < p->rows; row++) {
            const REAL *g = p->gradient + i * stride[1] + o * stride[2] + row * stride[3];
            int32_t place = (int32_t)((i * p->high + 2 * row) * p->wide * step);
            for (int64_t column = 0; column < p->columns; column++) {
                places[count] = place + within[*winner];
                gradients[count] = g[column * stride[4]];
                count += *winner != DEAD;
                winner += outputs;
                place += (int32_t)(2 * step);
            }
        }
    return count;
}

static REAL NAME(sum)(const REAL *values, int64_t count)
{
    REAL sum[8] = {0};
    int64_t n = 0;
    for (; n + 8 <= count; n += 8)
        UNROLL
        for (int k = 0; k < 8; k++) sum[k] += values[n + k];
    for (; n < count; n++) sum[0] += values[n];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* Gradients of `lines` lines of one output's kernel, for one vector of channels: in registers. */
INLINE void NAME(to_weights)(const REAL *x, int64_t wide, int64_t step, const int kernel,
                             const int lines, const int32_t *places, const REAL *gradients,
                             int64_t count, REAL *to)
{
    NAME(vec) sum[16];
    UNROLL
    for (int k = 0; k < lines * kernel; k++) sum[k] = NAME(load)(to + k * step);
    for (int64_t e = 0; e < count; e++) {
        const REAL *at = x + places[e], g = gradients[e];
        UNROLL
        for (int k = 0; k < lines * kernel; k++)
            sum[k] += g * NAME(load)(at + (k / kernel * wide + k % kernel) * step);
    }
    UNROLL
    for (int k = 0; k < lines * kernel; k++) NAME(store)(to + k * step, sum[k]);
}

/* What they add to the inputs' gradient. */
INLINE void NAME(to_inputs)(REAL *x, int64_t wide, int64_t step, const int kernel, const int lines,
                            const int32_t *places, const REAL *gradients, int64_t count,
                            const REAL *w)
{
    NAME(vec) weight[16];
    UNROLL
    for (int k = 0; k < lines * kernel; k++) weight[k] = NAME(load)(w + k * step);
    for (int64_t e = 0; e < count; e++) {
        REAL *at = x + places[e];
        const REAL g = gradients[e];
        UNROLL
        for (int k = 0; k < lines * kernel; k++) {
            REAL *to = at + (k / kernel * wide + k % kernel) * step;
            NAME(store)(to, NAME(load)(to) + g * weight[k]);
        }
    }
}

/* The inside of a frame into a picture [row, column, channel]. */
static void NAME(unframe)(REAL *to, const REAL *frame, const int64_t *s, int64_t step)
{
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], channels = s[CHANNELS];
    for (int64_t row = 0; row < s[HEIGHT]; row++) {
        const REAL *line = frame + ((row + s[PAD_ROWS]) * wide + s[PAD_COLUMNS]) * step;
        REAL *out = to + row * s[WIDTH] * channels;
        if (step == channels)
            memcpy(out, line, (size_t)(s[WIDTH] * channels) * sizeof(REAL));
        else
            for (int64_t column = 0; column < s[WIDTH]; column++)
                for (int64_t c = 0; c < channels; c++)
                    out[column * channels + c] = line[column * step + c];
    }
}

/* Many channels: a vector holds channels of one place. Each output's living windows are listed,
 * and its kernel, or the kernel's gradient, stays in registers while the list is gone through. */
static int NAME(many)(const int64_t *s, const REAL *x, const REAL *weight, const REAL *gradient,
                      const signed char *winners, REAL *to_x, REAL *to_weight, REAL *to_bias)
{
    const int64_t channels = s[CHANNELS], outputs = s[OUTPUTS], kernel = s[KERNEL];
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    const int64_t step = (int64_t)rounded((size_t)channels, LANES), taps = kernel * kernel;
    const int64_t rows = (high - kernel + 1) / 2, columns = (wide - kernel + 1) / 2;
    const size_t frame = (size_t)(high * wide * step), packed = (size_t)(outputs * taps * step);
    int64_t pictures = (int64_t)(AT_ONCE / (frame * sizeof(REAL)));
    pictures = pictures < 1 ? 1 : pictures > s[BATCH] ? s[BATCH] : pictures;
    if (frame * (size_t)(pictures + 1) > INT32_MAX) return 2;
    /* One event more than there can be: the list's last entry is written before it is counted. */
    const size_t events = rounded((size_t)(pictures * rows * columns) + 1, 64);
    const size_t frames = frame * (size_t)pictures;
    REAL *x_frames = (REAL *)scratch((2 * frames + 2 * packed + events) * sizeof(REAL) +
                                     events * sizeof(int32_t));
    if (!x_frames) return 1;
    REAL *gradient_frames = x_frames + frames, *w = gradient_frames + frames;
    REAL *sums = w + packed, *gradients = sums + packed;
    int32_t *places = (int32_t *)(gradients + events);
    NAME(pass) pass = {s, wide, high, rows, columns, step, NULL, NULL};
    if (step != channels) memset(w, 0, packed * sizeof(REAL));
    for (int64_t r = 0; r < s[REPLICAS]; r++) {
        const int64_t *stride = s + WEIGHT_STRIDES;
        for (int64_t o = 0; to_x && o < outputs; o++)
            for (int64_t k = 0; k < taps; k++) {
                const REAL *tap = weight + r * stride[0] + o * stride[1] + k / kernel * stride[3] +
                                  k % kernel * stride[4];
                for (int64_t c = 0; c < channels; c++)
                    w[(o * taps + k) * step + c] = tap[c * stride[2]];
            }
        if (to_weight) memset(sums, 0, packed * sizeof(REAL));
        for (int64_t first = 0; first < s[BATCH]; first += pictures) {
            const int64_t left = s[BATCH] - first, many = left < pictures ? left : pictures;
            const int64_t at = r * s[BATCH] + first;
            pass.gradient = gradient + r * s[GRADIENT_STRIDES] + first * s[GRADIENT_STRIDES + 1];
            pass.winners = winners + at * rows * columns * outputs;
            if (to_x) memset(gradient_frames, 0, (size_t)many * frame * sizeof(REAL));
            for (int64_t i = 0; to_weight && i < many; i++)
                NAME(frame)(x_frames + (size_t)i * frame,
                            x + r * s[X_STRIDES] + (first + i) * s[X_STRIDES + 1], s, step);
            for (int64_t o = 0; o < outputs; o++) {
                const int64_t count = NAME(events)(&pass, many, o, places, gradients);
                const int64_t own = o * taps * step;
                if (to_bias) to_bias[r * s[TO_BIAS] + o] += NAME(sum)(gradients, count);
                for (int64_t c = 0; c < step; c += (int64_t)LANES) {
                    /* Kernels of 5 x 5 a line at a time: no processor has registers for all. */
                    const int64_t lines = kernel == 3 ? 3 : 1;
                    for (int64_t line = 0; line < kernel; line += lines) {
                        const int64_t taken = c + line * wide * step, tap = own + c + line * kernel * step;
                        if (to_x && kernel == 3)
                            NAME(to_inputs)(gradient_frames + taken, wide, step, 3, 3, places,
                                            gradients, count, w + tap);
                        else if (to_x)
                            NAME(to_inputs)(gradient_frames + taken, wide, step, 5, 1, places,
                                            gradients, count, w + tap);
                        if (to_weight && kernel == 3)
                            NAME(to_weights)(x_frames + taken, wide, step, 3, 3, places, gradients,
                                             count, sums + tap);
                        else if (to_weight)
                            NAME(to_weights)(x_frames + taken, wide, step, 5, 1, places, gradients,
                                             count, sums + tap);
                    }
                }
            }
            for (int64_t i = 0; to_x && i < many; i++)
                NAME(unframe)(to_x + (at + i) * s[HEIGHT] * s[WIDTH] * channels,
                              gradient_frames + (size_t)i * frame, s, step);
        }
        for (int64_t o = 0; to_weight && o < outputs; o++)
            for (int64_t c = 0; c < channels; c++)
                for (int64_t k = 0; k < taps; k++)
                    to_weight[r * s[TO_WEIGHT] + (o * channels + c) * taps + k] =
                        sums[(o * taps + k) * step + c];
    }
    return 0;
}

/* One picture's gradient as [place, output], 0 where ReLU stopped it, and how far from an output's
 * first of five tables each winner's own begins. Long loops without branches: nobody could foresee
 * them, and compilers make vectors of them. */
static void NAME(winning)(const int64_t *s, const REAL *gradient,
                          const signed char *restrict winners, int64_t rows, int64_t columns,
                          int32_t length, REAL *g, int32_t *restrict shifts)
{
    const int64_t *stride = s + GRADIENT_STRIDES, outputs = s[OUTPUTS];
    const int64_t count = rows * columns * outputs;
    REAL *to = g;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++, to += outputs) {
            const REAL *from = gradient + row * stride[3] + column * stride[4];
            if (stride[2] == 1)
                memcpy(to, from, (size_t)outputs * sizeof(REAL));
            else
                for (int64_t o = 0; o < outputs; o++) to[o] = from[o * stride[2]];
        }
    NAME(bits) *restrict values = (NAME(bits) *)g;
    for (int64_t n = 0; n < count; n++) values[n] &= -(WHOLE)(winners[n] != DEAD);
    for (int64_t n = 0; n < count; n++) shifts[n] = winners[n] * length;
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
            NAME(winning)(s, gradient + r * s[GRADIENT_STRIDES] + i * s[GRADIENT_STRIDES + 1],
                          winners + at * places * outputs, rows, columns, (int32_t)length, g, shifts);
            if (to_bias) {
                REAL *restrict sum = to_bias + r * s[TO_BIAS];
                for (int64_t place = 0; place < places; place++)
                    for (int64_t o = 0; o < outputs; o++) sum[o] += g[place * outputs + o];
            }
            if (to_weight)
                NAME(frame)(x_frame, x + r * s[X_STRIDES] + i * s[X_STRIDES + 1], s, channels);
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
                for (int64_t column = 0; to_weight && column < columns; column++)
                    for (int64_t v = 0; v < length; v += (int64_t)LANES) {
                        const NAME(vec) seen = NAME(load)(patches + column * length + v);
                        REAL *table = sums + v;
                        for (int64_t o = column * outputs; o < (column + 1) * outputs; o++) {
                            REAL *sum = table + shift[o];
                            NAME(store)(sum, NAME(load)(sum) + own[o] * seen);
                            table += 5 * length;
                        }
                    }
                for (int64_t column = 0; to_x && column < columns; column++)
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
                NAME(unframe)(to_x + at * s[HEIGHT] * s[WIDTH] * channels, x_gradient, s, channels);
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
