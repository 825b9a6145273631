// The formulas of the four modules (docs/method.md, sections 2 to 5), a cell or a statistic at a time: one source for
// the CPU kernels and for device code.
#pragma once

#include <cmath>

#include "dcam/math.h"
#include "dcam/refine.h"

namespace dcam {

constexpr float kMinLevel = 1e-6f;  // the level of a map without positive cells

// ------------------------------------------------------------------------------------------------- AKD

DCAM_HD int window_side(const RefineSettings& s, double std, int64_t height, float image_side) {
    if (s.kernel_size != 0) return s.kernel_size;
    return kernel_side(s.step_ratio, std, s.size == SizeRule::image ? image_side : static_cast<double>(height));
}

constexpr int kMaxRadius = 15;  // 3 sigma at the largest sigma of RefineConfig

// A Gaussian of `sigma` cells, cut at 3 sigma.
struct Taps {
    int radius;
    float weight[kMaxRadius + 1];  // by distance; they sum to 1 over both sides

    DCAM_HD explicit Taps(double sigma) : radius(static_cast<int>(std::ceil(3 * sigma))), weight{} {
        double exact[kMaxRadius + 1] = {1}, sum = 1;
        for (int d = 1; d <= radius; ++d) {
            exact[d] = std::exp(-d * d / (2 * sigma * sigma));
            sum += 2 * exact[d];
        }
        for (int d = 0; d <= radius; ++d) weight[d] = static_cast<float>(exact[d] / sum);
    }
};

// ------------------------------------------------------------------------------------------------- DACG

DCAM_HD double gating_percent(const RefineSettings& s, float mean, float std) {
    return std > s.gating_spread    ? s.percentile_spread
           : mean > s.gating_bright ? s.percentile_bright
           : mean < s.gating_dim    ? s.percentile_dim
                                    : s.percentile_else;
}

// ------------------------------------------------------------------------------------------------- CBA

// The median of the positive values is a rank of all values: those at most 0 come first.
DCAM_HD Position median_of_positive(int64_t n, int64_t positive) {
    Position middle = percentile_position(positive, 50);
    middle.below += n - positive;
    return middle;
}

// delta
DCAM_HD float background_level(const RefineSettings& s, float median, float p60, float mean, float highest) {
    return s.weight_median * median + s.weight_p60 * p60 + s.weight_mean * mean + s.weight_max * highest;
}

DCAM_HD float attenuated(float value, float delta, float floor) {
    float factor = value / delta;
    factor = factor < floor ? floor : factor;
    factor = factor > 1 ? 1 : factor;
    return value < delta ? value * factor : value;
}

DCAM_HD float clipped(float value, float ceiling) {
    value = value > 0 ? value : 0;
    return value < ceiling ? value : ceiling;
}

// What min-max normalization divides by.
DCAM_HD float span_of(float lowest, float highest) { return highest - lowest + 1e-8f; }

// ------------------------------------------------------------------------------------------------- SICD

// I, the part that every answer of the model shares: one level in the map's highest cells, another in the rest.
struct Instance {
    float high, level_all, level_high;

    DCAM_HD Instance(const RefineSettings& s, float mean, float std, float repetition)
        : high(mean + 2 * std), level_all(s.c_rep * repetition), level_high(level_all + s.c_high) {}

    DCAM_HD float at(float value) const { return value > high ? level_high : level_all; }

    DCAM_HD float removed(float value, float alpha) const {
        const float left = value - alpha * at(value);
        return left > 0 ? left : 0;
    }
};

// alpha
DCAM_HD float instance_share(const RefineSettings& s, float projection, float energy) {
    return projection / energy < s.alpha_max ? projection / energy : s.alpha_max;
}

// Whether so little range is left that the map stays as it was.
DCAM_HD bool keeps_map(const RefineSettings& s, float range_left, float range) {
    return range_left < s.keep_range * range;
}

}  // namespace dcam
