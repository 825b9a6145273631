// Reductions over a warp and over a thread block. Bitwise identical for any order of the warps.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <type_traits>

namespace dcam::cuda {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kMaxWarps = 32;

__device__ __forceinline__ int warp_sum(int value) {
#if defined(__CUDA_ARCH__)
    return __reduce_add_sync(kWarp, value);
#else
    for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kWarp, value, d);
    return value;
#endif
}

__device__ __forceinline__ int warp_min(int value) {
#if defined(__CUDA_ARCH__)
    return __reduce_min_sync(kWarp, value);
#else
    for (int d = 16; d > 0; d /= 2) value = min(value, __shfl_xor_sync(kWarp, value, d));
    return value;
#endif
}

// The sum over the lanes up to this one.
__device__ __forceinline__ int warp_scan(int value) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(kWarp, value, d);
        value += lane >= d ? below : 0;
    }
    return value;
}

// What can be reduced: a value, its neutral element and the reduction over a warp.
template <class T>
struct Sum {
    T value = 0;

    __device__ __forceinline__ void over_warp() {
        if constexpr (std::is_same_v<T, int>) {
            value = warp_sum(value);
        } else {
#pragma unroll
            for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kWarp, value, d);
        }
    }
};

struct Min {
    int value = INT_MAX;

    __device__ __forceinline__ void over_warp() { value = warp_min(value); }
};

struct Max {
    int value = INT_MIN;

    __device__ __forceinline__ void over_warp() { value = ~warp_min(~value); }
};

constexpr int kMaxParts = 6;

// Memory for one part of any type.
struct Slot {
    int64_t bits;

    template <class T>
    __device__ __forceinline__ T& as() {
        static_assert(sizeof(T) <= sizeof bits);
        return *reinterpret_cast<T*>(&bits);
    }
};

struct ReduceMemory {
    Slot partial[kMaxParts][kMaxWarps], total[kMaxParts];
};

// Called by the whole thread block. Reduces every part over it.
template <class... Parts>
__device__ __forceinline__ void reduce(ReduceMemory& memory, Parts&... parts) {
    static_assert(sizeof...(Parts) <= kMaxParts);
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    (parts.over_warp(), ...);
    int k = 0;
    if (lane == 0) ((memory.partial[k++][warp].template as<Parts>() = parts), ...);
    __syncthreads();
    if (warp == 0) {
        k = 0;
        ((parts = lane < warps ? memory.partial[k++][lane].template as<Parts>() : (++k, Parts{})), ...);
        (parts.over_warp(), ...);
        k = 0;
        if (lane == 0) ((memory.total[k++].template as<Parts>() = parts), ...);
    }
    __syncthreads();
    k = 0;
    ((parts = memory.total[k++].template as<Parts>()), ...);
}

}  // namespace dcam::cuda
