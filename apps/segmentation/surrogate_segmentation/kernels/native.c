/* One-vs-rest counts and their gradient, one pass over the logits each. The formulas are in __init__.py.
 *
 * An image of n pixels is cut into tiles, a tile into blocks of BLOCK pixels whose C x BLOCK exponentials fit in the
 * first cache; the loops over a block are written for the vectoriser. Logits and gradient share their strides. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 256
#define VOID -1
#define BAD -2

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

static inline int32_t label_at(const Shape *s, const char *y, int64_t i) {
    int64_t label;
    switch (s->y_bytes) {
    case 1: label = s->y_signed ? ((const int8_t *)y)[i] : ((const uint8_t *)y)[i]; break;
    case 2: label = ((const int16_t *)y)[i]; break;
    case 4: label = ((const int32_t *)y)[i]; break;
    default: label = ((const int64_t *)y)[i];
    }
    if (label == s->ignore_index) return VOID;
    return label >= 0 && label < s->classes ? (int32_t)label : BAD;
}

/* exp(x - m), the predicted class and r of n <= BLOCK pixels from `first` on, and their labels. */
static void block(const Shape *s, const void *x, const char *y, int64_t image, int64_t first, int n,
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
    for (int i = 0; i < n; i++) {
        label[i] = label_at(s, y, image * s->pixels + first + i);
        if (label[i] == BAD) label[i] = 0, r[i] = NAN;
    }
}

/* Tiles [from, to), counted through all images: each adds up its (C, 6) sums in its own part of `sums`, all 0 before.
 * Returns 0, or 1 without memory. */
int forward(const Shape *s, const void *x, const char *y, double *sums, int64_t from, int64_t to) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int32_t a[BLOCK], label[BLOCK];
    float r[BLOCK], *e = malloc(s->classes * BLOCK * sizeof(float));
    if (!e) return 1;
    for (int64_t t = from; t < to; t++) {
        double *sum = sums + t * s->classes * 6;
        int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
        for (; first < last; first += BLOCK) {
            int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
            block(s, x, y, t / tiles, first, n, e, a, r, label);
            for (int i = 0; i < n; i++) {
                int32_t l = label[i];
                float p_a = 1.0f / (1.0f + r[i]);
                if (l == VOID) continue;
                if (l == a[i]) {
                    sum[l * 6] += p_a, sum[l * 6 + 3] += 1;
                } else {
                    sum[a[i] * 6 + 1] += p_a, sum[a[i] * 6 + 4] += 1;
                    sum[l * 6 + 2] += 1.0f - e[l * BLOCK + i] * p_a, sum[l * 6 + 5] += 1;
                }
            }
        }
    }
    free(e);
    return 0;
}

/* The gradient of the logits in tiles [from, to), from that of the sums, dense (B, C, 6). */
int backward(const Shape *s, const void *x, const char *y, const float *grad, void *dx, int64_t from, int64_t to) {
    int64_t tiles = (s->pixels + s->tile - 1) / s->tile;
    int32_t a[BLOCK], label[BLOCK];
    float r[BLOCK], at_others[BLOCK], at_a[BLOCK], at_y[BLOCK], *e = malloc(s->classes * BLOCK * sizeof(float));
    if (!e) return 1;
    for (int64_t t = from; t < to; t++) {
        int64_t image = t / tiles;
        const float *g = grad + image * s->classes * 6;
        int64_t first = t % tiles * s->tile, last = first + s->tile < s->pixels ? first + s->tile : s->pixels;
        for (; first < last; first += BLOCK) {
            int n = last - first < BLOCK ? (int)(last - first) : BLOCK;
            block(s, x, y, image, first, n, e, a, r, label);
            for (int i = 0; i < n; i++) {
                int32_t l = label[i];
                float p_a = 1.0f / (1.0f + r[i]), u = 0, v = 0;
                if (l == a[i]) u = g[l * 6] * p_a;
                else if (l != VOID) u = g[a[i] * 6 + 1] * p_a, v = g[l * 6 + 2] * e[l * BLOCK + i] * p_a;
                at_others[i] = l == VOID ? 0 : (v - u) * p_a;
                at_a[i] = l == VOID ? 0 : (u * r[i] + v) * p_a;
                at_y[i] = l == a[i] || l == VOID ? 0 : v;
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
