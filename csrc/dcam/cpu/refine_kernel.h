// The four modules on one map after the other; every pass runs over a whole map in the nearest cache.
#pragma once

#include "dcam/cpu/kernels.h"
#include "dcam/cpu/rank_kernel.h"
#include "dcam/cpu/select.h"
#include "dcam/modules.h"

namespace dcam::DCAM_ISA {

struct Range {
    float lowest, highest;
};

DCAM_HD Range range_of(const float* x, int64_t n) {
    float lowest = x[0], highest = x[0];
#pragma omp simd reduction(min : lowest) reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
        lowest = x[i] < lowest ? x[i] : lowest;
        highest = x[i] > highest ? x[i] : highest;
    }
    return {lowest, highest};
}

DCAM_HD bool all_finite(const float* x, int64_t n) {
    float nan_probe = 0;  // NaN once anything is not finite
#pragma omp simd reduction(+ : nan_probe)
    for (int64_t i = 0; i < n; ++i) nan_probe += x[i] * 0.0f;
    return nan_probe == 0;
}

template <class Sum>
struct Moments {
    Sum mean, std;
};

// In float64 where the result decides on a kernel size: it must not depend on how a sum was rounded.
template <class Sum>
DCAM_HD Moments<Sum> moments(const float* x, int64_t n) {
    Sum sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += static_cast<Sum>(x[i]);
    const Sum mean = sum / static_cast<Sum>(n);
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (static_cast<Sum>(x[i]) - mean) * (static_cast<Sum>(x[i]) - mean);
    return {mean, std::sqrt(squares / static_cast<Sum>(n))};
}

// Buffers of one map; each holds a map and the slack.
struct Workspace {
    float *padded, *z, *other;
};

struct MapView {
    const float* x;
    int64_t height, width, cells;
};

static void denoise(const MapView& map, const RefineSettings& s, float image_side, const Taps& taps, Workspace& w) {
    switch (s.denoise) {
        case Denoise::none:
            std::memcpy(w.z, map.x, map.cells * sizeof(float));
            return;
        case Denoise::gaussian:
            gaussian_map(map.x, w.padded, w.z, map.height, map.width, taps);
            return;
        case Denoise::rank: {
            const double std = s.kernel_size == 0 ? moments<double>(map.x, map.cells).std : 0;
            const int side = window_side(s, std, map.height, image_side);
            rank_map(map.x, w.padded, w.z, map.height, map.width, side);
        }
    }
}

static void gate(const MapView& map, const RefineSettings& s, const Taps& taps, Workspace& w) {
    const int64_t n = map.cells;
    const auto [mean, std] = moments<float>(w.z, n);
    const double percent = gating_percent(s, mean, std);
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; ++i) {
        w.other[nonzero] = w.z[i];
        nonzero += w.z[i] != 0;
    }
    float zeta = kMinLevel;
    if (nonzero > 0) {
        const Range range = range_of(w.other, nonzero);
        const float found = percentile(w.other, nonzero, percent, range.lowest, range.highest);
        zeta = found > zeta ? found : zeta;
    }
    gaussian_map(w.z, w.padded, w.other, map.height, map.width, taps);
    float* z = w.z;
    const float* smooth = w.other;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) z[i] = z[i] > zeta ? z[i] : smooth[i];
}

// delta of CBA.
static float background(const float* z, int64_t n, const RefineSettings& s) {
    float sum = 0;
    int32_t positive = 0;
#pragma omp simd reduction(+ : sum, positive)
    for (int64_t i = 0; i < n; ++i) {
        sum += z[i] > 0 ? z[i] : 0;
        positive += z[i] > 0 ? 1 : 0;
    }
    if (positive == 0) return kMinLevel;
    const auto [lowest, highest] = range_of(z, n);
    const float median = between_ranks(z, n, median_of_positive(n, positive), 0, n - positive, highest);
    const float p60 = percentile(z, n, 60, lowest, highest);
    return background_level(s, median, p60, sum / static_cast<float>(positive), highest);
}

static void attenuate(float* z, int64_t n, const RefineSettings& s) {
    const float delta = background(z, n, s), floor = s.attenuation_floor;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) z[i] = attenuated(z[i], delta, floor);
}

// Clip to 0..ceiling, then min-max.
static void normalize_one(float* z, int64_t n, float ceiling) {
    float lowest = __builtin_inff(), highest = -__builtin_inff();
#pragma omp simd reduction(min : lowest) reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
        const float value = clipped(z[i], ceiling);
        z[i] = value;
        lowest = value < lowest ? value : lowest;
        highest = value > highest ? value : highest;
    }
    const float span = span_of(lowest, highest);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) z[i] = (z[i] - lowest) / span;
}

// The result is in `z` or in `other`: returns which.
static const float* debias(const float* z, float* other, int64_t n, const RefineSettings& s, float repetition) {
    const auto [mean, std] = moments<float>(z, n);
    const Instance instance(s, mean, std, repetition);
    float projection = 0, energy = 0;
#pragma omp simd reduction(+ : projection, energy)
    for (int64_t i = 0; i < n; ++i) {
        projection += z[i] * instance.at(z[i]);
        energy += instance.at(z[i]) * instance.at(z[i]);
    }
    if (energy == 0) return z;
    const float alpha = instance_share(s, projection, energy);
    float lowest = __builtin_inff(), highest = 0, z_lowest = __builtin_inff(), z_highest = 0;
#pragma omp simd reduction(min : lowest, z_lowest) reduction(max : highest, z_highest)
    for (int64_t i = 0; i < n; ++i) {
        const float value = instance.removed(z[i], alpha);
        other[i] = value;
        lowest = value < lowest ? value : lowest;
        highest = value > highest ? value : highest;
        z_lowest = z[i] < z_lowest ? z[i] : z_lowest;
        z_highest = z[i] > z_highest ? z[i] : z_highest;
    }
    return keeps_map(s, highest - lowest, z_highest - z_lowest) ? z : other;
}

static void refine(const RefineParams& params, int64_t begin, int64_t end) {
    const RefineSettings& s = params.settings;
    const Taps smoothing(s.smoothing_sigma), gating(s.gating_sigma);
    const int radius = smoothing.radius > 5 ? smoothing.radius : 5;  // 5: of the largest rank window
    for (int64_t i = begin; i < end; ++i) {
        const int64_t height = params.grids ? params.grids[2 * i] : params.height;
        const int64_t width = params.grids ? params.grids[2 * i + 1] : params.width;
        const int64_t n = height * width, offset = params.offsets ? params.offsets[i] : i * n;
        const MapView map{params.maps + offset, height, width, n};
        float* out = params.out + offset;
        const bool finite = all_finite(map.x, n);
        if (params.flags) params.flags[i] = finite ? 0 : 1;
        if (!finite) {
            std::memset(out, 0, n * sizeof(float));
            continue;
        }
        const int64_t need = filter_scratch(height, width, radius > gating.radius ? radius : gating.radius);
        float* memory = scratch(need + 2 * (n + kSlack));
        Workspace w{memory, memory + need, memory + need + n + kSlack};
        denoise(map, s, params.image_side, smoothing, w);
        // with the identity smoothing of the official code, DACG changes nothing
        if (s.gating && s.gating_sigma > 0) gate(map, s, gating, w);
        if (s.attenuation) attenuate(w.z, n, s);
        normalize_one(w.z, n, range_of(map.x, n).highest);
        const float repetition = params.repetitions ? params.repetitions[i] : params.repetition;
        const float* result = s.debiasing ? debias(w.z, w.other, n, s, repetition) : w.z;
        std::memcpy(out, result, n * sizeof(float));
    }
}

}  // namespace dcam::DCAM_ISA
