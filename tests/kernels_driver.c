/* The fused block against loops that anybody can read, and the other kernels, for sanitizers: tests/test_kernels.py builds
 * and runs it. Every tensor has memory of its own and of its exact size. */
#include "fused.c"

#include <math.h>
#include <stdio.h>

static uint64_t state = 1;

static int64_t drawn(int64_t low, int64_t high)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return low + (int64_t)((state >> 33) % (uint64_t)(high - low + 1));
}

#define CHECK(REAL, TYPE, TOLERANCE)                                                               \
    static REAL *TYPE##_numbers(int64_t count)                                                     \
    {                                                                                              \
        REAL *made = malloc((size_t)count * sizeof(REAL) + (count == 0));                          \
        for (int64_t n = 0; n < count; n++) made[n] = (REAL)(drawn(-1000, 1000) / 500.0);          \
        return made;                                                                               \
    }                                                                                              \
    static int TYPE##_far(REAL one, double other)                                                  \
    {                                                                                              \
        return !(fabs((double)one - other) <= TOLERANCE * (1 + fabs(other)));                      \
    }                                                                                              \
    static int TYPE##_check(void)                                                                  \
    {                                                                                              \
        const int64_t K = drawn(0, 1) ? 3 : 5, R = drawn(1, 2), B = drawn(0, 3), C = drawn(1, 19); \
        const int64_t O = drawn(1, 35), P = drawn(0, 2), Q = drawn(0, 2);                          \
        const int64_t H = drawn(K > 2 * P ? K - 2 * P + 1 : 1, 12);                                \
        const int64_t W = drawn(K > 2 * Q ? K - 2 * Q + 1 : 1, 12);                                \
        const int64_t U = (H + 2 * P - K + 1) / 2, V = (W + 2 * Q - K + 1) / 2;                    \
        const int64_t sizes[SIZES] = {                                                             \
            R, B, C, H, W, O, K, P, Q, B * C * H * W, C * H * W, H * W, W, 1,                      \
            O * C * K * K, C * K * K, K * K, K, 1, O, 1, B * O * U * V, O * U * V, U * V, V, 1,    \
            O * C * K * K, O};                                                                     \
        if (U < 1 || V < 1) return 0;                                                              \
        REAL *x = TYPE##_numbers(R * B * C * H * W), *w = TYPE##_numbers(R * O * C * K * K);       \
        REAL *bias = TYPE##_numbers(R * O), *g = TYPE##_numbers(R * B * O * U * V);                \
        REAL *y = TYPE##_numbers(R * B * O * U * V), *gx = TYPE##_numbers(R * B * C * H * W);      \
        REAL *gw = TYPE##_numbers(R * O * C * K * K), *gb = TYPE##_numbers(R * O);                 \
        double *ex = calloc((size_t)(R * B * C * H * W) + 1, sizeof(double));                      \
        double *ew = calloc((size_t)(R * O * C * K * K), sizeof(double));                          \
        double *eb = calloc((size_t)(R * O), sizeof(double));                                      \
        signed char *winners = malloc((size_t)(R * B * O * U * V) + 1);                            \
        int wrong = forward_##TYPE(sizes, x, w, bias, y, winners);                                 \
        wrong += backward_##TYPE(sizes, x, w, g, winners, gx, gw, gb);                             \
        for (int64_t i = 0; i < R * B; i++)                                                        \
            for (int64_t o = 0; o < O; o++)                                                        \
                for (int64_t u = 0; u < U; u++)                                                    \
                    for (int64_t v = 0; v < V; v++) {                                              \
                        const int64_t r = i / B, at = ((i * U + u) * V + v) * O + o;               \
                        double best = -INFINITY;                                                   \
                        for (int place = 0; place < 4; place++) {                                  \
                            double sum = (double)bias[r * O + o];                                  \
                            for (int64_t n = 0; n < C * K * K; n++) {                              \
                                const int64_t c = n / K / K, a = n / K % K, b = n % K;             \
                                const int64_t row = 2 * u + place / 2 + a - P;                     \
                                const int64_t column = 2 * v + place % 2 + b - Q;                  \
                                if (row >= 0 && row < H && column >= 0 && column < W)              \
                                    sum += (double)w[(r * O + o) * C * K * K + n] *                \
                                           (double)x[((i * C + c) * H + row) * W + column];        \
                            }                                                                      \
                            if (sum > best) best = sum;                                            \
                        }                                                                          \
                        wrong += TYPE##_far(y[at], best > 0 ? best : 0);                           \
                        const int place = winners[at];                                             \
                        if (place == DEAD) continue;                                               \
                        const double grad = (double)g[((i * O + o) * U + u) * V + v];              \
                        eb[r * O + o] += grad;                                                     \
                        for (int64_t n = 0; n < C * K * K; n++) {                                  \
                            const int64_t c = n / K / K, a = n / K % K, b = n % K;                 \
                            const int64_t row = 2 * u + place / 2 + a - P;                         \
                            const int64_t column = 2 * v + place % 2 + b - Q;                      \
                            if (row < 0 || row >= H || column < 0 || column >= W) continue;        \
                            const int64_t seen = ((i * C + c) * H + row) * W + column;             \
                            ew[(r * O + o) * C * K * K + n] += grad * (double)x[seen];             \
                            ex[((i * H + row) * W + column) * C + c] +=                            \
                                grad * (double)w[(r * O + o) * C * K * K + n];                     \
                        }                                                                          \
                    }                                                                              \
        for (int64_t n = 0; n < R * B * C * H * W; n++) wrong += TYPE##_far(gx[n], ex[n]);         \
        for (int64_t n = 0; n < R * O * C * K * K; n++) wrong += TYPE##_far(gw[n], ew[n]);         \
        for (int64_t n = 0; n < R * O; n++) wrong += TYPE##_far(gb[n], eb[n]);                     \
        /* Each of what may be left out, and bias. */                                              \
        wrong += forward_##TYPE(sizes, x, w, NULL, y, NULL);                                       \
        wrong += backward_##TYPE(sizes, x, w, g, winners, gx, NULL, NULL);                         \
        wrong += backward_##TYPE(sizes, x, w, g, winners, NULL, gw, NULL);                         \
        wrong += backward_##TYPE(sizes, x, w, g, winners, NULL, NULL, gb);                         \
        free(x), free(w), free(bias), free(g), free(y), free(gx), free(gw), free(gb);              \
        free(ex), free(ew), free(eb), free(winners);                                               \
        return wrong;                                                                              \
    }

CHECK(float, float, 1e-4)
CHECK(double, double, 1e-11)

#define OTHERS(REAL, TYPE)                                                                         \
    int tokens_forward_##TYPE(const int64_t *, const REAL *, const REAL *const *, REAL *,          \
                              int32_t *, int32_t *, REAL *);                                       \
    int tokens_backward_##TYPE(const int64_t *, const REAL *, const REAL *const *, const REAL *,   \
                               const int32_t *, const int32_t *, REAL *, REAL *const *);           \
    void adam_##TYPE(const int64_t *, REAL *, const REAL *, REAL *, REAL *, const REAL *,          \
                     const double *);                                                              \
    static int TYPE##_others(void)                                                                 \
    {                                                                                              \
        const int64_t T = drawn(0, 3), E = drawn(1, 9), O = drawn(1, 70), O2 = drawn(1, 20);       \
        const int64_t K = drawn(1, 5), K2 = drawn(1, 5), L = drawn(5, 20), many = T * (O + O2);    \
        const int64_t s[8] = {T, L, E, 2, O, K, O2, K2};                                           \
        REAL *x = TYPE##_numbers(T * L * E), *gx = TYPE##_numbers(T * L * E);                      \
        REAL *w = TYPE##_numbers(O * E * K), *gw = TYPE##_numbers(O * E * K);                      \
        REAL *w2 = TYPE##_numbers(O2 * E * K2), *gw2 = TYPE##_numbers(O2 * E * K2);                \
        REAL *bias = TYPE##_numbers(O), *gb = TYPE##_numbers(O);                                   \
        REAL *g = TYPE##_numbers(many), *y = TYPE##_numbers(many);                                 \
        int32_t *winners = malloc((size_t)many * 4 + 1), *ties = malloc((size_t)many * 4 + 1);     \
        memset(x, 0, (size_t)(T * L * E / 2) * sizeof(REAL)); /* windows that tie */               \
        const REAL *held[4] = {w, bias, w2, NULL}, *bare[4] = {w, NULL, w2, NULL};                 \
        REAL *to[4] = {gw, gb, gw2, NULL}, *none[4] = {NULL, NULL, NULL, NULL};                    \
        int wrong = tokens_forward_##TYPE(s, x, held, y, winners, ties, NULL);                     \
        wrong += tokens_backward_##TYPE(s, x, held, g, winners, ties, gx, none);                   \
        wrong += tokens_backward_##TYPE(s, x, held, g, winners, ties, NULL, to);                   \
        wrong += tokens_backward_##TYPE(s, x, held, g, winners, ties, gx, to);                     \
        wrong += tokens_forward_##TYPE(s, x, bare, y, NULL, NULL, NULL);                           \
        const int64_t sizes[2] = {O, E * K};                                                       \
        REAL *first = calloc((size_t)(sizes[0] * sizes[1]), sizeof(REAL));                         \
        REAL *second = calloc((size_t)(sizes[0] * sizes[1]), sizeof(REAL));                        \
        adam_##TYPE(sizes, w, gw, first, second, bias, (double[]){0.01, 0.1, 0.001, 1.5, 1e-8});   \
        for (int64_t n = 0; n < sizes[0] * sizes[1]; n++) wrong += !isfinite((double)w[n]);        \
        free(x), free(gx), free(w), free(gw), free(bias), free(gb), free(g), free(y);              \
        free(winners), free(ties), free(first), free(second), free(w2), free(gw2);                 \
        return wrong;                                                                              \
    }

#define PASS(TYPE, ...) chain_##TYPE(__VA_ARGS__, NULL, NULL, NULL)

/* A text CNN of two branches in one pass against loops, forward and both ways back; texts whose end is padded. */
#define TEXTS(REAL, TYPE)                                                                          \
    static int TYPE##_texts(void)                                                                  \
    {                                                                                              \
        const int64_t R = drawn(1, 2), B = drawn(1, 4), L = drawn(5, 20), E = drawn(1, 9);         \
        const int64_t O[2] = {drawn(1, 40), drawn(1, 20)}, K[2] = {drawn(1, 5), drawn(1, 5)};      \
        const int64_t D = O[0] + O[1], N = drawn(1, 9), X = L * E, W = O[0] * E * K[0];            \
        const int64_t at[2] = {0, W + O[0]}, end = at[1] + O[1] * E * K[1], row = end + N * D + N; \
        const int64_t sizes[46] = {                                                                \
            R, B, 2, B * X, row, 3, 4, E, L, 2, D, 0, 0, 0, 0, -1, 1, D, 0, 0, N, 0, 0, 0, end, row - N, \
            0, 0, 0, 0, O[0], K[0], 0, 0, 0, W, 0, 0, 0, 0, O[1], K[1], 0, 0, at[1], -1};          \
        REAL *x = TYPE##_numbers(R * B * X), *flat = TYPE##_numbers(R * row);                      \
        REAL *kept = TYPE##_numbers(R * chain_keeps_##TYPE(sizes)), *y = TYPE##_numbers(R * B * N); \
        REAL *g = TYPE##_numbers(R * B * N), *to = TYPE##_numbers(R * row), *to_x = TYPE##_numbers(R * B * X); \
        REAL *losses = TYPE##_numbers(R * B), *again = TYPE##_numbers(R * row);                    \
        double *expected = calloc((size_t)(R * row), sizeof(double));                              \
        double *expected_x = calloc((size_t)(R * B * X), sizeof(double));                          \
        int64_t *classes = malloc((size_t)(R * B) * sizeof(int64_t));                              \
        for (int64_t n = 0; n < R * B; n++) classes[n] = drawn(0, N - 1);                          \
        for (int64_t n = 0; n < R * B * X; n++) if (n % X >= X / 2) x[n] = 0;                      \
        int wrong = PASS(TYPE, sizes, x, flat, kept, y, NULL, NULL, NULL, NULL, NULL); \
        for (int64_t i = 0; i < R * B; i++) {                                                      \
            const REAL *own = flat + i / B * row, *text = x + i * X;                               \
            double *sums = expected + i / B * row, *back = expected_x + i * X;                     \
            double logits[9];                                                                      \
            for (int64_t n = 0; n < N; n++) {                                                      \
                logits[n] = (double)own[row - N + n];                                              \
                sums[row - N + n] += (double)g[i * N + n];                                         \
            }                                                                                      \
            for (int64_t d = 0; d < D; d++) {                                                      \
                const int64_t b = d >= O[0], o = b ? d - O[0] : d, k = K[b], windows = L - k + 1;  \
                const int64_t begin = at[b] + o * E * k;                                           \
                double best = 0, value[20], slope = 0;                                             \
                int64_t ties = 0;                                                                  \
                for (int64_t t = 0; t < windows; t++) {                                            \
                    value[t] = b ? 0 : (double)own[W + o];                                         \
                    for (int64_t j = 0; j < k * E; j++)                                            \
                        value[t] += (double)own[begin + j % E * k + j / E] * (double)text[t * E + j]; \
                    if (value[t] > best) best = value[t];                                          \
                }                                                                                  \
                for (int64_t t = 0; t < windows; t++) ties += best > 0 && value[t] == best;        \
                for (int64_t n = 0; n < N; n++) {                                                  \
                    logits[n] += best * (double)own[end + n * D + d];                              \
                    sums[end + n * D + d] += best * (double)g[i * N + n];                          \
                    slope += (double)g[i * N + n] * (double)own[end + n * D + d];                  \
                }                                                                                  \
                if (ties && !b) sums[W + o] += slope;                                              \
                for (int64_t t = 0; t < windows; t++)                                              \
                    for (int64_t j = 0; ties && value[t] == best && j < k * E; j++) {              \
                        const int64_t place = begin + j % E * k + j / E;                           \
                        sums[place] += slope / (double)ties * (double)text[t * E + j];             \
                        back[t * E + j] += slope / (double)ties * (double)own[place];              \
                    }                                                                              \
            }                                                                                      \
            for (int64_t n = 0; n < N; n++) wrong += TYPE##_far(y[i * N + n], logits[n]);          \
        }                                                                                          \
        wrong += PASS(TYPE, sizes, x, flat, kept, NULL, g, NULL, NULL, to, to_x); \
        for (int64_t n = 0; n < R * row; n++) wrong += TYPE##_far(to[n] / 16, expected[n] / 16);   \
        for (int64_t n = 0; n < R * B * X; n++) wrong += TYPE##_far(to_x[n] / 16, expected_x[n] / 16); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, to, to_x); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, again, NULL); \
        wrong += memcmp(to, again, (size_t)(R * row) * sizeof(REAL)) != 0;                         \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, NULL, to_x); \
        /* From what a pass at other texts keeps, few elements or many of which differ. */         \
        REAL *sums = TYPE##_numbers(R * chain_sums_##TYPE(sizes)), *base = TYPE##_numbers(R * B * X); \
        REAL *shifts = TYPE##_numbers(R * B), *near = TYPE##_numbers(R * B * N);                   \
        const int64_t every = drawn(0, 9);                                                         \
        shifts[0] = 0;                                                                             \
        for (int64_t n = 0; n < R * B * X; n++)                                                    \
            x[n] = base[n] + shifts[n / X] + (REAL)!drawn(0, every);                               \
        wrong += chain_##TYPE(sizes, base, flat, NULL, NULL, NULL, classes, losses, NULL, to_x, sums, NULL, NULL); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, y, NULL, NULL, NULL, NULL, NULL); \
        wrong += chain_##TYPE(sizes, x, flat, NULL, near, NULL, NULL, NULL, NULL, NULL, sums, base, shifts); \
        for (int64_t n = 0; n < R * B * N; n++) wrong += TYPE##_far(near[n], (double)y[n]);        \
        wrong += chain_##TYPE(sizes, x, flat, NULL, NULL, NULL, classes, losses, to, NULL, sums, base, shifts); \
        free(sums), free(base), free(shifts), free(near);                                          \
        free(x), free(flat), free(kept), free(y), free(g), free(to), free(to_x), free(losses);     \
        free(again), free(expected), free(expected_x), free(classes);                              \
        return wrong;                                                                              \
    }

/* Patches against where each number of theirs lies. */
#define PATCHES(REAL, TYPE)                                                                        \
    int patches_##TYPE(const int64_t *, const REAL *, REAL *);                                     \
    int unpatched_##TYPE(const int64_t *, REAL *, REAL *);                                         \
    int cross_entropy_##TYPE(const int64_t *, const REAL *, const int64_t *, REAL *, REAL *);      \
    static int TYPE##_patches(void)                                                                \
    {                                                                                              \
        const int64_t K = drawn(1, 5), R = drawn(1, 2), B = drawn(0, 3), C = drawn(1, 19);         \
        const int64_t P = drawn(0, 2), Q = drawn(0, 2), H = drawn(K, 9), W = drawn(K, 9);          \
        const int64_t U = H + 2 * P - K + 1, V = W + 2 * Q - K + 1, many = R * B * U * V * C * K * K; \
        const int64_t sizes[13] = {R, B, C, H, W, K, P, Q, B * C * H * W, C * H * W, H * W, W, 1}; \
        REAL *x = TYPE##_numbers(R * B * C * H * W), *to = TYPE##_numbers(R * B * C * H * W);      \
        REAL *made = TYPE##_numbers(many);                                                         \
        double *expected = calloc((size_t)(R * B * C * H * W) + 1, sizeof(double));                \
        int wrong = patches_##TYPE(sizes, x, made);                                                \
        for (int64_t n = 0; n < many; n++) {                                                       \
            const int64_t b = n % K, a = n / K % K, c = n / K / K % C, v = n / K / K / C % V;      \
            const int64_t u = n / K / K / C / V % U, i = n / K / K / C / V / U;                    \
            const int64_t row = u + a - P, column = v + b - Q;                                     \
            const int inside = row >= 0 && row < H && column >= 0 && column < W;                   \
            wrong += made[n] != (inside ? x[((i * C + c) * H + row) * W + column] : 0);            \
            if (inside) expected[((i * H + row) * W + column) * C + c] += (double)made[n];         \
        }                                                                                          \
        wrong += unpatched_##TYPE(sizes, made, to);                                                \
        for (int64_t n = 0; n < R * B * C * H * W; n++) wrong += TYPE##_far(to[n], expected[n]);   \
        /* Pictures as logits: slopes of a sample sum to 0. */                                     \
        const int64_t of[2] = {R * B, C * H * W};                                                  \
        int64_t classes[8] = {0};                                                                  \
        REAL losses[8];                                                                            \
        wrong += cross_entropy_##TYPE(of, x, classes, losses, to);                                 \
        for (int64_t n = 0; n < of[0]; n++) {                                                      \
            double sum = 0;                                                                        \
            for (int64_t k = 0; k < of[1]; k++) sum += (double)to[n * of[1] + k];                  \
            wrong += TYPE##_far((REAL)sum, 0) + !(losses[n] >= 0);                                 \
        }                                                                                          \
        free(x), free(to), free(made), free(expected);                                             \
        return wrong;                                                                              \
    }

/* A block and a linear layer in one pass, and each way by itself, against the parts. */
#define CHAIN(REAL, TYPE)                                                                          \
    int64_t chain_keeps_##TYPE(const int64_t *);                                                   \
    int chain_##TYPE(const int64_t *, const REAL *, const REAL *, REAL *, REAL *, const REAL *,    \
                     const int64_t *, REAL *, REAL *, REAL *, REAL *, const REAL *, const REAL *); \
    int64_t chain_sums_##TYPE(const int64_t *);                                                    \
    static int TYPE##_chain(void)                                                                  \
    {                                                                                              \
        const int64_t K = drawn(0, 1) ? 3 : 5, R = drawn(1, 3), B = drawn(1, 90), C = drawn(1, 19);\
        const int64_t O = drawn(1, 35), P = drawn(1, 2), H = drawn(K - 1, 9), W = drawn(K - 1, 9); \
        const int64_t U = (H + 2 * P - K + 1) / 2, V = (W + 2 * P - K + 1) / 2, N = drawn(1, 40);  \
        const int64_t D = O * U * V, row = O * C * K * K + O + N * D + N, X = C * H * W;           \
        if (U < 1 || V < 1) return 0;                                                              \
        const int64_t sizes[46] = {                                                                \
            R, B, 4, B * X, row, 3, 0, C, H, W, O, K, P, P, 0, O * C * K * K,                      \
            3, O, U, V, 0, 0, 0, 0, -1, -1, 2, D, 0, 0, 0, 0, 0, 0, -1, -1,                        \
            1, D, 0, 0, N, 0, 0, 0, O * C * K * K + O, row - N};                                   \
        REAL *x = TYPE##_numbers(R * B * X), *flat = TYPE##_numbers(R * row);                      \
        REAL *kept = TYPE##_numbers(R * chain_keeps_##TYPE(sizes)), *y = TYPE##_numbers(R * B * N); \
        REAL *alone = TYPE##_numbers(R * B * N), *g = TYPE##_numbers(R * B * N);                   \
        REAL *losses = TYPE##_numbers(R * B), *to = TYPE##_numbers(R * row);                       \
        REAL *to_x = TYPE##_numbers(R * B * X), *other = TYPE##_numbers(R * row);                  \
        REAL *other_x = TYPE##_numbers(R * B * X);                                                 \
        int64_t *classes = malloc((size_t)(R * B) * sizeof(int64_t));                              \
        for (int64_t n = 0; n < R * B; n++) classes[n] = drawn(0, N - 1);                          \
        int wrong = PASS(TYPE, sizes, x, flat, kept, y, NULL, NULL, NULL, NULL, NULL); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, alone, NULL, NULL, NULL, NULL, NULL); \
        wrong += memcmp(y, alone, (size_t)(R * B * N) * sizeof(REAL)) != 0;                        \
        const int64_t of[2] = {R * B, N};                                                          \
        wrong += cross_entropy_##TYPE(of, y, classes, losses, g);                                  \
        for (int64_t n = 0; n < R * B * N; n++) g[n] *= 1 / (REAL)3;                               \
        wrong += PASS(TYPE, sizes, x, flat, kept, NULL, g, NULL, NULL, other, other_x); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, to, to_x); \
        for (int64_t n = 0; n < R * row; n++) wrong += TYPE##_far(to[n], (double)other[n]);        \
        for (int64_t n = 0; n < R * B * X; n++) wrong += TYPE##_far(to_x[n], (double)other_x[n]);  \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, to, NULL); \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, NULL, to_x); \
        classes[R * B - 1] = N;                                                                    \
        wrong += PASS(TYPE, sizes, x, flat, NULL, NULL, NULL, classes, losses, to, NULL) != 3; \
        free(x), free(flat), free(kept), free(y), free(alone), free(g), free(losses), free(to);    \
        free(to_x), free(other), free(other_x), free(classes);                                     \
        return wrong;                                                                              \
    }

/* Inputs moved by category against the definition, with many ties and NaN, at once and by categories kept. */
#define MOVED(REAL, TYPE)                                                                          \
    int adjust_##TYPE(const int64_t *, const REAL *, const REAL *, const double *, const double *, \
                      const double *, const REAL *, const double *, const int64_t *, REAL *);      \
    int categories_##TYPE(const int64_t *, const REAL *, const int64_t *, const int64_t *,         \
                          unsigned char *);                                                        \
    int moved_##TYPE(const int64_t *, const REAL *, const unsigned char *, const int64_t *,        \
                     const double *, const double *, const double *, const REAL *, const double *, \
                     REAL *);                                                                      \
    static int TYPE##_ranked(const REAL *map, const int64_t *ranks, int64_t F, int64_t n)          \
    {                                                                                              \
        int64_t before = 0;                                                                        \
        for (int64_t m = 0; m < F; m++) {                                                          \
            const int first = ranks[m] < ranks[n];                                                 \
            before += isnan(map[n]) ? !isnan(map[m]) || first                                      \
                                    : map[m] < map[n] || (map[m] == map[n] && first);              \
        }                                                                                          \
        return (int)before;                                                                        \
    }                                                                                              \
    static int TYPE##_moved(void)                                                                  \
    {                                                                                              \
        const int64_t R = drawn(0, 3), B = drawn(0, 4), F = drawn(1, 150), M = drawn(1, 5);        \
        const int64_t cuts = drawn(0, 3), C = cuts ? cuts + 1 : 2, kind = drawn(0, 2);             \
        const int64_t few = drawn(0, 1), lost = drawn(0, 3);                                       \
        int64_t s[10] = {R, B, F, M, C, kind, cuts}, wrong = 0;                                    \
        for (int64_t c = 0; c < cuts; c++) s[7 + c] = drawn(c ? s[6 + c] : 0, F);                  \
        REAL *x = TYPE##_numbers(R * B * F), *map = TYPE##_numbers(R * B * F);                     \
        REAL *ordered = TYPE##_numbers(R * B * F), *to = TYPE##_numbers(R * B * F);                \
        REAL *table = TYPE##_numbers(R * M * C), *later = TYPE##_numbers(R * B * F);               \
        double *chosen = double_numbers(R * B), *sizes = double_numbers(R * B);                    \
        double *edges = double_numbers(R * (M - 1)), *strengths = double_numbers(R);               \
        int64_t *rows = malloc((size_t)(R * B) * 8 + 1), *order = malloc((size_t)F * 8);           \
        int64_t *ranks = malloc((size_t)F * 8);                                                    \
        unsigned char *kinds = calloc((size_t)(R * B * F) + 1, 1);                                 \
        for (int64_t n = 0; n < R * B * F; n++) {                                                  \
            map[n] = few ? (REAL)drawn(-1, 1) : map[n];                                            \
            map[n] = lost == 3 && !drawn(0, 3) ? (REAL)NAN : map[n];                               \
        }                                                                                          \
        for (int64_t n = 0; n < F; n++) order[n] = n;                                              \
        for (int64_t n = F - 1; n > 0; n--) {                                                      \
            const int64_t other = drawn(0, n), held = order[n];                                    \
            order[n] = order[other], order[other] = held;                                          \
        }                                                                                          \
        for (int64_t n = 0; n < F; n++) ranks[order[n]] = n;                                       \
        for (int64_t i = 0; i < R * B; i++) rows[i] = R * B - 1 - i;                               \
        wrong += adjust_##TYPE(s, x, map, chosen, kind ? sizes : NULL, edges, table, strengths,    \
                               order, to) != 0;                                                    \
        wrong += categories_##TYPE(s, map, rows, order, kinds) != 0;                               \
        wrong += moved_##TYPE(s, x, kinds, rows, chosen, kind ? sizes : NULL, edges, table,        \
                              strengths, later) != 0;                                              \
        for (int64_t i = 0; i < R * B; i++)                                                        \
            for (int64_t n = 0; n < F; n++)                                                        \
                ordered[i * F + TYPE##_ranked(map + i * F, ranks, F, n)] = map[i * F + n];         \
        for (int64_t i = 0; i < R * B; i++) {                                                      \
            const int64_t r = i / B;                                                               \
            int64_t member = 0;                                                                    \
            for (int64_t m = 0; m < M - 1; m++) member += chosen[i] >= edges[r * (M - 1) + m];     \
            const double size = kind == 0 ? 1 : kind == 1 ? fabs(sizes[i]) : sizes[i];             \
            for (int64_t n = 0; n < F; n++) {                                                      \
                const REAL *own = map + i * F;                                                     \
                const REAL *change = table + (r * M + member) * C;                                 \
                const int place = TYPE##_ranked(own, ranks, F, n);                                 \
                double sum = (double)x[i * F + n];                                                 \
                int before = 0, parts = 0;                                                         \
                for (int64_t c = 0; c < C; c++) {                                                  \
                    int in = c == cuts;                                                            \
                    if (!cuts) in = c ? own[n] > 0 : own[n] < 0;                                   \
                    else if (c < cuts) in = place < s[7 + c] && (s[7 + c] == F || !isnan(ordered[i * F + s[7 + c] - 1])); \
                    if (in && !(cuts && before)) {                                                 \
                        sum += (double)(REAL)(strengths[r] * size * (double)change[c]);            \
                        parts++;                                                                   \
                    }                                                                              \
                    before = in;                                                                   \
                }                                                                                  \
                wrong += TYPE##_far(to[i * F + n], sum);                                           \
                wrong += parts < 2 && TYPE##_far(later[i * F + n], sum); /* with NaN, two */       \
            }                                                                                      \
        }                                                                                          \
        moved_##TYPE(s, x, kinds, rows, chosen, kind ? sizes : NULL, edges, table, strengths, x);  \
        wrong += memcmp(x, later, (size_t)(R * B * F) * sizeof(REAL)) != 0;                        \
        free(x), free(map), free(ordered), free(to), free(table), free(chosen), free(sizes);       \
        free(edges), free(strengths), free(rows), free(order), free(kinds), free(later), free(ranks);\
        return (int)wrong;                                                                         \
    }

void uniforms(const int64_t *, const uint64_t *, const uint64_t *, double *);

static int draws(void)
{
    const int64_t s[2] = {drawn(0, 9), drawn(0, 40)};
    uint64_t *heads = malloc((size_t)s[0] * 8 + 1), *places = malloc((size_t)(s[0] * s[1]) * 8 + 1);
    double *to = malloc((size_t)(s[0] * s[1]) * 8 + 1);
    for (int64_t n = 0; n < s[0]; n++) heads[n] = (uint64_t)drawn(0, 1 << 30) << 33;
    for (int64_t n = 0; n < s[0] * s[1]; n++) places[n] = (uint64_t)n;
    uniforms(s, heads, places, to);
    int wrong = 0;
    for (int64_t n = 0; n < s[0] * s[1]; n++) wrong += !(to[n] > 0 && to[n] < 1);
    free(heads), free(places), free(to);
    return wrong;
}

MOVED(float, float)
MOVED(double, double)
PATCHES(float, float)
PATCHES(double, double)
CHAIN(float, float)
CHAIN(double, double)
OTHERS(float, float)
OTHERS(double, double)
TEXTS(float, float)
TEXTS(double, double)

int main(void)
{
    for (int shape = 0; shape < 400; shape++) {
        const int wrong = shape % 2 ? float_check() : double_check();
        if (wrong) {
            printf("shape %d: %d numbers are wrong\n", shape, wrong);
            return 1;
        }
    }
    for (int shape = 0; shape < 200; shape++)
        if (shape % 2 ? float_others() : double_others()) {
            printf("text %d: a number is not finite\n", shape);
            return 1;
        }
    for (int shape = 0; shape < 200; shape++)
        if (shape % 2 ? float_patches() : double_patches()) {
            printf("patches %d: a number is wrong\n", shape);
            return 1;
        }
    for (int shape = 0; shape < 200; shape++)
        if (shape % 2 ? float_chain() : double_chain()) {
            printf("chain %d: a number is wrong\n", shape);
            return 1;
        }
    for (int shape = 0; shape < 200; shape++)
        if (shape % 2 ? float_texts() : double_texts()) {
            printf("whole pass over texts %d: a number is wrong\n", shape);
            return 1;
        }
    for (int shape = 0; shape < 400; shape++)
        if ((shape % 2 ? float_moved() : double_moved()) || draws()) {
            printf("moved inputs %d: a number is wrong\n", shape);
            return 1;
        }
    puts("400 shapes, 200 patches, 400 chains and 400 moved inputs agree, 200 texts and optimisers ran");
    return 0;
}
