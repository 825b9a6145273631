#include "dcam/overlay.h"

#include <algorithm>

#include "dcam/pixels.h"

namespace dcam {

const char* check_boxes(const float* boxes, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
            for (int c = 0; c < 4; ++c)
                if (boxes[(y * width + x) * 4 + c] != (c % 2 == 0 ? boxes[x * 4 + c] : boxes[y * width * 4 + c]))
                    return "separable (x from the column, y from the row)";
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t cells = axis == 0 ? width : height, stride = axis == 0 ? 4 : width * 4;
        for (int64_t i = 0; i < cells; ++i) {
            const float *box = boxes + i * stride + axis, *next = box + stride;
            const bool ascending = i + 1 == cells || box[0] + box[2] < next[0] + next[2];
            if (!(box[0] < box[2]) || !ascending) return "ordered (x0 < x1, y0 < y1, centers ascending)";
        }
    }
    return nullptr;
}

void fill_axis(const float* boxes, int64_t height, int64_t width, bool columns, AxisParams& axis) {
    axis.cells = columns ? width : height;
    const Edges edges(boxes, width, columns);
    for (int64_t pixel = 0; pixel < axis.pixels; ++pixel) {
        const Reading reading = edges.read(pixel, axis.cells);
        axis.left[pixel] = reading.left;
        axis.share[pixel] = reading.share;
    }
    float first = edges.begin(0), last = edges.end(0);
    for (int64_t i = 1; i < axis.cells; ++i) {
        first = std::min(first, edges.begin(i));
        last = std::max(last, edges.end(i));
    }
    axis.covered[0] = covered_from(first, axis.pixels);
    axis.covered[1] = covered_to(last, axis.pixels);
}

}  // namespace dcam
