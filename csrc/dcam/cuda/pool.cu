// Gradient-weighted pooling. A raw value is a row's sum of products, in one of two forms: a thread block per cell and a
// few targets (`pool_rows`, one pass over the gradients, the activations from L2 after the first), or, where targets
// share both their activations and a form linear in weights, a thread block per tile of cells and targets
// (`pool_product`). Every sum has one writer and one order.
#include <algorithm>

#include "dcam/cuda/launch.h"
#include "dcam/cuda/load.cuh"
#include "dcam/cuda/mean_gradients.cuh"
#include "dcam/cuda/pool.h"
#include "dcam/cuda/reduce.cuh"
#include "dcam/cuda/select.cuh"
#include "dcam/math.h"

namespace dcam::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kNormalizeThreads = 512;
constexpr int kRowTargets = 4;  // of one thread block of `pool_rows`
// of one thread block of `pool_product`
constexpr int kTileCells = 8, kTileTargets = 8, kTile = kTileCells * kTileTargets;
constexpr int kTileVector = 4;

// What a channel adds, from an activation and its gradient or weight; whether the sum is averaged or clipped at 0.
struct Elementwise {  // and grad_cam_paper, with the weight as gradient
    static constexpr bool mean = true;
    static __device__ __forceinline__ float of(float a) { return a; }
    static __device__ __forceinline__ float add(float sum, float a, float g) { return sum + relu(a * g); }
};

struct Pooled {  // the weight is >= 0, or NaN
    static constexpr bool mean = true;
    static __device__ __forceinline__ float of(float a) { return relu(a); }
    static __device__ __forceinline__ float add(float sum, float a, float w) { return fmaf(a, w, sum); }
};

struct LayerCam {
    static constexpr bool mean = true;
    static __device__ __forceinline__ float of(float a) { return relu(a); }
    static __device__ __forceinline__ float add(float sum, float a, float g) { return fmaf(a, relu(g), sum); }
};

struct HiResCam {  // and grad_cam, with the weight as gradient
    static constexpr bool mean = false;
    static __device__ __forceinline__ float of(float a) { return a; }
    static __device__ __forceinline__ float add(float sum, float a, float g) { return fmaf(a, g, sum); }
};

struct Activation {  // the gradient is not used
    static constexpr bool mean = true;
    static __device__ __forceinline__ float of(float a) { return relu(a); }
    static __device__ __forceinline__ float add(float sum, float a, float) { return sum + a; }
};

template <class Rule>
__device__ __forceinline__ float raw_value(float sum, int64_t channels, bool exists) {
    const float value = Rule::mean ? sum / static_cast<float>(channels) : relu(sum);
    return exists ? value : from_bits(0x7fc00000);  // NaN
}

// ---------------------------------------------------------------------------------------------------------- raw values

// What is multiplied with the activations: gradients, or weights with no stride from row to row.
struct Second {
    const void* data;
    int64_t target_stride, row_stride;
};

template <class Rule, class TA, class TG, int V, int Targets>
__global__ void __launch_bounds__(kThreads) pool_rows(const __grid_constant__ PoolParams p, const Second second) {
    __shared__ ReduceMemory memory;
    const auto tiles = static_cast<unsigned>((p.targets + Targets - 1) / Targets);
    const int64_t n = blockIdx.x / tiles, first = int64_t{blockIdx.x % tiles} * Targets;
    bool exists;
    const int64_t row = row_of(p, n, exists);
    // the first target's; of several, all share it
    const auto* a_row = static_cast<const typename TA::Stored*>(p.activations) + first * p.activation_target_stride +
                        row * p.activation_row_stride;
    const typename TG::Stored* g_rows[Targets];
#pragma unroll
    for (int k = 0; k < Targets; ++k) {
        const int64_t t = min(first + k, p.targets - 1);  // one past the last repeats the last
        g_rows[k] =
            static_cast<const typename TG::Stored*>(second.data) + t * second.target_stride + row * second.row_stride;
    }
    Sum<float> sums[Targets];
    const auto add = [&](float activation, auto gradient) {
        const float a = Rule::of(activation);
#pragma unroll
        for (int k = 0; k < Targets; ++k) sums[k].value = Rule::add(sums[k].value, a, gradient(k));
    };
    const int64_t whole = p.channels / V * V;
    constexpr int ahead = Targets == 1 ? 4 : 2;  // vectors of a row on their way at once
    for (int64_t begin = int64_t{threadIdx.x} * V; begin < whole; begin += ahead * kThreads * V) {
        Vector<TA, V> a[ahead];
        Vector<TG, V> g[ahead][Targets];
#pragma unroll
        for (int j = 0; j < ahead; ++j) {
            const int64_t d = begin + j * kThreads * V;
            a[j] = fetch_if<TA, V>(d < whole, a_row + (d < whole ? d : begin));
#pragma unroll
            for (int k = 0; k < Targets; ++k) g[j][k] = fetch_if<TG, V>(d < whole, g_rows[k] + (d < whole ? d : begin));
        }
#pragma unroll
        for (int j = 0; j < ahead; ++j)
#pragma unroll
            for (int i = 0; i < V; ++i) add(a[j].at(i), [&](int k) { return g[j][k].at(i); });
    }
    if (V > 1 && whole + threadIdx.x < p.channels) {
        const int64_t d = whole + threadIdx.x;
        add(TA::widen(a_row[d]), [&](int k) { return TG::widen(g_rows[k][d]); });
    }
    if constexpr (Targets == 1)
        reduce(memory, sums[0]);
    else
        reduce(memory, sums[0], sums[1], sums[2], sums[3]);
#pragma unroll
    for (int k = 0; k < Targets; ++k)
        if (threadIdx.x == k && first + k < p.targets)
            p.out[(first + k) * p.count + n] = raw_value<Rule>(sums[k].value, p.channels, exists);
}

// Of 2 Half values, lanes whose number has the bit keep the upper half, the others the lower; each adds its
// neighbor's.
template <int Half, int Bit, int Size>
__device__ __forceinline__ void share_out(float (&value)[Size]) {
    const bool upper = threadIdx.x & Bit;
#pragma unroll
    for (int i = 0; i < Half; ++i) {
        const float kept = upper ? value[i + Half] : value[i], other = upper ? value[i] : value[i + Half];
        value[i] = kept + __shfl_xor_sync(kWarp, other, Bit);
    }
}

// Targets share the activations, which are read once for kTileTargets of them.
template <class Rule, class T, int V>
__global__ void __launch_bounds__(kThreads) pool_product(const __grid_constant__ PoolParams p, int64_t stride) {
    __shared__ float partial[kWarps][kTile];
    const auto tiles = static_cast<unsigned>((p.targets + kTileTargets - 1) / kTileTargets);
    const int64_t first_cell = int64_t{blockIdx.x / tiles} * kTileCells;
    const int64_t first_target = int64_t{blockIdx.x % tiles} * kTileTargets;
    const typename T::Stored* rows[kTileCells];
#pragma unroll
    for (int c = 0; c < kTileCells; ++c) {
        bool exists;
        rows[c] = static_cast<const typename T::Stored*>(p.activations) +
                  row_of(p, min(first_cell + c, p.count - 1), exists) * p.activation_row_stride;
    }
    const float* weights = p.weights + first_target * stride;
    float sum[kTile] = {};
    for (int64_t d = int64_t{threadIdx.x} * V; d < p.channels; d += kThreads * V) {
        float a[kTileCells][V];
#pragma unroll
        for (int c = 0; c < kTileCells; ++c) {
            const auto stored = fetch<T, V>(rows[c] + d);
#pragma unroll
            for (int i = 0; i < V; ++i) a[c][i] = Rule::of(stored.at(i));
        }
#pragma unroll
        for (int k = 0; k < kTileTargets; ++k) {
            const auto w = fetch<Float32, V>(weights + min(int64_t{k}, p.targets - 1 - first_target) * stride + d);
#pragma unroll
            for (int c = 0; c < kTileCells; ++c)
#pragma unroll
                for (int i = 0; i < V; ++i)
                    sum[c * kTileTargets + k] = Rule::add(sum[c * kTileTargets + k], a[c][i], w.at(i));
        }
    }
    share_out<32, 16>(sum);
    share_out<16, 8>(sum);
    share_out<8, 4>(sum);
    share_out<4, 2>(sum);
    share_out<2, 1>(sum);
    // this lane's two: the bits of its number, from the highest, chose the half each time
    const int lane = threadIdx.x & 31;
    partial[threadIdx.x / 32][2 * lane] = sum[0];
    partial[threadIdx.x / 32][2 * lane + 1] = sum[1];
    __syncthreads();
    if (threadIdx.x >= kTile) return;
    const int64_t n = first_cell + threadIdx.x / kTileTargets, t = first_target + threadIdx.x % kTileTargets;
    if (n >= p.count || t >= p.targets) return;
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) total += partial[warp][threadIdx.x];
    bool exists;
    row_of(p, n, exists);
    p.out[t * p.count + n] = raw_value<Rule>(total, p.channels, exists);
}

template <class Rule, class TA, class TG, int V>
cudaError_t launch_rows(const PoolParams& p, const Second& second, cudaStream_t stream) {
    // targets with separate activations share nothing
    const bool several = V > 1 && p.targets > 1 && p.activation_target_stride == 0;
    const int64_t tiles = several ? (p.targets + kRowTargets - 1) / kRowTargets : p.targets;
    if (p.count > kMaxBlocks / tiles) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(p.count * tiles));
    if constexpr (V > 1)
        if (several) return launch(pool_rows<Rule, TA, TG, V, kRowTargets>, grid, dim3(kThreads), 0, stream, p, second);
    return launch(pool_rows<Rule, TA, TG, V, 1>, grid, dim3(kThreads), 0, stream, p, second);
}

template <class Rule, class T, int V>
cudaError_t launch_weighted(const PoolParams& p, cudaStream_t stream) {
    if (p.targets <= kRowTargets || p.activation_target_stride != 0)
        return launch_rows<Rule, T, Float32, V>(p, {p.weights, weight_stride(p.channels), 0}, stream);
    const int64_t cells = (p.count + kTileCells - 1) / kTileCells,
                  tiles = (p.targets + kTileTargets - 1) / kTileTargets;
    if (cells > kMaxBlocks / tiles) return cudaErrorInvalidValue;
    const auto kernel =
        V > 1 && p.channels % kTileVector == 0 ? pool_product<Rule, T, kTileVector> : pool_product<Rule, T, 1>;
    return launch(kernel, dim3(static_cast<unsigned>(cells * tiles)), dim3(kThreads), 0, stream, p,
                  weight_stride(p.channels));
}

template <class T, int V>
cudaError_t launch_layer(const PoolParams& p, float* partial, cudaStream_t stream) {
    const Second gradients{p.gradients, p.gradient_target_stride, p.gradient_row_stride};
    if (uses_weights(p.aggregation)) {
        // a last vector that is not whole would be read beyond its row
        const cudaError_t error =
            p.channels % V == 0 ? launch_weights<T, V>(p, partial, stream) : launch_weights<T, 1>(p, partial, stream);
        if (error != cudaSuccess) return error;
    }
    switch (p.aggregation) {
        case Aggregation::elementwise:
            return launch_rows<Elementwise, T, T, V>(p, gradients, stream);
        case Aggregation::layer_cam:
            return launch_rows<LayerCam, T, T, V>(p, gradients, stream);
        case Aggregation::hires_cam:
            return launch_rows<HiResCam, T, T, V>(p, gradients, stream);
        case Aggregation::activation:
            return launch_rows<Activation, T, T, V>(
                p, {p.activations, p.activation_target_stride, p.activation_row_stride}, stream);
        case Aggregation::grad_cam:
            return launch_weighted<HiResCam, T, V>(p, stream);
        case Aggregation::pooled:
            return launch_weighted<Pooled, T, V>(p, stream);
        case Aggregation::grad_cam_paper:
            return launch_weighted<Elementwise, T, V>(p, stream);
    }
    return cudaErrorInvalidValue;
}

template <class T>
cudaError_t launch_layer_of(const PoolParams& p, float* partial, cudaStream_t stream) {
    constexpr int V = 16 / sizeof(typename T::Stored);
    const auto starts = reinterpret_cast<uintptr_t>(p.activations) | reinterpret_cast<uintptr_t>(p.gradients);
    const int64_t strides =
        p.activation_target_stride | p.activation_row_stride | p.gradient_target_stride | p.gradient_row_stride;
    return starts % 16 == 0 && strides % V == 0 ? launch_layer<T, V>(p, partial, stream)
                                                : launch_layer<T, 1>(p, partial, stream);
}

// The maps of several layers, as many floats as keep what follows them aligned.
int64_t layer_maps(const PoolParams* layers, int64_t count) {
    return count > 1 ? (count * layers->targets * layers->count + 3) / 4 * 4 : 0;
}

// ----------------------------------------------------------------------------------------------------------- normalize

struct Range {
    float low, span;
    bool finite;
};

__device__ __forceinline__ Range range_of(ReduceMemory& memory, const float* map, int64_t count) {
    Min lowest;
    Max highest;
    Sum<int> bad;
    for (int64_t n = threadIdx.x; n < count; n += kNormalizeThreads) {
        const float value = map[n];
        lowest.value = min(lowest.value, ordered(value));
        highest.value = max(highest.value, ordered(value));
        bad.value += !(value * 0.0f == 0.0f);
    }
    reduce(memory, lowest, highest, bad);
    const float low = from_ordered(lowest.value), high = from_ordered(highest.value);
    return {low, high - low + 1e-8f, bad.value == 0};
}

// out [targets, count], the mean of raw [layers, targets, count] (`out` itself for one layer).
__global__ void __launch_bounds__(kNormalizeThreads)
    pool_normalize(const float* raw, float* out, int32_t* flags, int64_t layers, int64_t targets, int64_t count) {
    __shared__ ReduceMemory memory;
    const int64_t t = blockIdx.x;
    float* map = out + t * count;
    bool finite = true;
    for (int64_t b = 0; b < layers; ++b) {
        const float* from = raw + (b * targets + t) * count;
        const Range range = range_of(memory, from, count);
        finite = finite && range.finite;
        // what a thread reads of `map` it wrote itself
        for (int64_t n = threadIdx.x; n < count; n += kNormalizeThreads) {
            const float value = finite ? (from[n] - range.low) / range.span : 0;
            if (layers == 1)
                map[n] = value;
            else
                map[n] = (b == 0 ? 0 : map[n]) + value / static_cast<float>(layers);
        }
    }
    if (layers > 1) {
        const Range range = range_of(memory, map, count);
        for (int64_t n = threadIdx.x; n < count; n += kNormalizeThreads)
            map[n] = finite ? (map[n] - range.low) / range.span : 0;
    }
    if (threadIdx.x == 0 && flags) flags[t] = !finite;
}

}  // namespace

int64_t pool_workspace(const PoolParams* layers, int64_t count) {
    int64_t weights = 0;
    for (int64_t b = 0; b < count; ++b)
        if (uses_weights(layers[b].aggregation))
            weights = std::max(weights,
                               layers[b].targets * weight_stride(layers[b].channels) * (1 + weight_parts(layers[b])));
    return weights + layer_maps(layers, count);
}

cudaError_t pool(const PoolParams* layers, int64_t count, float* workspace, int32_t* flags, cudaStream_t stream) {
    const PoolParams& first = *layers;
    const int64_t size = first.targets * first.count;
    if (size == 0) return cudaSuccess;
    float* maps = count > 1 ? workspace : first.out;
    float* weights = workspace + layer_maps(layers, count);
    for (int64_t b = 0; b < count; ++b) {
        PoolParams p = layers[b];
        p.out = maps + b * size;
        p.weights = weights;
        float* partial = weights + p.targets * weight_stride(p.channels);
        const cudaError_t error = p.dtype == Dtype::float32    ? launch_layer_of<Float32>(p, partial, stream)
                                  : p.dtype == Dtype::bfloat16 ? launch_layer_of<BFloat16>(p, partial, stream)
                                                               : launch_layer_of<Float16>(p, partial, stream);
        if (error != cudaSuccess) return error;
    }
    return launch(pool_normalize, dim3(static_cast<unsigned>(first.targets)), dim3(kNormalizeThreads), 0, stream,
                  static_cast<const float*>(maps), first.out, flags, count, first.targets, first.count);
}

}  // namespace dcam::cuda
