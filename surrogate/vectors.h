/* Vectors as wide as the registers of the machine, in the vectors of GCC and clang, for the kernels in C. */
#include <stdint.h>

#ifdef __AVX512F__ /* as wide as the registers: GCC is many times slower with vectors that it has to split */
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));

static inline Floats pick(Ints mask, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask));
}

/* exp(x) for x <= 0, within 2 units in the last place: 2^n * P(x - n ln 2). NaN stays NaN. */
static inline Floats exp_(Floats x) {
    x = pick(x < -87.0f, (Floats){0} - 87.0f, x);
    Floats shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer, kept in the low bits */
    Floats n = shifted - 12582912.0f;
    Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Floats)(((Bits)shifted - 0x4b400000u + 127u) << 23);
}
