/* Value and slope of a frozen network; the formulas are in frozen.py.
 *
 * ROWS rows go through a layer side by side, WIDE vectors of units at a time, so that all their sums stay in registers
 * and each weight is read once for all of them. A row never meets another: who computes which does not show. */
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define ROWS 4
#if LANES == 16
#define WIDE 7 /* 28 sums of 32 registers, and 112 units: a network of 100, the default, is one step */
#else
#define WIDE 3
#endif
#define STEP (WIDE * LANES)
#define FEW 256 /* rows that one thread is done with before another, of a busy machine, has begun */

typedef struct {
    int64_t rows, inputs, units, padded, depth; /* of a layer: its units, and up to a multiple of `step()` */
} Shape;

int64_t step(void) { return STEP; }

/* `to` = x w for ROWS rows of x, of which `inner` numbers count, and w of `inner` rows; all are `padded` wide. */
static void product(const float *restrict x, const float *restrict w, float *restrict to, int64_t inner, int64_t padded) {
    for (int64_t first = 0; first < padded; first += STEP) {
        Floats sum[ROWS][WIDE] = {{{0}}};
        for (int64_t k = 0; k < inner; k++) {
            const Floats *weight = (const Floats *)(w + k * padded + first);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < WIDE; v++) sum[r][v] += x[r * padded + k] * weight[v];
        }
        for (int r = 0; r < ROWS; r++) memcpy(to + r * padded + first, sum[r], sizeof(sum[r]));
    }
}

/* (1 - e^-2|x|) / (1 + e^-2|x|), with the sign of x. */
static inline Floats tanh_(Floats x) {
    Ints sign = (Ints)x & INT32_MIN;
    Floats power = exp_(-2.0f * (Floats)((Ints)x & INT32_MAX));
    return (Floats)((Ints)((1.0f - power) / (1.0f + power)) | sign);
}

/* Of `(rows, inputs)` statistics the value, and the slope unless it is null. Weights are (depth, padded, padded), first
 * from a layer's inputs to its units, then back; biases (depth + 1, padded); `last` the weights of the last layer.
 * Returns how many threads had no memory. */
int latent(const Shape *s, const float *stats, const float *mean, const float *scale, const float *there,
           const float *back, const float *biases, const float *last, float *value, float *slope, int threads) {
    int64_t padded = s->padded, size = ROWS * padded;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed) if (s->rows > FEW)
    {
        float *h = malloc((s->depth + 3) * size * sizeof(float)), *g = h + (s->depth + 1) * size, *next = g + size;
        failed += !h;
#pragma omp for schedule(static)
        for (int64_t first = 0; first < s->rows; first += ROWS) {
            if (!h) continue;
            int64_t n = s->rows - first < ROWS ? s->rows - first : ROWS;
            memset(h, 0, size * sizeof(float));
            for (int64_t r = 0; r < n; r++)
                for (int64_t k = 0; k < s->inputs; k++)
                    h[r * padded + k] = (stats[(first + r) * s->inputs + k] - mean[k]) / scale[k];
            float *x = h;
            for (int64_t layer = 0; layer < s->depth; layer++, x += size) {
                product(x, there + layer * padded * padded, x + size, layer ? s->units : s->inputs, padded);
                for (int r = 0; r < ROWS; r++)
                    for (int64_t k = 0; k < padded; k += LANES) {
                        Floats *unit = (Floats *)(x + size + r * padded + k);
                        *unit = tanh_(*unit + *(const Floats *)(biases + layer * padded + k));
                    }
            }
            for (int64_t r = 0; r < n; r++) {
                float sum = 0.0f;
                for (int64_t k = 0; k < s->units; k++) sum += x[r * padded + k] * last[k];
                value[first + r] = sum + biases[s->depth * padded];
            }
            if (!slope) continue;
            for (int r = 0; r < ROWS; r++)
                for (int64_t k = 0, i = r * padded; k < padded; k++, i++) g[i] = last[k] * (1.0f - x[i] * x[i]);
            for (int64_t layer = s->depth - 1; layer >= 0; layer--) {
                product(g, back + layer * padded * padded, next, s->units, padded);
                x -= size;
                for (int64_t i = 0; i < size; i++) g[i] = layer ? next[i] * (1.0f - x[i] * x[i]) : next[i];
            }
            for (int64_t r = 0; r < n; r++)
                for (int64_t k = 0; k < s->inputs; k++) slope[(first + r) * s->inputs + k] = g[r * padded + k] / scale[k];
        }
        free(h);
    }
    return failed;
}
