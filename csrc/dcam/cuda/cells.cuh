// How the threads of a thread block divide the cells of a map.
#pragma once

#include "dcam/cuda/reduce.cuh"
#include "dcam/math.h"

namespace dcam::cuda {

// Threads that hold a map's cells, as evenly as possible. Depends on its size alone, so that a batch changes no sum.
DCAM_HD int threads_for(int64_t cells, int most) {
    const int64_t rounds = (cells + most - 1) / most;
    const int64_t threads = ((cells + rounds - 1) / rounds + 31) / 32 * 32;
    return threads < 64 ? 64 : static_cast<int>(threads);
}

// The cells of this thread and their current values: in registers for up to C cells; C = 0: in shared memory, any
// number.
template <int C>
struct Cells {
    int first, step, count;
    float values[C];

    template <class Body>
    __device__ __forceinline__ void each(Body body) {
#pragma unroll
        for (int c = 0; c < C; ++c)
            if (first + c * step < count) body(values[c], first + c * step);
    }
    __device__ __forceinline__ void hold(float* map) {
        each([&](float& z, int i) { z = map[i]; });
    }
};

template <>
struct Cells<0> {
    int first, step, count;
    float* values;

    template <class Body>
    __device__ __forceinline__ void each(Body body) {
        for (int i = first; i < count; i += step) body(values[i], i);
    }
    __device__ __forceinline__ void hold(float* map) { values = map; }
};

// Where values are met, but not those that a thread holds: nothing is gained by writing the loop out.
template <int C, class Body>
__device__ __forceinline__ void one_by_one(const Cells<C>& cells, Body body) {
#pragma unroll 1
    for (int i = cells.first; i < cells.count; i += cells.step) body(i);
}

struct View {
    int height, width, cells;
};

// Mean and population standard deviation from sums of the values less `shift`, in float64: in one pass.
struct Moments {
    Sum<double> sum, squares;

    __device__ __forceinline__ void add(float value, float shift) {
        const double from = static_cast<double>(value) - static_cast<double>(shift);
        sum.value += from;
        squares.value += from * from;
    }
    __device__ __forceinline__ double mean(int count, float shift) const { return shift + sum.value / count; }
    __device__ __forceinline__ double std(int count) const {
        const double mean = sum.value / count, variance = squares.value / count - mean * mean;
        return variance > 0 ? sqrt(variance) : 0;
    }
};

}  // namespace dcam::cuda
