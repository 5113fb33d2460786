/* One-vs-rest counts and their gradient, one pass over the logits each. The formulas are in __init__.py.
 *
 * An image of n pixels is cut into tiles, a tile into blocks of BLOCK pixels whose C x BLOCK exponentials fit in the
 * first cache. Within a block GROUP vectors of LANES pixels go through the classes side by side, in the vectors of GCC
 * and clang; the other loops over a block are written for the vectoriser. Logits and gradient share their strides. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#define GROUP 4 /* each step of a search for the highest waits for the one before: four searches go on at once */
#define BLOCK 128 /* a multiple of GROUP * LANES */
#define LINE 64 /* bytes that come at once */
#define BANKS 4 /* neighbouring pixels, which are often of one class, need not wait for each other's sum */

typedef double Pair __attribute__((vector_size(16))); /* a soft sum and the hard one of its pixels */

typedef struct {
    int64_t classes, pixels, tile;             /* pixels of an image, pixels of a tile */
    int64_t x_image, x_class, x_pixel;         /* strides of the logits, in elements */
    int64_t y_bytes, y_signed, ignore_index;   /* of a label; labels are dense */
    int64_t narrow;                            /* logits are bfloat16, else float */
} Shape;

static inline float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t narrow(float f) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return f != f ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Where pixel `first` of class k is, in the logits and in the gradient, in elements. */
static inline int64_t place(const Shape *s, int64_t image, int64_t k, int64_t first) {
    return image * s->x_image + k * s->x_class + first * s->x_pixel;
}

/* Asks for a row of a block beforehand: there are more rows than the hardware foresees. */
static inline void prefetch(const Shape *s, const void *x, int64_t at, int write) {
    int64_t size = s->narrow ? 2 : 4;
    const char *row = (const char *)x + at * size;
    if (s->x_pixel != 1) return; /* all classes are one row, which it does foresee */
    for (int64_t i = 0; i < BLOCK * size; i += LINE)
        if (write)
            __builtin_prefetch(row + i, 1);
        else
            __builtin_prefetch(row + i);
}

#define READ(type) for (int i = 0; i < n; i++) to[i] = ((const type *)y)[first + i]

/* n labels from `first` on, as they are. */
static void labels_at(const Shape *s, const void *y, int64_t first, int n, int64_t *restrict to) {
    switch (s->y_bytes * 2 + s->y_signed) {
    case 2: READ(uint8_t); break;
    case 3: READ(int8_t); break;
    case 5: READ(int16_t); break;
    case 9: READ(int32_t); break;
    case 17: READ(int64_t); break;
    }
}

/* exp(x - m), the predicted class a, r and the label of n <= BLOCK pixels from `first` on. At a void pixel a and the
 * label are C: a class more, whose sums are thrown away and whose gradient is 0. That saves the loops a branch. */
static void block(const Shape *s, const void *x, const void *y, int64_t image, int64_t first, int n,
                  float *restrict e, int32_t *restrict a, float *restrict r, int32_t *restrict label) {
    for (int64_t k = 0; k < s->classes; k++) {
        int64_t at = place(s, image, k, first);
        float *row = e + k * BLOCK;
        prefetch(s, x, at + BLOCK, 0);
        if (s->narrow)
            for (int i = 0; i < n; i++) row[i] = widen(((const uint16_t *)x)[at + i * s->x_pixel]);
        else if (s->x_pixel == 1)
            memcpy(row, (const float *)x + at, n * sizeof(float));
        else
            for (int i = 0; i < n; i++) row[i] = ((const float *)x)[at + i * s->x_pixel];
    }
    for (int i = 0; i < n; i += GROUP * LANES) {
        Floats highest[GROUP], rest[GROUP] = {{0}};
        Ints at[GROUP] = {{0}};
        for (int g = 0; g < GROUP; g++) highest[g] = *(Floats *)(e + i + g * LANES);
        for (int32_t k = 1; k < s->classes; k++)
            for (int g = 0; g < GROUP; g++) {
                Floats logit = *(Floats *)(e + k * BLOCK + i + g * LANES);
                Ints higher = logit > highest[g];
                highest[g] = pick(higher, logit, highest[g]);
                at[g] = (higher & k) | (~higher & at[g]);
            }
        for (int32_t k = 0; k < s->classes; k++)
            for (int g = 0; g < GROUP; g++) {
                Floats *row = (Floats *)(e + k * BLOCK + i + g * LANES), power = exp_(*row - highest[g]);
                rest[g] += pick(at[g] == k, power - 1.0f, power); /* 1 - 1 = 0, unless it is NaN */
                *row = power;
            }
        for (int g = 0; g < GROUP; g++) {
            *(Ints *)(a + i + g * LANES) = at[g];
            *(Floats *)(r + i + g * LANES) = rest[g];
        }
    }
    int64_t raw[BLOCK];
    labels_at(s, y, image * s->pixels + first, n, raw);
    int32_t classes = (int32_t)s->classes;
    for (int i = 0; i < n; i++) {
        int void_ = raw[i] == s->ignore_index, bad = !void_ && (raw[i] < 0 || raw[i] >= classes);
        label[i] = void_ ? classes : bad ? 0 : (int32_t)raw[i];
        a[i] = void_ ? classes : a[i];
        r[i] = bad ? NAN : r[i];
    }
}

/* C + 1 rows of a block. The last one is read at void pixels; what is behind the last pixel is never used. */
static float *rows(const Shape *s) {
    return calloc((s->classes + 1) * BLOCK, sizeof(float));
}

/* d of n pixels, the sum over k != a of p_k (way_a - way_k) times 1 + r, and way_y - way_a; `w` gets rows of `way`. */
static void moving(const Shape *s, const float *way, int64_t image, int64_t first, int n, const float *restrict e,
                   const int32_t *restrict a, const int32_t *restrict label, float *restrict w, float *restrict d,
                   float *restrict y_a) {
    float w_a[BLOCK];
    for (int64_t k = 0; k < s->classes; k++) {
        const float *row = way + place(s, image, k, first);
        for (int i = 0; i < n; i++) w[k * BLOCK + i] = row[i * s->x_pixel];
    }
    for (int i = 0; i < n; i++) {
        w_a[i] = w[a[i] * BLOCK + i];
        y_a[i] = w[label[i] * BLOCK + i] - w_a[i];
        d[i] = 0.0f;
    }
    for (int64_t k = 0; k < s->classes; k++)
        for (int i = 0; i < n; i++) d[i] += e[k * BLOCK + i] * (w_a[i] - w[k * BLOCK + i]);
}

/* Each tile of each image adds up its (C + 1, 6) sums in its own part of `sums`, and at the end they are added in the
 * order of the tiles: who does which tile does not show. `result` is (B, C, 6), without void. Where there is a `way`,
 * it is how fast they change along it. The threads are those of torch, whose OpenMP is in the process already. Returns
 * how many had no memory. */
int forward(const Shape *s, const void *x, const float *way, const void *y, double *sums, float *result, int64_t images,
            int threads) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        int32_t a[BLOCK], label[BLOCK], at_a[BLOCK], at_y[BLOCK];
        float r[BLOCK], p_a[BLOCK], lost[BLOCK], d[BLOCK], y_a[BLOCK], *e = rows(s), *w = way ? rows(s) : e;
        double one = way ? 0.0 : 1.0;
        int64_t size = (s->classes + 1) * 3;
        Pair *bank = malloc(BANKS * size * sizeof(Pair));
        failed += !e || !w || !bank;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < images * tiles; t++) {
            if (!e || !w || !bank) continue;
            memset(bank, 0, BANKS * size * sizeof(Pair));
            int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
            for (; first < last; first += BLOCK) {
                int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
                block(s, x, y, t / tiles, first, n, e, a, r, label);
                for (int i = 0; i < n; i++) {
                    int missed = a[i] != label[i];
                    p_a[i] = 1.0f / (1.0f + r[i]);
                    lost[i] = missed ? 1.0f - e[label[i] * BLOCK + i] * p_a[i] : 0.0f;
                    at_a[i] = a[i] * 3 + missed;
                    at_y[i] = (missed ? label[i] : (int32_t)s->classes) * 3 + 2;
                }
                if (way) {
                    moving(s, way, t / tiles, first, n, e, a, label, w, d, y_a);
                    for (int i = 0; i < n; i++) {
                        float at_d = d[i] * p_a[i];
                        lost[i] = a[i] == label[i] ? 0.0f : (lost[i] - 1.0f) * (y_a[i] + at_d);
                        p_a[i] *= at_d;
                    }
                }
                for (int i = 0; i < n; i++) {
                    Pair *sum = bank + i % BANKS * size;
                    sum[at_a[i]] += (Pair){p_a[i], one};
                    sum[at_y[i]] += (Pair){lost[i], one};
                }
            }
            for (int64_t k = 0; k < BANKS * size; k++) {
                double *sum = sums + t * 2 * size + k % size / 3 * 6 + k % 3;
                sum[0] += bank[k][0], sum[3] += bank[k][1];
            }
        }
        if (w != e) free(w);
        free(e), free(bank);
    }
    int64_t kept = s->classes * 6;
    for (int64_t i = 0; i < images * kept; i++) {
        double sum = 0.0;
        for (int64_t t = 0; t < tiles; t++) sum += sums[(i / kept * tiles + t) * (kept + 6) + i % kept];
        result[i] = (float)sum;
    }
    return failed;
}

/* The gradient of the logits from that of the sums, dense (B, C + 1, 6), 0 for void. */
int backward(const Shape *s, const void *x, const void *y, const float *grad, void *dx, int64_t images, int threads) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        int32_t a[BLOCK], label[BLOCK];
        float r[BLOCK], at_others[BLOCK], at_a[BLOCK], at_y[BLOCK], *e = rows(s);
        failed += !e;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < images * tiles; t++) {
            if (!e) continue;
            int64_t image = t / tiles;
            const float *g = grad + image * (s->classes + 1) * 6;
            int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
            for (; first < last; first += BLOCK) {
                int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
                for (int64_t k = 0; k < s->classes; k++) prefetch(s, dx, place(s, image, k, first), 1);
                block(s, x, y, image, first, n, e, a, r, label);
                for (int i = 0; i < n; i++) {
                    int missed = a[i] != label[i];
                    float p_a = 1.0f / (1.0f + r[i]), p_y = e[label[i] * BLOCK + i] * p_a;
                    float u = g[a[i] * 6 + missed] * p_a, v = missed ? g[label[i] * 6 + 2] * p_y : 0.0f;
                    at_others[i] = (v - u) * p_a;
                    at_a[i] = (u * r[i] + v) * p_a;
                    at_y[i] = v;
                }
                for (int i = 0; i < n; i += LANES) {
                    Ints predicted = *(Ints *)(a + i), true_ = *(Ints *)(label + i);
                    Floats to_a = *(Floats *)(at_a + i), to_y = *(Floats *)(at_y + i), to_others = *(Floats *)(at_others + i);
                    for (int32_t k = 0; k < s->classes; k++) {
                        Floats *row = (Floats *)(e + k * BLOCK + i);
                        *row = pick(predicted == k, to_a, *row * to_others) - pick(true_ == k, to_y, (Floats){0});
                    }
                }
                for (int64_t k = 0; k < s->classes; k++) {
                    int64_t at = place(s, image, k, first);
                    float *row = e + k * BLOCK;
                    if (s->narrow)
                        for (int i = 0; i < n; i++) ((uint16_t *)dx)[at + i * s->x_pixel] = narrow(row[i]);
                    else if (s->x_pixel == 1)
                        memcpy((float *)dx + at, row, n * sizeof(float));
                    else
                        for (int i = 0; i < n; i++) ((float *)dx)[at + i * s->x_pixel] = row[i];
                }
            }
        }
        free(e);
    }
    return failed;
}
