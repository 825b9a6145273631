// The arithmetic of overlay and upsample, a pixel at a time: one source for the CPU kernels and for device code.
#pragma once

#include "dcam/math.h"

namespace dcam {

DCAM_HD float between(float left, float right, float share) { return (1 - share) * left + share * right; }

// NaN becomes 0; infinities become finite, so that a share of 0 of one is 0.
DCAM_HD float tame(float value) {
    value = value == value ? value : 0;
    value = value < 3e38f ? value : 3e38f;
    return value > -3e38f ? value : -3e38f;
}

// Row of the colour table.
DCAM_HD int level_of(float value) {
    value = value > 0 ? (value < 1 ? value : 1) : 0;
    return static_cast<int>(value * 255 + 0.5f);
}

// Half a level is added here, so that `blended` rounds.
DCAM_HD float weighted_colour(float alpha, uint8_t colour) { return alpha * static_cast<float>(colour) + 0.5f; }

DCAM_HD uint8_t blended(float keep, uint8_t image, float weighted) {
    return static_cast<uint8_t>(keep * static_cast<float>(image) + weighted);
}

}  // namespace dcam
