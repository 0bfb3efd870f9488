/* Cross-entropy of logits and classes, with its gradient. The file includes itself once for each type
 * of numbers. */
#ifndef REAL

#include "vectors.h"

/* e to the power of a number that is not above 0, within two units in the last place: a polynomial of
 * what is left of x after whole powers of 2, as in Cephes' expf. Compilers make vectors of it. */
INLINE float power_float(float x)
{
    const float far = 12582912.0f; /* 1.5 · 2²³: what is added to it is rounded to whole numbers */
    const float bounded = x > -87.0f ? x : -87.0f;
    const float whole = (bounded * 1.44269504f + far) - far;
    const float left = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * left + 1.3981999507e-3f;
    sum = sum * left + 8.3334519073e-3f;
    sum = sum * left + 4.1665795894e-2f;
    sum = sum * left + 1.6666665459e-1f;
    sum = sum * left + 5.0000001201e-1f;
    const union { int32_t bits; float value; } scale = {((int32_t)whole + 127) * (1 << 23)};
    const float made = (sum * left * left + left + 1.0f) * scale.value;
    return x > -87.0f ? made : x == x ? 0.0f : x; /* 0: too little to be seen beside 1 */
}

INLINE double power_double(double x) { return exp(x); }

#define REAL float
#define LOG logf
#define NAME(name) name##_float
#include "losses.c"
#undef REAL
#undef LOG
#undef NAME
#define REAL double
#define LOG log
#define NAME(name) name##_double
#include "losses.c"

#else

/* s: samples, classes. logits, slopes: [sample, class]; classes, losses: [sample]. slopes: of each
 * loss. Gives 1 where a class is none. What is no number makes its own sample's loss none. */
int NAME(cross_entropy)(const int64_t *s, const REAL *restrict logits, const int64_t *classes,
                        REAL *restrict losses, REAL *restrict slopes)
{
    const int64_t samples = s[0], many = s[1];
    for (int64_t n = 0; n < samples; n++) {
        const REAL *own = logits + n * many;
        if (classes[n] < 0 || classes[n] >= many) return 1;
        REAL most = own[0];
        for (int64_t k = 1; k < many; k++) most = own[k] > most ? own[k] : most;
        for (int64_t k = 0; k < many; k++) slopes[n * many + k] = own[k] - most;
        losses[n] = -slopes[n * many + classes[n]];
    }
    for (int64_t n = 0; n < samples * many; n++) slopes[n] = NAME(power)(slopes[n]);
    for (int64_t n = 0; n < samples; n++) {
        REAL sum = 0, *own = slopes + n * many;
        for (int64_t k = 0; k < many; k++) sum += own[k];
        losses[n] += LOG(sum);
        const REAL share = 1 / sum;
        for (int64_t k = 0; k < many; k++) own[k] *= share;
        own[classes[n]] -= 1;
    }
    return 0;
}

#endif
