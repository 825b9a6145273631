// Windows of a map, one cell per thread: borders are reflected where the map is read, nothing is padded.
#pragma once

#include <cuda_runtime.h>

#include "dcam/modules.h"

namespace dcam::cuda {

// The lane that math.h computes on.
struct Lane {
    using V = float;
    static constexpr int kWrittenOut = 121;  // an array that a loop indexes would lie in memory

    static __device__ __forceinline__ float min(float a, float b) { return fminf(a, b); }
    static __device__ __forceinline__ float max(float a, float b) { return fmaxf(a, b); }
    static __device__ __forceinline__ float fma(float a, float b, float c) { return fmaf(a, b, c); }
    static __device__ __forceinline__ float select_positive(float condition, float value) {
        return condition > 0 ? value : 0;
    }
    static __device__ __forceinline__ bool all_below(float v, float bound) { return v < bound; }
    // NaN, of 0 / 0 in a window of zeros, counts as -87, as on the CPU.
    static __device__ __forceinline__ float exp_negative(float x) { return exp2f(fmaxf(x, -87.0f) * 1.44269504f); }
};

__device__ __forceinline__ int reflect(int index, int size) {
    const int once = index < 0 ? -index : index >= size ? 2 * (size - 1) - index : index;
    // more than one reflection: a window wider than the map
    return once >= 0 && once < size ? once : fold(index, size);
}

template <int Side>
__device__ __forceinline__ float rank_at(const float* map, int y, int x, int height, int width) {
    constexpr int radius = Side / 2;
    float window[Side * Side];
    int columns[Side];
#pragma unroll
    for (int j = 0; j < Side; ++j) columns[j] = reflect(x + j - radius, width);
#pragma unroll
    for (int i = 0; i < Side; ++i) {
        const float* row = map + reflect(y + i - radius, height) * width;
#pragma unroll
        for (int j = 0; j < Side; ++j) window[i * Side + j] = row[columns[j]];
    }
    return rank_mean<Lane, Side * Side>(window);
}

// One direction of a Gaussian: `line` is the first cell of the column or row, `step` leads to the next.
__device__ __forceinline__ float smooth_at(const float* line, int at, int size, int step, const Taps& taps) {
    float sum = line[at * step] * taps.weight[0];
    for (int d = 1; d <= taps.radius; ++d)
        sum = fmaf(line[reflect(at - d, size) * step] + line[reflect(at + d, size) * step], taps.weight[d], sum);
    return sum;
}

}  // namespace dcam::cuda
