// Upsampling and blending, a row of pixels at a time.
#pragma once

#include "dcam/cpu/kernels.h"
#include "dcam/cpu/simd.h"
#include "dcam/pixels.h"

namespace dcam::DCAM_ISA {

// Row `y` of the upsampled map into `values`; `cells` is scratch for one row of cells and one more.
template <class Cell>
DCAM_HD void upsample_row(const OverlayParams& p, const float* map, int64_t y, float* cells, float* values, Cell cell) {
    const int64_t width = p.columns.cells;
    const float* upper = map + p.rows.left[y] * width;
    const float* lower = p.rows.cells > 1 ? upper + width : upper;
    const float share = p.rows.share[y];
    for (int64_t x = 0; x < width; ++x) cells[x] = between(cell(upper[x]), cell(lower[x]), share);
    cells[width] = cells[width - 1];
    const int32_t* left = p.columns.left;
    const float* shares = p.columns.share;
#pragma omp simd
    for (int64_t x = 0; x < p.columns.pixels; ++x) values[x] = between(cells[left[x]], cells[left[x] + 1], shares[x]);
}

static void upsample(const OverlayParams& p, int64_t begin, int64_t end) {
    float* cells = scratch(p.columns.cells + 1);
    for (int64_t row = begin; row < end; ++row) {
        const float* map = p.maps + row / p.rows.pixels * p.rows.cells * p.columns.cells;
        upsample_row(p, map, row % p.rows.pixels, cells, p.values + row * p.columns.pixels,
                     [](float value) { return value; });
    }
}

static void overlay(const OverlayParams& p, int64_t begin, int64_t end) {
    const int64_t width = p.columns.pixels;
    float* cells = scratch(p.columns.cells + 1 + width + 256 * 4);
    float* values = cells + p.columns.cells + 1;
    float* colors = values + width;  // alpha times the table, and half a level to round by
    for (int i = 0; i < 256; ++i)
        for (int c = 0; c < 3; ++c) colors[4 * i + c] = weighted_color(p.alpha, p.table[3 * i + c]);
    const float keep = 1 - p.alpha;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t y = row % p.rows.pixels;
        const uint8_t* image = p.image + y * width * 3;
        uint8_t* out = p.out + row * width * 3;
        std::memcpy(out, image, width * 3);
        if (y < p.rows.covered[0] || y >= p.rows.covered[1]) continue;
        const float* map = p.maps + row / p.rows.pixels * p.rows.cells * p.columns.cells;
        upsample_row(p, map, y, cells, values, sanitize);
        for (int64_t x = p.columns.covered[0]; x < p.columns.covered[1]; ++x) {
            const float* color = colors + 4 * level_of(values[x]);
            for (int c = 0; c < 3; ++c) out[3 * x + c] = blended(keep, image[3 * x + c], color[c]);
        }
    }
}

}  // namespace dcam::DCAM_ISA
