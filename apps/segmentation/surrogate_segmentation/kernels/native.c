/* One-vs-rest counts and their gradient, one pass over the logits each. The formulas are in __init__.py.
 *
 * An image of n pixels is cut into tiles, a tile into blocks of BLOCK pixels whose C x BLOCK exponentials fit in the
 * first cache; the loops over a block are written for the vectoriser. Logits and gradient share their strides. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256

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
    default: READ(int64_t);
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

/* Tiles [from, to), counted through all images: each adds up its (C + 1, 6) sums in its own part of `sums`, all 0 before.
 * Returns 0, or 1 without memory. */
int forward(const Shape *s, const void *x, const void *y, double *sums, int64_t from, int64_t to) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int32_t a[BLOCK], label[BLOCK];
    float r[BLOCK], *e = rows(s);
    if (!e) return 1;
    for (int64_t t = from; t < to; t++) {
        double *sum = sums + t * (s->classes + 1) * 6;
        int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
        for (; first < last; first += BLOCK) {
            int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
            block(s, x, y, t / tiles, first, n, e, a, r, label);
            for (int i = 0; i < n; i++) {
                int missed = a[i] != label[i];
                float p_a = 1.0f / (1.0f + r[i]), p_y = e[label[i] * BLOCK + i] * p_a;
                double *predicted = sum + a[i] * 6 + missed, *true_ = sum + label[i] * 6;
                predicted[0] += p_a, predicted[3] += 1;
                true_[2] += missed ? 1.0f - p_y : 0.0f, true_[5] += missed;
            }
        }
    }
    free(e);
    return 0;
}

/* The gradient of the logits in tiles [from, to), from that of the sums, dense (B, C + 1, 6), 0 for void. */
int backward(const Shape *s, const void *x, const void *y, const float *grad, void *dx, int64_t from, int64_t to) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int32_t a[BLOCK], label[BLOCK];
    float r[BLOCK], at_others[BLOCK], at_a[BLOCK], at_y[BLOCK], *e = rows(s);
    if (!e) return 1;
    for (int64_t t = from; t < to; t++) {
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
    return 0;
}
