// overlay and upsample: arguments and CPU entry points. No torch.
#pragma once

#include <cstdint>

namespace dcam {

// How the pixels of one axis read the cells: value = cell[left] + share * (cell[left + 1] - cell[left]).
struct AxisParams {
    int32_t* left;     // [pixels]
    float* share;      // [pixels]
    int32_t* covered;  // [2], begin and end of the pixels from the first to the last edge of the boxes
    int64_t pixels, cells;
};

struct OverlayParams {
    const float* maps;     // [count, rows.cells, columns.cells]
    const uint8_t* image;  // [rows.pixels, columns.pixels, 3]
    const uint8_t* table;  // [256, 3]
    float* values;         // upsample: [count, rows.pixels, columns.pixels]
    uint8_t* out;          // overlay: [count, rows.pixels, columns.pixels, 3]
    int64_t count;
    float alpha;
    AxisParams rows, columns;
};

// Null if the boxes, float [h, w, 4], are separable and ordered; else the requirement that they fail.
const char* check_boxes(const float* boxes, int64_t height, int64_t width);
// Fills `left`, `share` and `covered` of an axis. Wrong boxes give wrong pixels, but indices in range.
void fill_axis(const float* boxes, int64_t height, int64_t width, bool columns, AxisParams& axis);

// Both work on rows begin..end of count * rows.pixels.
void upsample(const OverlayParams& params, int64_t begin, int64_t end);
void overlay(const OverlayParams& params, int64_t begin, int64_t end);

}  // namespace dcam
