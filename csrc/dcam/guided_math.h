// The arithmetic of the guided filter at one cell, for the CPU and for CUDA.
#pragma once

#include <cstdint>

#include "dcam/math.h"

namespace dcam {

// The cells of one axis that a window around `at` has.
template <class Int>
struct Window {
    Int begin, end;

    DCAM_HD Window(Int at, Int radius, Int cells)
        : begin(at > radius ? at - radius : 0), end(at + radius < cells ? at + radius + 1 : cells) {}
    DCAM_HD Int size() const { return end - begin; }
};

// A symmetric 3 x 3 matrix C as L D L^T, with ones on the diagonal of the lower triangle L. Kept in float32 and solved
// with, it is exact where two channels of color are equal. There the inverse of C has large parts that cancel.
struct Factored3 {
    double rg, rb, gb;  // L, below the diagonal
    double r, g, b;     // 1 / D
};

// The two channels of a product of colors, in the order rr, rg, rb, gg, gb, bb.
DCAM_HD int first_channel(int pair) { return pair < 3 ? 0 : pair < 5 ? 1 : 2; }
DCAM_HD int second_channel(int pair) { return pair < 3 ? pair : pair < 5 ? pair - 2 : 2; }

// The covariance of a window's colors plus epsilon, from their means and those of their products. In float64, because
// in a window of one color nearly all of it cancels.
DCAM_HD Factored3 factored_covariance(const double* moments, double epsilon) {
    const double r = moments[0], g = moments[1], b = moments[2];
    const double rr = moments[3] - r * r + epsilon, rg = moments[4] - r * g, rb = moments[5] - r * b;
    const double gg = moments[6] - g * g + epsilon, gb = moments[7] - g * b, bb = moments[8] - b * b + epsilon;
    const double l_rg = rg / rr, l_rb = rb / rr;
    const double d_g = gg - l_rg * rg, l_gb = (gb - l_rb * rg) / d_g;
    const double d_b = bb - l_rb * rb - l_gb * (gb - l_rb * rg);
    return {l_rg, l_rb, l_gb, 1 / rr, 1 / d_g, 1 / d_b};
}

// Writes the statistics of a window to fields that lie `stride` apart.
DCAM_HD void write_statistics(const double* moments, double epsilon, float* statistics, int64_t stride) {
    const Factored3 c = factored_covariance(moments, epsilon);
    const double values[9] = {moments[0], moments[1], moments[2], c.rg, c.rb, c.gb, c.r, c.g, c.b};
    for (int field = 0; field < 9; ++field) statistics[field * stride] = static_cast<float>(values[field]);
}

// At one cell of fields that lie `stride` apart: means of map times color (three) and of the map become the slopes of
// the map along the colors and its offset.
DCAM_HD void fit_window(const float* statistics, float* fit, int64_t stride) {
    const float *l = statistics + 3 * stride, *d = statistics + 6 * stride;
    const float level = fit[3 * stride];
    const float r = fit[0] - level * statistics[0];
    const float g = fit[stride] - level * statistics[stride] - l[0] * r;
    const float b = fit[2 * stride] - level * statistics[2 * stride] - l[stride] * r - l[2 * stride] * g;
    const float along_b = d[2 * stride] * b;
    const float along_g = d[stride] * g - l[2 * stride] * along_b;
    const float along_r = d[0] * r - l[0] * along_g - l[stride] * along_b;
    fit[0] = along_r;
    fit[stride] = along_g;
    fit[2 * stride] = along_b;
    fit[3 * stride] = level - along_r * statistics[0] - along_g * statistics[stride] - along_b * statistics[2 * stride];
}

// What the mean of the fits around a cell says of its color.
DCAM_HD float fitted(const float* color, const float* fit, int64_t stride) {
    const float value =
        fit[0] * color[0] + fit[stride] * color[stride] + fit[2 * stride] * color[2 * stride] + fit[3 * stride];
    return value < 0 ? 0 : value;  // a NaN stays one, so that refine finds it
}

}  // namespace dcam
