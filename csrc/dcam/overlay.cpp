#include "dcam/overlay.h"

#include <algorithm>
#include <cmath>

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
            if (!(box[0] < box[2]) || !ascending) return "ordered (x0 < x1, y0 < y1, centres ascending)";
        }
    }
    return nullptr;
}

void fill_axis(const float* boxes, int64_t height, int64_t width, bool columns, AxisParams& axis) {
    const int64_t cells = columns ? width : height, stride = columns ? 4 : width * 4;
    const float* box = boxes + (columns ? 0 : 1);
    const auto centre = [&](int64_t i) { return (static_cast<double>(box[i * stride]) + box[i * stride + 2]) / 2; };
    axis.cells = cells;
    for (int64_t pixel = 0, left = 0; pixel < axis.pixels; ++pixel) {
        const double at = std::clamp(static_cast<double>(pixel) + 0.5, centre(0), centre(cells - 1));
        while (left + 2 < cells && centre(left + 1) <= at) ++left;
        axis.left[pixel] = static_cast<int32_t>(left);
        axis.share[pixel] =
            cells == 1 ? 0 : static_cast<float>((at - centre(left)) / (centre(left + 1) - centre(left)));
    }
    const auto pixel_at = [&](double edge) {
        return static_cast<int64_t>(std::clamp(edge, 0.0, static_cast<double>(axis.pixels)));
    };
    float first = box[0], last = box[2];
    for (int64_t i = 1; i < cells; ++i) {
        first = std::min(first, box[i * stride]);
        last = std::max(last, box[i * stride + 2]);
    }
    axis.seen_begin = pixel_at(std::ceil(first - 0.5));
    axis.seen_end = pixel_at(std::floor(last + 0.5));
}

}  // namespace dcam
