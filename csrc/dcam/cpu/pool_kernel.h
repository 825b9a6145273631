// Pooling of gathered rows. Products keep a second sum, 0 * product: it is 0, or NaN once an input is not finite.
#pragma once

#include <type_traits>

#include "dcam/cpu/simd.h"
#include "dcam/pool.h"

namespace dcam::DCAM_ISA {

DCAM_HD float sum_lanes(vf v) {
    float sum = 0;
    for (int i = 0; i < W; ++i) sum += v[i];
    return sum;
}

// `widen` for the last `count` < 2 W elements, the rest 0.
template <class T>
DCAM_HD void widen_tail(const typename T::Stored* p, int64_t count, vf& a, vf& b) {
    typename T::Stored buffer[2 * W] = {};
    std::memcpy(buffer, p, count * sizeof *p);
    T::widen(buffer, a, b);
}

// Mean gradients, in the order of the gradients' `widen` and padded to whole vectors.
struct Weights : Float32 {};

template <>
DCAM_HD void widen_tail<Weights>(const float* p, int64_t, vf& a, vf& b) {
    Weights::widen(p, a, b);
}

// One aggregation: what a channel adds, from an activation and its gradient or weight; and what becomes of the sum.
struct Elementwise {  // and grad_cam_paper, with the weight as gradient
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf& nan_probe) {
        const vf product = a * g;
        sum += Lanes::relu(product);
        nan_probe += product * 0.0f;
    }
};

struct Pooled {  // the gradient is a weight >= 0, or NaN
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf w, vf& sum, vf& nan_probe) {
        sum = Lanes::fma(Lanes::relu(a), w, sum);
        nan_probe += a * 0.0f;
    }
};

struct LayerCam {
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf& nan_probe) {
        sum += Lanes::relu(a) * Lanes::relu(g);
        nan_probe += a * g * 0.0f;
    }
};

struct HiResCam {  // and grad_cam, with the weight as gradient
    static constexpr bool mean = false;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf&) { sum = Lanes::fma(a, g, sum); }
};

struct Activation {  // the gradient is not read
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf, vf& sum, vf& nan_probe) {
        sum += Lanes::relu(a);
        nan_probe += a * 0.0f;
    }
};

// Gathered rows are too short for a hardware prefetcher, so the next one is prefetched here.
template <int64_t Count, class Stored>
DCAM_HD void prefetch(const Stored* p) {
    constexpr int64_t line = 64 / sizeof *p;
    for (int64_t i = 0; i < Count; i += line) __builtin_prefetch(p + i, 0, 2);
}

// `next` is the row to prefetch.
template <class Rule, class TA, class TG>
DCAM_HD float pool_row(const typename TA::Stored* a, const typename TG::Stored* g, const typename TA::Stored* next,
                       int64_t channels) {
    constexpr int unroll = 2;  // pairs of sums that do not wait for each other
    constexpr int64_t step = unroll * 2 * W;
    vf sum[2 * unroll] = {}, nan_probe[2 * unroll] = {}, x[2], y[2];
    int64_t d = 0;
    for (; d + step <= channels; d += step) {
        prefetch<step>(next + d);
        for (int i = 0; i < unroll; ++i) {
            TA::widen(a + d + i * 2 * W, x[0], x[1]);
            TG::widen(g + d + i * 2 * W, y[0], y[1]);
            for (int j = 0; j < 2; ++j) Rule::add(x[j], y[j], sum[2 * i + j], nan_probe[2 * i + j]);
        }
    }
    for (; d < channels; d += 2 * W) {
        const int64_t left = channels - d;
        if (left >= 2 * W) {
            TA::widen(a + d, x[0], x[1]);
            TG::widen(g + d, y[0], y[1]);
        } else {
            widen_tail<TA>(a + d, left, x[0], x[1]);
            widen_tail<TG>(g + d, left, y[0], y[1]);
        }
        for (int j = 0; j < 2; ++j) Rule::add(x[j], y[j], sum[j], nan_probe[j]);
    }
    const float total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    const float check = total * 0.0f + sum_lanes((nan_probe[0] + nan_probe[1]) + (nan_probe[2] + nan_probe[3]));
    const float value = Rule::mean ? total / static_cast<float>(channels) : total;
    return (value > 0 ? value : 0) + check;
}

template <class Rule, class TA, class TG>
static void pool_rows(const PoolParams& p, const void* second, int64_t target_stride, int64_t row_stride, int64_t begin,
                      int64_t end) {
    const auto* activations = static_cast<const typename TA::Stored*>(p.activations);
    const auto* gradients = static_cast<const typename TG::Stored*>(second);
    const auto row_of = [&p](int64_t n) { return p.cells ? p.cells[n] : n; };
    for (int64_t n = begin; n < end; ++n) {
        const int64_t row = row_of(n), next_row = row_of(n + 1 < end ? n + 1 : n);
        // what all targets share of a cell stays in the nearest cache while they read it
        for (int64_t t = 0; t < p.targets; ++t) {
            const auto* a = activations + t * p.activation_target_stride + row * p.activation_row_stride;
            const auto* g = gradients + t * target_stride + row * row_stride;
            const typename TA::Stored* next;
            if constexpr (std::is_same_v<TG, Weights>)
                next = activations + next_row * p.activation_row_stride;
            else
                next = t + 1 < p.targets ? g + target_stride : gradients + next_row * row_stride;
            p.out[t * p.count + n] = pool_row<Rule, TA, TG>(a, g, next, p.channels);
        }
    }
}

template <class T>
static void pool_cells_of(const PoolParams& p, int64_t begin, int64_t end) {
    const auto by_gradient = [&](auto rule) __attribute__((always_inline)) {
        pool_rows<decltype(rule), T, T>(p, p.gradients, p.gradient_target_stride, p.gradient_row_stride, begin, end);
    };
    const auto by_weight = [&](auto rule) __attribute__((always_inline)) {
        pool_rows<decltype(rule), T, Weights>(p, p.weights, weight_stride(p.channels), 0, begin, end);
    };
    switch (p.aggregation) {
        case Aggregation::elementwise:
            return by_gradient(Elementwise{});
        case Aggregation::layer_cam:
            return by_gradient(LayerCam{});
        case Aggregation::hires_cam:
            return by_gradient(HiResCam{});
        case Aggregation::activation:
            return pool_rows<Activation, T, T>(p, p.activations, p.activation_target_stride, p.activation_row_stride,
                                               begin, end);
        case Aggregation::grad_cam:
            return by_weight(HiResCam{});
        case Aggregation::pooled:
            return by_weight(Pooled{});
        case Aggregation::grad_cam_paper:
            return by_weight(Elementwise{});
    }
}

static void pool_cells(const PoolParams& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
        case Dtype::float32:
            return pool_cells_of<Float32>(p, begin, end);
        case Dtype::bfloat16:
            return pool_cells_of<BFloat16>(p, begin, end);
        case Dtype::float16:
            return pool_cells_of<Float16>(p, begin, end);
    }
}

// Adds four rows of gradients to the sums of one pair of vectors.
template <class T, bool Positive, class Read>
DCAM_HD void add_rows(float* sums, Read read) {
    vf row[4][2];
    for (int i = 0; i < 4; ++i) {
        read(i, row[i][0], row[i][1]);
        for (vf& g : row[i]) g = Positive ? Lanes::relu(g) + g * 0.0f : g;
    }
    for (int j = 0; j < 2; ++j)
        store(sums + j * W, load(sums + j * W) + ((row[0][j] + row[1][j]) + (row[2][j] + row[3][j])));
}

// The row of cell n, or `nothing` past the last cell.
template <class Stored>
DCAM_HD const Stored* row_or(const Stored* nothing, const PoolParams& p, const Stored* rows, int64_t n) {
    return n < p.count ? rows + (p.cells ? p.cells[n] : n) * p.gradient_row_stride : nothing;
}

// Mean gradient per channel over the cells, for one target and kWeightChunk channels an item.
template <class T, bool Positive>
static void weigh(const PoolParams& p, int64_t begin, int64_t end) {
    using Stored = typename T::Stored;
    static constexpr Stored nothing[kWeightChunk] = {};  // rows past the last cell
    const int64_t chunks = (p.channels + kWeightChunk - 1) / kWeightChunk;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t t = item / chunks, first = item % chunks * kWeightChunk;
        const int64_t width = p.channels - first < kWeightChunk ? p.channels - first : kWeightChunk;
        const Stored* gradients = static_cast<const Stored*>(p.gradients) + t * p.gradient_target_stride + first;
        float sums[kWeightChunk] = {};
        for (int64_t n = 0; n < p.count; n += 4) {
            // four rows for one reading of the sums
            const Stored *rows[4], *next[4];
            for (int64_t i = 0; i < 4; ++i) {
                rows[i] = row_or(nothing, p, gradients, n + i);
                next[i] = row_or(nothing, p, gradients, n + i + 4);
            }
            int64_t d = 0;
            for (; d + 2 * W <= width; d += 2 * W)
                add_rows<T, Positive>(sums + d, [&](int i, vf& a, vf& b) __attribute__((always_inline)) {
                    prefetch<2 * W>(next[i] + d);
                    T::widen(rows[i] + d, a, b);
                });
            if (d < width)
                add_rows<T, Positive>(sums + d, [&](int i, vf& a, vf& b) __attribute__((always_inline)) {
                    widen_tail<T>(rows[i] + d, width - d, a, b);
                });
        }
        float* weights = p.weights + t * weight_stride(p.channels) + first;
        const float share = 1 / static_cast<float>(p.count);
        for (int64_t d = 0; d < weight_stride(width); ++d) weights[d] = sums[d] * share;
    }
}

static void pool_weights(const PoolParams& p, int64_t begin, int64_t end) {
    const bool positive = p.aggregation == Aggregation::pooled;
    switch (p.dtype) {
        case Dtype::float32:
            return positive ? weigh<Float32, true>(p, begin, end) : weigh<Float32, false>(p, begin, end);
        case Dtype::bfloat16:
            return positive ? weigh<BFloat16, true>(p, begin, end) : weigh<BFloat16, false>(p, begin, end);
        case Dtype::float16:
            return positive ? weigh<Float16, true>(p, begin, end) : weigh<Float16, false>(p, begin, end);
    }
}

static void normalize(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
        float* map = maps + t * count;
        float lowest = map[0], highest = map[0], nan_probe = 0;
#pragma omp simd reduction(min : lowest) reduction(max : highest) reduction(+ : nan_probe)
        for (int64_t n = 0; n < count; ++n) {
            lowest = map[n] < lowest ? map[n] : lowest;
            highest = map[n] > highest ? map[n] : highest;
            nan_probe += map[n] * 0.0f;
        }
        const bool finite = nan_probe == 0;
        const float span = highest - lowest + 1e-8f;
        for (int64_t n = 0; n < count; ++n) map[n] = finite ? (map[n] - lowest) / span : 0;
        if (flags && !finite) flags[t] = 1;
    }
}

}  // namespace dcam::DCAM_ISA
