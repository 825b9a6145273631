// Vectors of floats for one instruction set. Included by kernels.h only, with DCAM_ISA naming the namespace: the same
// source is compiled once per instruction set, and nothing in it may be visible outside that namespace.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "dcam/math.h"

namespace dcam::DCAM_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef float vf_anywhere __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi_anywhere __attribute__((vector_size(4 * W), aligned(2), may_alias));
typedef uint16_t vh_anywhere __attribute__((vector_size(2 * W), aligned(2), may_alias));

DCAM_HD vf load(const float* p) { return *reinterpret_cast<const vf_anywhere*>(p); }
DCAM_HD void store(float* p, vf v) { *reinterpret_cast<vf_anywhere*>(p) = v; }
DCAM_HD vf fill(float x) { return x - vf{}; }

// The storage types. `widen` reads 2 W elements, in an order that depends on the type alone: operands of elementwise
// operations must be widened by the same one.
struct Float32 {
    using Stored = float;
    static DCAM_HD void widen(const Stored* p, vf& a, vf& b) {
        a = load(p);
        b = load(p + W);
    }
};

struct BFloat16 {
    using Stored = uint16_t;
    // Two neighbors share 32 bits: a shift gives the one and a mask the other, and nothing has to be spread out.
    static DCAM_HD void widen(const Stored* p, vf& a, vf& b) {
        const vi both = *reinterpret_cast<const vi_anywhere*>(p);
        a = reinterpret_cast<vf>(both << 16);
        b = reinterpret_cast<vf>(both & static_cast<int32_t>(0xffff0000));
    }
};

struct Float16 {
    using Stored = uint16_t;
    static DCAM_HD void widen(const Stored* p, vf& a, vf& b) {
        a = widen_half(p);
        b = widen_half(p + W);
    }
    static DCAM_HD vf widen_half(const Stored* p) {
#if defined(__AVX512F__)
        return reinterpret_cast<vf>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
        return reinterpret_cast<vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
        // Shifted into place, a half is a float with its exponent 112 too low, subnormals included; its largest
        // exponent stands for Inf and NaN.
        const vi half = __builtin_convertvector(*reinterpret_cast<const vh_anywhere*>(p), vi);
        const vi magnitude = half & 0x7fff;
        const vf scaled = reinterpret_cast<vf>(magnitude << 13) * 0x1p112f;
        const vi special = (magnitude >= 0x7c00) & 0x7f800000;
        return reinterpret_cast<vf>(reinterpret_cast<vi>(scaled) | special | ((half & 0x8000) << 16));
#endif
    }
};

// The lanes that math.h computes on.
struct Lanes {
    using V = vf;
    static constexpr int kWrittenOut = 49;  // the larger networks would only be code

    static DCAM_HD vf min(vf a, vf b) { return a < b ? a : b; }
    static DCAM_HD vf max(vf a, vf b) { return a > b ? a : b; }
    // the compiler would make a comparison and a masked move of max(v, 0)
    static DCAM_HD vf relu(vf v) {
#if defined(__AVX512F__)
        return reinterpret_cast<vf>(_mm512_max_ps(reinterpret_cast<__m512>(v), _mm512_setzero_ps()));
#else
        return max(v, vf{});
#endif
    }
    static DCAM_HD vf fma(vf a, vf b, vf c) { return a * b + c; }
    static DCAM_HD vf select_positive(vf condition, vf value) { return condition > 0 ? value : vf{}; }

    static DCAM_HD bool all_below(vf v, float bound) {
        const vi reached = v >= bound;
        int32_t any = 0;
        for (int i = 0; i < W; ++i) any |= reached[i];
        return any == 0;
    }

    // e^x for x <= 0, to 2 roundings; what is under e^-87 is e^-87, so that no subnormal slows a sum down.
    static DCAM_HD vf exp_negative(vf x) {
        x = max(x, fill(-87.0f));
        const vf shifted = x * 1.44269504f + 12582912.0f;  // the integer lands in the lowest bits
        const vf whole = shifted - 12582912.0f;
        const vf rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
        vf p = fill(1.3888889e-3f);
        p = p * rest + 8.3333333e-3f;
        p = p * rest + 4.1666667e-2f;
        p = p * rest + 1.6666667e-1f;
        p = p * rest + 0.5f;
        p = p * rest + 1.0f;
        p = p * rest + 1.0f;
        return reinterpret_cast<vf>(reinterpret_cast<vi>(p) + (reinterpret_cast<vi>(shifted) << 23));
    }
};

}  // namespace dcam::DCAM_ISA
