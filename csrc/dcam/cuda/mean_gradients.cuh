// Mean gradients of a target's cells, for the aggregations that use weights: sums of row ranges, then sums of these.
// Included by pool.cu only.
#pragma once

#include <algorithm>

#include "dcam/cuda/launch.h"
#include "dcam/cuda/load.cuh"
#include "dcam/pool.h"

namespace dcam::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxBlocks = INT32_MAX;  // thread blocks of one launch

// NaN and infinities reach the result: a negative infinity becomes NaN here, not 0.
__device__ __forceinline__ float relu(float x) { return x > 0 ? x : x * 0.0f; }

// The row of cell n, and whether it exists; row 0 if not.
__device__ __forceinline__ int64_t row_of(const PoolParams& p, int64_t n, bool& exists) {
    const int64_t row = p.cells ? p.cells[n] : n;
    exists = row >= 0 && row < p.rows;
    return exists ? row : 0;
}

int64_t weight_parts(const PoolParams& p) { return dcam::weight_parts(p.targets, p.count, p.channels); }

template <int V>
struct alignas(V < 4 ? sizeof(float) : 16) Sums {
    float value[V];
};

// partial [targets, parts, weight_stride]: sums over the cells of each part.
template <class T, int V, bool Positive>
__global__ void __launch_bounds__(kThreads)
    pool_partial_weights(const __grid_constant__ PoolParams p, float* partial, unsigned parts, int64_t cells_of_part,
                         int64_t stride) {
    constexpr int columns = kThreads * V;
    const auto blocks = static_cast<unsigned>((stride + columns - 1) / columns);
    const unsigned item = blockIdx.x / blocks, t = item / parts, part = item % parts;
    const int64_t d = int64_t{blockIdx.x % blocks} * columns + threadIdx.x * V;
    if (d >= stride) return;
    const auto* gradients =
        static_cast<const typename T::Stored*>(p.gradients) + int64_t{t} * p.gradient_target_stride + d;
    const int64_t begin = part * cells_of_part, end = min(begin + cells_of_part, p.count);
    float sum[V] = {};
    constexpr int ahead = 8;  // rows on their way at once
    for (int64_t n = begin; n < end && d < p.channels; n += ahead) {
        Vector<T, V> rows[ahead];
#pragma unroll
        for (int j = 0; j < ahead; ++j) {
            bool exists = false;
            const int64_t row = n + j < end ? row_of(p, n + j, exists) : 0;
            rows[j] = fetch_if<T, V>(exists, gradients + row * p.gradient_row_stride);
        }
#pragma unroll
        for (int j = 0; j < ahead; ++j)
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float g = rows[j].at(i);
                sum[i] += Positive ? relu(g) : g;
            }
    }
    Sums<V> whole;
#pragma unroll
    for (int i = 0; i < V; ++i) whole.value[i] = sum[i];
    *reinterpret_cast<Sums<V>*>(partial + int64_t{item} * stride + d) = whole;
}

__global__ void __launch_bounds__(kThreads) pool_weights_of_parts(const float* partial, float* weights, int64_t count,
                                                                  int64_t parts, int64_t stride, float share) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= count) return;
    const float* from = partial + i / stride * parts * stride + i % stride;
    float sum = 0;
#pragma unroll 8
    for (int64_t part = 0; part < parts; ++part) sum += from[part * stride];
    weights[i] = sum * share;
}

template <class T, int V>
cudaError_t launch_weights(const PoolParams& p, float* partial, cudaStream_t stream) {
    const int64_t parts = weight_parts(p), stride = weight_stride(p.channels), count = p.targets * stride;
    const int64_t blocks = p.targets * parts * ((stride + kThreads * V - 1) / (kThreads * V));
    if (blocks > kMaxBlocks) return cudaErrorInvalidValue;
    const auto kernel =
        p.aggregation == Aggregation::pooled ? pool_partial_weights<T, V, true> : pool_partial_weights<T, V, false>;
    const cudaError_t error = launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, p, partial,
                                     static_cast<unsigned>(parts), (p.count + parts - 1) / parts, stride);
    if (error != cudaSuccess) return error;
    return launch(pool_weights_of_parts, dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads),
                  0, stream, static_cast<const float*>(partial), p.weights, count, parts, stride,
                  1 / static_cast<float>(p.count));
}

}  // namespace
}  // namespace dcam::cuda
