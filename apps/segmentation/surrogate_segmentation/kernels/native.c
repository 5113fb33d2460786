/* One-vs-rest counts and their gradient, one pass over the logits each. The formulas are in __init__.py.
 *
 * An image of n pixels is cut into tiles, a tile into blocks of BLOCK pixels whose C x BLOCK exponentials fit in the
 * first cache; the loops over a block are written for the vectoriser. Logits and gradient share their strides. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256
#define BANKS 4 /* neighbouring pixels, which are often of one class, need not wait for each other's sum */

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

/* exp(x) for x <= 0, within 2 units in the last place: 2^n * P(x - n ln 2). NaN stays NaN. */
static inline float exp_(float x) {
    x = x < -87.0f ? -87.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer, kept in the low bits */
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    bits = (int32_t)((uint32_t)(bits - 0x4b400000 + 127) << 23);
    float power;
    memcpy(&power, &bits, 4);
    return p * power;
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
    float m[BLOCK];
    for (int64_t k = 0; k < s->classes; k++) {
        int64_t at = image * s->x_image + k * s->x_class + first * s->x_pixel;
        float *row = e + k * BLOCK;
        if (s->narrow)
            for (int i = 0; i < n; i++) row[i] = widen(((const uint16_t *)x)[at + i * s->x_pixel]);
        else if (s->x_pixel == 1)
            memcpy(row, (const float *)x + at, n * sizeof(float));
        else
            for (int i = 0; i < n; i++) row[i] = ((const float *)x)[at + i * s->x_pixel];
    }
    for (int i = 0; i < n; i++) m[i] = e[i], a[i] = 0, r[i] = 0;
    for (int32_t k = 1; k < s->classes; k++) {
        const float *row = e + k * BLOCK;
        for (int i = 0; i < n; i++) {
            int higher = row[i] > m[i];
            m[i] = higher ? row[i] : m[i];
            a[i] = higher ? k : a[i];
        }
    }
    for (int32_t k = 0; k < s->classes; k++) {
        float *row = e + k * BLOCK;
        for (int i = 0; i < n; i++) {
            row[i] = exp_(row[i] - m[i]);
            r[i] += a[i] == k ? row[i] - 1.0f : row[i]; /* 1 - 1 = 0, unless it is NaN */
        }
    }
    int64_t raw[BLOCK];
    labels_at(s, y, image * s->pixels + first, n, raw);
    int32_t classes = (int32_t)s->classes;
    for (int i = 0; i < n; i++) {
        int void_ = raw[i] == s->ignore_index, bad = !void_ & ((raw[i] < 0) | (raw[i] >= classes));
        label[i] = void_ ? classes : bad ? 0 : (int32_t)raw[i];
        a[i] = void_ ? classes : a[i];
        r[i] = bad ? NAN : r[i];
    }
}

/* C + 1 rows of a block. The last one is read at void pixels. */
static float *rows(const Shape *s) {
    return calloc((s->classes + 1) * BLOCK, sizeof(float));
}

/* Each tile of each image adds up its (C + 1, 6) sums in its own part of `sums`, all 0 before: who does which tile does
 * not show. The threads are those of torch, whose OpenMP is in the process already. Returns how many had no memory. */
int forward(const Shape *s, const void *x, const void *y, double *sums, int64_t images, int threads) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(+ : failed)
    {
        int32_t a[BLOCK], label[BLOCK], at_a[BLOCK], at_y[BLOCK];
        float r[BLOCK], p_a[BLOCK], lost[BLOCK], *e = rows(s);
        int64_t size = (s->classes + 1) * 6;
        double *bank = malloc(BANKS * size * sizeof(double));
        failed += !e || !bank;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < images * tiles; t++) {
            if (!e || !bank) continue;
            memset(bank, 0, BANKS * size * sizeof(double));
            int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
            for (; first < last; first += BLOCK) {
                int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
                block(s, x, y, t / tiles, first, n, e, a, r, label);
                for (int i = 0; i < n; i++) {
                    int missed = a[i] != label[i];
                    p_a[i] = 1.0f / (1.0f + r[i]);
                    lost[i] = missed ? 1.0f - e[label[i] * BLOCK + i] * p_a[i] : 0.0f;
                    at_a[i] = a[i] * 6 + missed;
                    at_y[i] = (missed ? label[i] : (int32_t)s->classes) * 6 + 2;
                }
                for (int i = 0; i < n; i++) {
                    double *sum = bank + i % BANKS * size, *predicted = sum + at_a[i], *true_ = sum + at_y[i];
                    predicted[0] += p_a[i], predicted[3] += 1;
                    true_[0] += lost[i], true_[3] += 1;
                }
            }
            for (int64_t k = 0; k < BANKS * size; k++) sums[t * size + k % size] += bank[k];
        }
        free(e), free(bank);
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
                block(s, x, y, image, first, n, e, a, r, label);
                for (int i = 0; i < n; i++) {
                    int missed = a[i] != label[i];
                    float p_a = 1.0f / (1.0f + r[i]), p_y = e[label[i] * BLOCK + i] * p_a;
                    float u = g[a[i] * 6 + missed] * p_a, v = missed ? g[label[i] * 6 + 2] * p_y : 0.0f;
                    at_others[i] = (v - u) * p_a;
                    at_a[i] = (u * r[i] + v) * p_a;
                    at_y[i] = v;
                }
                for (int32_t k = 0; k < s->classes; k++) {
                    int64_t at = image * s->x_image + k * s->x_class + first * s->x_pixel;
                    float *row = e + k * BLOCK;
                    for (int i = 0; i < n; i++) {
                        float d = a[i] == k ? at_a[i] : row[i] * at_others[i];
                        row[i] = d - (label[i] == k ? at_y[i] : 0.0f);
                    }
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
