// A thin layer of vectors of floats: the same names for every instruction set.
//
// Each source that includes this is compiled once per instruction set, which the compiler's flags
// choose. All names live in an unnamed namespace: a function that was compiled for a newer processor
// must never replace the one of an older processor when the library is linked.
//
// LANES    floats in a vector
// ROWS     rows of a product that the micro-kernel holds in registers
// VECTORS  vectors of each of these rows; PANEL = LANES * VECTORS columns

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define SCTNET_INLINE inline __attribute__((always_inline))
#define SCTNET_UNROLL _Pragma("GCC unroll 32")
#define SCTNET_UNROLL_SOME _Pragma("GCC unroll 4")
#define SCTNET_LAMBDA __attribute__((always_inline))

namespace {

// A bfloat16 by its bits: the upper half of a float's.
struct Short {
    uint16_t bits;
};

#if defined(__AVX512F__)

using Vector = __m512;
using Ints = __m512i;
constexpr int64_t LANES = 16, ROWS = 14, VECTORS = 2;

SCTNET_INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
SCTNET_INLINE void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
SCTNET_INLINE Vector everywhere(float value) { return _mm512_set1_ps(value); }
SCTNET_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
SCTNET_INLINE Vector subtract_product(Vector c, Vector a, Vector b) { return _mm512_fnmadd_ps(a, b, c); }
// Of two values, one of which is not a number, the second.
SCTNET_INLINE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
SCTNET_INLINE Vector where_positive(Vector x, Vector yes, Vector no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), no, yes);
}
SCTNET_INLINE Ints nearest(Vector x) { return _mm512_cvtps_epi32(x); }
SCTNET_INLINE Vector as_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
SCTNET_INLINE Vector power_of_2(Ints x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(127)), 23));
}
SCTNET_INLINE Vector load_bytes(const uint8_t* from) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
SCTNET_INLINE Ints load_ints(const void* from) { return _mm512_loadu_si512(from); }
SCTNET_INLINE Ints int_everywhere(int32_t value) { return _mm512_set1_epi32(value); }
SCTNET_INLINE Vector upper_halves(Ints x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int32_t(0xffff0000u))));
}
SCTNET_INLINE Vector lower_halves(Ints x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }

#elif defined(__AVX2__)

using Vector = __m256;
using Ints = __m256i;
constexpr int64_t LANES = 8, ROWS = 6, VECTORS = 2;

SCTNET_INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
SCTNET_INLINE void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
SCTNET_INLINE Vector everywhere(float value) { return _mm256_set1_ps(value); }
SCTNET_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
SCTNET_INLINE Vector subtract_product(Vector c, Vector a, Vector b) { return _mm256_fnmadd_ps(a, b, c); }
SCTNET_INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
SCTNET_INLINE Vector where_positive(Vector x, Vector yes, Vector no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}
SCTNET_INLINE Ints nearest(Vector x) { return _mm256_cvtps_epi32(x); }
SCTNET_INLINE Vector as_floats(Ints x) { return _mm256_cvtepi32_ps(x); }
SCTNET_INLINE Vector power_of_2(Ints x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(127)), 23));
}
SCTNET_INLINE Vector load_bytes(const uint8_t* from) {
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
SCTNET_INLINE Ints load_ints(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
SCTNET_INLINE Ints int_everywhere(int32_t value) { return _mm256_set1_epi32(value); }
SCTNET_INLINE Vector upper_halves(Ints x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int32_t(0xffff0000u))));
}
SCTNET_INLINE Vector lower_halves(Ints x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }

#elif defined(__SSE2__)

using Vector = __m128;
using Ints = __m128i;
constexpr int64_t LANES = 4, ROWS = 6, VECTORS = 2;

SCTNET_INLINE Vector load(const float* from) { return _mm_loadu_ps(from); }
SCTNET_INLINE void store(float* to, Vector value) { _mm_storeu_ps(to, value); }
SCTNET_INLINE Vector everywhere(float value) { return _mm_set1_ps(value); }
SCTNET_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
SCTNET_INLINE Vector subtract_product(Vector c, Vector a, Vector b) { return _mm_sub_ps(c, _mm_mul_ps(a, b)); }
SCTNET_INLINE Vector larger(Vector a, Vector b) { return _mm_max_ps(a, b); }
SCTNET_INLINE Vector where_positive(Vector x, Vector yes, Vector no) {
    Vector mask = _mm_cmpgt_ps(x, _mm_setzero_ps());
    return _mm_or_ps(_mm_and_ps(mask, yes), _mm_andnot_ps(mask, no));
}
SCTNET_INLINE Ints nearest(Vector x) { return _mm_cvtps_epi32(x); }
SCTNET_INLINE Vector as_floats(Ints x) { return _mm_cvtepi32_ps(x); }
SCTNET_INLINE Vector power_of_2(Ints x) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(x, _mm_set1_epi32(127)), 23));
}
SCTNET_INLINE Vector load_bytes(const uint8_t* from) {
    int32_t four;
    std::memcpy(&four, from, 4);
    __m128i zero = _mm_setzero_si128();
    __m128i halves = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(halves, zero));
}
SCTNET_INLINE Ints load_ints(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
SCTNET_INLINE Ints int_everywhere(int32_t value) { return _mm_set1_epi32(value); }
SCTNET_INLINE Vector upper_halves(Ints x) {
    return _mm_castsi128_ps(_mm_and_si128(x, _mm_set1_epi32(int32_t(0xffff0000u))));
}
SCTNET_INLINE Vector lower_halves(Ints x) { return _mm_castsi128_ps(_mm_slli_epi32(x, 16)); }

#elif defined(__ARM_NEON) && defined(__aarch64__)

using Vector = float32x4_t;
using Ints = int32x4_t;
constexpr int64_t LANES = 4, ROWS = 12, VECTORS = 2;

SCTNET_INLINE Vector load(const float* from) { return vld1q_f32(from); }
SCTNET_INLINE void store(float* to, Vector value) { vst1q_f32(to, value); }
SCTNET_INLINE Vector everywhere(float value) { return vdupq_n_f32(value); }
SCTNET_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
SCTNET_INLINE Vector subtract_product(Vector c, Vector a, Vector b) { return vfmsq_f32(c, a, b); }
// As x86-64 has them: of two values, one of which is not a number, the second.
SCTNET_INLINE Vector larger(Vector a, Vector b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
SCTNET_INLINE Vector where_positive(Vector x, Vector yes, Vector no) {
    return vbslq_f32(vcgtq_f32(x, vdupq_n_f32(0)), yes, no);
}
SCTNET_INLINE Ints nearest(Vector x) { return vcvtnq_s32_f32(x); }
SCTNET_INLINE Vector as_floats(Ints x) { return vcvtq_f32_s32(x); }
SCTNET_INLINE Vector power_of_2(Ints x) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(x, vdupq_n_s32(127)), 23));
}
SCTNET_INLINE Vector load_bytes(const uint8_t* from) {
    uint32_t four;
    std::memcpy(&four, from, 4);
    uint16x8_t halves = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(halves)));
}
SCTNET_INLINE Ints load_ints(const void* from) { return vld1q_s32(static_cast<const int32_t*>(from)); }
SCTNET_INLINE Ints int_everywhere(int32_t value) { return vdupq_n_s32(value); }
SCTNET_INLINE Vector upper_halves(Ints x) {
    return vreinterpretq_f32_s32(vandq_s32(x, vdupq_n_s32(int32_t(0xffff0000u))));
}
SCTNET_INLINE Vector lower_halves(Ints x) { return vreinterpretq_f32_s32(vshlq_n_s32(x, 16)); }

#else
#error "no vectors of floats are known for this processor"
#endif

constexpr int64_t PANEL = LANES * VECTORS;

// Whether there is an instruction for pairs of short floats, and whether they are computed at all:
// with 256 bits by other instructions, so that tests see this code wherever they run.
#if defined(__AVX512BF16__)
constexpr bool MULTIPLIES_PAIRS = true, TAKES_PAIRS = true;
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool MULTIPLIES_PAIRS = false, TAKES_PAIRS = true;
#else
constexpr bool MULTIPLIES_PAIRS = false, TAKES_PAIRS = false;
#endif

SCTNET_INLINE Vector zeros() { return everywhere(0.0f); }

SCTNET_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SCTNET_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The first values of a vector; zeros stand for the others.
SCTNET_INLINE Vector load(const float* from, int64_t count) {
    if (count >= LANES) return load(from);
    float values[LANES] = {};
    for (int64_t k = 0; k < count; ++k) values[k] = from[k];
    return load(values);
}

SCTNET_INLINE void store(float* to, Vector value, int64_t count) {
    if (count >= LANES) return store(to, value);
    float values[LANES];
    store(values, value);
    for (int64_t k = 0; k < count; ++k) to[k] = values[k];
}

// LANES / 4 pixels of three channels, and of each a fourth one, which is 0; LANES values are read.
SCTNET_INLINE Vector with_fourth_channel(const float* from) {
#if defined(__AVX512F__)
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 9, 10, 11, 0);
    return _mm512_maskz_permutexvar_ps(0x7777, places, load(from));
#elif defined(__AVX2__)
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 0, 3, 4, 5, 0);
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(load(from), places), _mm256_setzero_ps(), 0x88);
#else
    float values[LANES] = {};
    for (int64_t k = 0; k < LANES; ++k) values[k] = k % 4 == 3 ? 0 : from[k / 4 * 3 + k % 4];
    return load(values);
#endif
}

// Rounded to the nearest, of two as near to the even one. What is not a number stays so.
SCTNET_INLINE Short shortened(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return Short{uint16_t(bits >> 16 | 0x40)};
    return Short{uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

SCTNET_INLINE void store(Short* to, Vector value, int64_t count = LANES) {
#if defined(__AVX512BF16__)
    if (count >= LANES) {
        __m256bh rounded = _mm512_cvtneps_pbh(value);
        std::memcpy(to, &rounded, sizeof rounded);
        return;
    }
#endif
    float values[LANES];
    store(values, value);
    for (int64_t k = 0; k < least(count, LANES); ++k) to[k] = shortened(values[k]);
}

// The sums of the products of pairs of short floats, and of `sum`.
SCTNET_INLINE Vector multiply_add_pairs(Ints a, Ints b, Vector sum) {
#if defined(__AVX512BF16__)
    __m512bh left, right;
    std::memcpy(&left, &a, sizeof left);
    std::memcpy(&right, &b, sizeof right);
    return _mm512_dpbf16_ps(sum, left, right);
#else
    sum = multiply_add(lower_halves(a), lower_halves(b), sum);
    return multiply_add(upper_halves(a), upper_halves(b), sum);
#endif
}

// e to the power of numbers that are not positive, within 2e-7: a power of 2, times the Taylor series
// of what is left, half a step at most. What is not a number gives the smallest.
SCTNET_INLINE Vector exponential(Vector x) {
    Vector power = larger(x * everywhere(1.4426950408889634f), everywhere(-126.0f));
    Ints whole = nearest(power);
    Vector rest = (power - as_floats(whole)) * everywhere(0.6931471805599453f);
    Vector series = multiply_add(everywhere(1.0f / 720), rest, everywhere(1.0f / 120));
    series = multiply_add(series, rest, everywhere(1.0f / 24));
    series = multiply_add(series, rest, everywhere(1.0f / 6));
    series = multiply_add(series, rest, everywhere(0.5f));
    series = multiply_add(series, rest, everywhere(1.0f));
    series = multiply_add(series, rest, everywhere(1.0f));
    return series * power_of_2(whole);
}

}  // namespace
