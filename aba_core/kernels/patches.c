/* Patches: what a kernel sees at each place of each picture, in the order of PyTorch's weights, so
 * that a convolution is a matrix product with the weights as they lie in memory; and the way back.
 *
 * x: [replica, picture, channel, row, column] in any strides; patches: [replica, picture, place,
 * channel, kernel's row and column]. Stride 1, square kernels, zero padding. The file includes itself
 * once for each type of numbers.
 */
#ifndef REAL

#include "vectors.h"

enum { REPLICAS, BATCH, CHANNELS, HEIGHT, WIDTH, KERNEL, PAD_ROWS, PAD_COLUMNS, X_STRIDES };

#define REAL float
#define NAME(name) name##_float
#include "patches.c"
#undef REAL
#undef NAME
#define REAL double
#define NAME(name) name##_double
#include "patches.c"

#else

/* Patches of one picture from its frame of zeros, [row, column, channel], or patches added to it. */
INLINE void NAME(places)(REAL *restrict frame, REAL *restrict patches, const int64_t *s,
                         const int64_t kernel, const int back)
{
    const int64_t channels = s[CHANNELS], wide = s[WIDTH] + 2 * s[PAD_COLUMNS];
    const int64_t rows = s[HEIGHT] + 2 * s[PAD_ROWS] - kernel + 1, columns = wide - kernel + 1;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            for (int64_t c = 0; c < channels; c++) {
                REAL *corner = frame + (row * wide + column) * channels + c;
                UNROLL
                for (int64_t i = 0; i < kernel; i++)
                    UNROLL
                    for (int64_t j = 0; j < kernel; j++, patches++)
                        if (back)
                            corner[(i * wide + j) * channels] += *patches;
                        else
                            *patches = corner[(i * wide + j) * channels];
            }
}

/* Pictures into patches, or (back) patches added up to pictures. Gives 0, or 1 where memory ran out. */
INLINE int NAME(all_places)(const int64_t *s, const REAL *x, REAL *to_x, REAL *patches,
                            const int64_t kernel, const int back)
{
    const int64_t *stride = s + X_STRIDES, channels = s[CHANNELS];
    const int64_t wide = s[WIDTH] + 2 * s[PAD_COLUMNS], high = s[HEIGHT] + 2 * s[PAD_ROWS];
    const int64_t each = (high - kernel + 1) * (wide - kernel + 1) * kernel * kernel * channels;
    const size_t bytes = (size_t)(high * wide * channels) * sizeof(REAL);
    REAL *frame = (REAL *)scratch(bytes);
    if (!frame) return 1;
    memset(frame, 0, bytes);
    for (int64_t n = 0; n < s[REPLICAS] * s[BATCH]; n++, patches += each) {
        if (back && n) memset(frame, 0, bytes);
        const int64_t from = n / s[BATCH] * stride[0] + n % s[BATCH] * stride[1];
        for (int64_t row = 0; !back && row < s[HEIGHT]; row++) {
            REAL *line = frame + ((row + s[PAD_ROWS]) * wide + s[PAD_COLUMNS]) * channels;
            for (int64_t column = 0; column < s[WIDTH]; column++)
                for (int64_t c = 0; c < channels; c++)
                    line[column * channels + c] =
                        x[from + c * stride[2] + row * stride[3] + column * stride[4]];
        }
        NAME(places)(frame, patches, s, kernel, back);
        const size_t line = (size_t)(s[WIDTH] * channels);
        for (int64_t row = 0; back && row < s[HEIGHT]; row++, to_x += line)
            memcpy(to_x, frame + ((row + s[PAD_ROWS]) * wide + s[PAD_COLUMNS]) * channels,
                   line * sizeof(REAL));
    }
    return 0;
}

int NAME(patches)(const int64_t *s, const REAL *x, REAL *patches)
{
    if (s[KERNEL] == 3) return NAME(all_places)(s, x, NULL, patches, 3, 0);
    return NAME(all_places)(s, x, NULL, patches, s[KERNEL], 0);
}

/* to_x: [replica, picture, row, column, channel], contiguous. patches are only read. */
int NAME(unpatched)(const int64_t *s, REAL *patches, REAL *to_x)
{
    if (s[KERNEL] == 3) return NAME(all_places)(s, NULL, to_x, patches, 3, 1);
    return NAME(all_places)(s, NULL, to_x, patches, s[KERNEL], 1);
}

#endif
