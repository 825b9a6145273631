// Pooling of gathered rows. Products keep a second sum, 0 * product: it is 0, or NaN once an input is not finite.
#pragma once

#include "dcam/cpu/simd.h"
#include "dcam/pool.h"

namespace dcam::DCAM_ISA {

DCAM_HD float sum_lanes(vf v) {
    float sum = 0;
    for (int i = 0; i < W; ++i) sum += v[i];
    return sum;
}

DCAM_HD vf relu(vf v) { return v > 0 ? v : vf{}; }

// A full vector from the last `count` < W elements, the rest 0.
template <class T>
DCAM_HD vf widen_tail(const typename T::Stored* p, int64_t count) {
    typename T::Stored buffer[W] = {};
    std::memcpy(buffer, p, count * sizeof *p);
    return T::widen(buffer);
}

// One aggregation: what a channel adds, from an activation and its gradient or weight; and what becomes of the sum.
struct Elementwise {  // and gradcam_paper, with the weight as gradient
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf& nought) {
        const vf product = a * g;
        sum += relu(product);
        nought += product * 0.0f;
    }
};

struct LayerCam {
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf& nought) {
        sum += relu(a) * relu(g);
        nought += a * g * 0.0f;
    }
};

struct HiResCam {  // and gradcam, with the weight as gradient
    static constexpr bool mean = false;
    static DCAM_HD void add(vf a, vf g, vf& sum, vf&) { sum = Lanes::fma(a, g, sum); }
};

struct Activation {  // the gradient is not read
    static constexpr bool mean = true;
    static DCAM_HD void add(vf a, vf, vf& sum, vf& nought) {
        sum += relu(a);
        nought += a * 0.0f;
    }
};

template <class Rule, class TA, class TG>
DCAM_HD float pool_row(const typename TA::Stored* a, const typename TG::Stored* g, int64_t channels) {
    constexpr int unroll = 4;  // sums that do not wait for each other
    vf sum[unroll] = {}, nought[unroll] = {};
    int64_t d = 0;
    for (; d + unroll * W <= channels; d += unroll * W)
        for (int i = 0; i < unroll; ++i)
            Rule::add(TA::widen(a + d + i * W), TG::widen(g + d + i * W), sum[i], nought[i]);
    for (; d + W <= channels; d += W) Rule::add(TA::widen(a + d), TG::widen(g + d), sum[0], nought[0]);
    if (d < channels)
        Rule::add(widen_tail<TA>(a + d, channels - d), widen_tail<TG>(g + d, channels - d), sum[0], nought[0]);
    const float total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
    const float check = total * 0.0f + sum_lanes((nought[0] + nought[1]) + (nought[2] + nought[3]));
    const float value = Rule::mean ? total / static_cast<float>(channels) : total;
    return (value > 0 ? value : 0) + check;
}

template <class Rule, class TA, class TG>
static void pool_rows(const PoolParams& p, const void* second, int64_t target_stride, int64_t row_stride, int64_t begin,
                      int64_t end) {
    const auto* activations = static_cast<const typename TA::Stored*>(p.activations);
    const auto* gradients = static_cast<const typename TG::Stored*>(second);
    for (int64_t n = begin; n < end; ++n) {
        const int64_t row = p.cells ? p.cells[n] : n;
        // the activations of a cell stay in the nearest cache while all targets read them
        for (int64_t t = 0; t < p.targets; ++t)
            p.out[t * p.count + n] =
                pool_row<Rule, TA, TG>(activations + t * p.activation_target_stride + row * p.activation_row_stride,
                                       gradients + t * target_stride + row * row_stride, p.channels);
    }
}

template <class T>
static void pool_cells_of(const PoolParams& p, int64_t begin, int64_t end) {
    const auto by_gradient = [&](auto rule) __attribute__((always_inline)) {
        pool_rows<decltype(rule), T, T>(p, p.gradients, p.gradient_target_stride, p.gradient_row_stride, begin, end);
    };
    const auto by_weight = [&](auto rule) __attribute__((always_inline)) {
        pool_rows<decltype(rule), T, Float32>(p, p.weights, p.channels, 0, begin, end);
    };
    switch (p.aggregation) {
        case Aggregation::elementwise:
            return by_gradient(Elementwise{});
        case Aggregation::layercam:
            return by_gradient(LayerCam{});
        case Aggregation::hirescam:
            return by_gradient(HiResCam{});
        case Aggregation::activation:
            return pool_rows<Activation, T, T>(p, p.activations, p.activation_target_stride, p.activation_row_stride,
                                               begin, end);
        case Aggregation::gradcam:
            return by_weight(HiResCam{});
        // max(A w, 0) is w max(A, 0) where w >= 0, so the published form shares the product rule
        case Aggregation::pooled:
        case Aggregation::gradcam_paper:
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

// Mean gradient per channel over the cells, of one target, for W channels from `d`.
template <class T, bool Positive, class Widen>
DCAM_HD void add_rows(const typename T::Stored* const* rows, int64_t d, float* into, Widen widen) {
    vf sum = load(into + d);
    vf part[4];
    for (int i = 0; i < 4; ++i) {
        const vf g = widen(rows[i] + d);
        part[i] = Positive ? relu(g) + g * 0.0f : g;
    }
    store(into + d, sum + ((part[0] + part[1]) + (part[2] + part[3])));
}

template <class T, bool Positive>
static void weigh(const PoolParams& p, int64_t begin, int64_t end) {
    using Stored = typename T::Stored;
    const int64_t chunks = (p.channels + kWeightChunk - 1) / kWeightChunk;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t t = item / chunks, first = item % chunks * kWeightChunk;
        const int64_t width = p.channels - first < kWeightChunk ? p.channels - first : kWeightChunk;
        const Stored* gradients = static_cast<const Stored*>(p.gradients) + t * p.gradient_target_stride + first;
        float sums[kWeightChunk + W] = {};
        for (int64_t n = 0; n < p.count; n += 4) {
            // four rows for one reading of the sums; rows past the end add nothing
            static const Stored nothing[kWeightChunk] = {};
            const Stored* rows[4];
            for (int64_t i = 0; i < 4; ++i)
                rows[i] =
                    n + i < p.count ? gradients + (p.cells ? p.cells[n + i] : n + i) * p.gradient_row_stride : nothing;
            int64_t d = 0;
            for (; d + W <= width; d += W) add_rows<T, Positive>(rows, d, sums, &T::widen);
            if (d < width) {
                const int64_t left = width - d;
                add_rows<T, Positive>(rows, d, sums, [left](const Stored* at) { return widen_tail<T>(at, left); });
            }
        }
        float* weights = p.weights + t * p.channels + first;
        for (int64_t d = 0; d < width; ++d) weights[d] = sums[d] / static_cast<float>(p.count);
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

static void normalise(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
        float* map = maps + t * count;
        float least = map[0], greatest = map[0], nought = 0;
#pragma omp simd reduction(min : least) reduction(max : greatest) reduction(+ : nought)
        for (int64_t n = 0; n < count; ++n) {
            least = map[n] < least ? map[n] : least;
            greatest = map[n] > greatest ? map[n] : greatest;
            nought += map[n] * 0.0f;
        }
        const bool finite = nought == 0;
        const float span = greatest - least + 1e-8f;
        for (int64_t n = 0; n < count; ++n) map[n] = finite ? (map[n] - least) / span : 0;
        if (flags && !finite) flags[t] = 1;
    }
}

}  // namespace dcam::DCAM_ISA
