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

// A symmetric 3 x 3 matrix: rr, rg, rb, gg, gb, bb.
struct Symmetric3 {
    double of[6];

    static DCAM_HD int row(int pair) { return pair < 3 ? 0 : pair < 5 ? 1 : 2; }
    static DCAM_HD int column(int pair) { return pair < 3 ? pair : pair < 5 ? pair - 2 : 2; }
};

// From the means of a window's colors and of their products, in the order of Symmetric3. In float64, for in a window
// of one color nearly all of it cancels.
DCAM_HD Symmetric3 inverse_covariance(const double* moments, double epsilon) {
    const double r = moments[0], g = moments[1], b = moments[2];
    const double rr = moments[3] - r * r + epsilon, rg = moments[4] - r * g, rb = moments[5] - r * b;
    const double gg = moments[6] - g * g + epsilon, gb = moments[7] - g * b, bb = moments[8] - b * b + epsilon;
    const double c0 = gg * bb - gb * gb, c1 = rb * gb - rg * bb, c2 = rg * gb - rb * gg;
    const double scale = 1 / (rr * c0 + rg * c1 + rb * c2);
    return {{c0 * scale, c1 * scale, c2 * scale, (rr * bb - rb * rb) * scale, (rg * rb - rr * gb) * scale,
             (rr * gg - rg * rg) * scale}};
}

// At one cell of fields that lie `stride` apart: means of map times color (three) and of the map become the slopes of
// the map along the colors and its offset.
DCAM_HD void fit_window(const float* statistics, float* fit, int64_t stride) {
    const float* inverse = statistics + 3 * stride;
    const float level = fit[3 * stride];
    const float r = fit[0] - level * statistics[0];
    const float g = fit[stride] - level * statistics[stride];
    const float b = fit[2 * stride] - level * statistics[2 * stride];
    const float along_r = inverse[0] * r + inverse[stride] * g + inverse[2 * stride] * b;
    const float along_g = inverse[stride] * r + inverse[3 * stride] * g + inverse[4 * stride] * b;
    const float along_b = inverse[2 * stride] * r + inverse[4 * stride] * g + inverse[5 * stride] * b;
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
