// Activations and gradients as floats, 16 bytes a load where their rows allow it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace dcam::cuda {

__device__ __forceinline__ float from_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

struct Float32 {
    using Stored = float;
    static __device__ __forceinline__ float widen(float value) { return value; }
};

struct BFloat16 {
    using Stored = uint16_t;
    static __device__ __forceinline__ float widen(uint16_t bits) { return from_bits(uint32_t{bits} << 16); }
};

struct Float16 {
    using Stored = uint16_t;
    static __device__ __forceinline__ float widen(uint16_t bits) {
#ifdef __CUDACC__
        return __half2float(__ushort_as_half(bits));
#else
        const uint32_t sign = uint32_t{bits & 0x8000u} << 16, rest = bits & 0x7fffu;
        constexpr float subnormal = 1.0f / (1 << 24);
        if (rest < 0x400) return from_bits(sign) + (sign ? -subnormal : subnormal) * static_cast<float>(rest);
        return from_bits(sign | (rest < 0x7c00 ? (rest << 13) + (112u << 23) : 0x7f800000u | rest << 13));
#endif
    }
};

// V neighbors as they are stored, so that many loads are in flight before the first is used.
template <class T, int V>
struct Vector {
    static constexpr int bytes = V * static_cast<int>(sizeof(typename T::Stored));
    using Word = std::conditional_t<bytes % 4 == 0, uint32_t, uint16_t>;
    static constexpr int words = bytes / static_cast<int>(sizeof(Word));

    alignas(bytes < 16 ? bytes : 16) Word word[words];

    __device__ __forceinline__ float at(int i) const {
        if constexpr (sizeof(typename T::Stored) == 4)
            return from_bits(word[i]);
        else if constexpr (V == 1)
            return T::widen(word[i]);
        else
            return T::widen(static_cast<uint16_t>(word[i / 2] >> 16 * (i % 2)));
    }
};

template <class T, int V>
__device__ __forceinline__ Vector<T, V> fetch(const typename T::Stored* from) {
    return *reinterpret_cast<const Vector<T, V>*>(from);
}

// Zeros where it is not `exists`. It is read in either case, because a branch would wait for the loads before it.
template <class T, int V>
__device__ __forceinline__ Vector<T, V> fetch_if(bool exists, const typename T::Stored* from) {
    auto vector = fetch<T, V>(from);
#pragma unroll
    for (int i = 0; i < Vector<T, V>::words; ++i) vector.word[i] = exists ? vector.word[i] : 0;
    return vector;
}

}  // namespace dcam::cuda
