// The arithmetic of overlay and upsample, a pixel at a time: one source for the CPU kernels and for device code.
#pragma once

#include <cmath>

#include "dcam/math.h"

namespace dcam {

struct Reading {
    int32_t left;
    float share;
};

// The edges of one axis of boxes [h, w, 4], those of the first row or column.
struct Edges {
    const float* first;
    int64_t stride;

    DCAM_HD Edges(const float* boxes, int64_t width, bool columns)
        : first(boxes + (columns ? 0 : 1)), stride(columns ? 4 : width * 4) {}
    DCAM_HD float begin(int64_t cell) const { return first[cell * stride]; }
    DCAM_HD float end(int64_t cell) const { return first[cell * stride + 2]; }
    DCAM_HD double center(int64_t cell) const { return (static_cast<double>(begin(cell)) + end(cell)) / 2; }

    // The two cells whose centers a pixel lies between, and how far along. Beyond the outermost centers, the outermost
    // cell. Indices are in range even if the boxes are NaN.
    DCAM_HD Reading read(int64_t pixel, int64_t cells) const {
        if (cells == 1) return {0, 0};
        const double low = center(0), high = center(cells - 1), middle = static_cast<double>(pixel) + 0.5;
        const double at = middle < low ? low : middle > high ? high : middle;
        int64_t left = 0, last = cells - 2;
        while (left < last) {
            const int64_t tried = (left + last + 1) / 2;
            if (center(tried) <= at)
                left = tried;
            else
                last = tried - 1;
        }
        const double from = center(left);
        return {static_cast<int32_t>(left), static_cast<float>((at - from) / (center(left + 1) - from))};
    }
};

// Pixels covered_from(first edge) to covered_to(last edge), the end excluded, have their centers between the edges.
DCAM_HD int32_t clamped(double edge, int64_t pixels) {
    const double last = static_cast<double>(pixels);
    return static_cast<int32_t>(edge > 0 ? edge < last ? edge : last : 0);
}
DCAM_HD int32_t covered_from(float edge, int64_t pixels) {
    return clamped(std::ceil(static_cast<double>(edge) - 0.5), pixels);
}
DCAM_HD int32_t covered_to(float edge, int64_t pixels) {
    return clamped(std::floor(static_cast<double>(edge) + 0.5), pixels);
}

DCAM_HD float between(float left, float right, float share) { return (1 - share) * left + share * right; }

// NaN becomes 0 and infinities become finite, so that 0 times the value is 0.
DCAM_HD float sanitize(float value) {
    value = value == value ? value : 0;
    value = value < 3e38f ? value : 3e38f;
    return value > -3e38f ? value : -3e38f;
}

// Row of the color table.
DCAM_HD int level_of(float value) {
    value = value > 0 ? (value < 1 ? value : 1) : 0;
    return static_cast<int>(value * 255 + 0.5f);
}

// Half a level is added here, so that `blended` rounds.
DCAM_HD float weighted_color(float alpha, uint8_t color) { return alpha * static_cast<float>(color) + 0.5f; }

DCAM_HD uint8_t blended(float keep, uint8_t image, float weighted) {
    return static_cast<uint8_t>(keep * static_cast<float>(image) + weighted);
}

}  // namespace dcam
