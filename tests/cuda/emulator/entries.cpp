// The launchers under names that ctypes finds.
#include <vector>

#include "cuda_runtime.h"
#include "dcam/cuda/overlay.h"
#include "dcam/cuda/refine.h"

extern "C" {

void set_order(int order, unsigned seed) {
    emulator::order = static_cast<emulator::Order>(order);
    emulator::seed = seed;
}

int refine(const float* maps, float* out, int32_t* flags, const int64_t* grids, const int64_t* offsets,
           const float* repetitions, int64_t count, int64_t height, int64_t width, float repetition, float image_side,
           const double* packed) {
    return dcam::cuda::refine({maps, out, flags, grids, offsets, repetitions, count, height, width, repetition,
                               image_side, dcam::RefineSettings::unpack(packed)},
                              nullptr);
}

int rank_filter(const float* maps, float* out, int64_t count, int64_t height, int64_t width, int side) {
    return dcam::cuda::rank_filter({maps, out, count, height, width, side}, nullptr);
}

// upsample if there is no image
int overlay(const float* maps, const uint8_t* image, const float* boxes, const uint8_t* table, float* values,
            uint8_t* out, int64_t count, int64_t height, int64_t width, int64_t rows, int64_t columns, float alpha) {
    std::vector<int32_t> left(rows + columns);
    std::vector<float> share(rows + columns);
    dcam::OverlayParams p{maps, image, table, values, out, count, alpha, {}, {}};
    p.rows = {left.data(), share.data(), rows, 0, 0, 0};
    p.columns = {left.data() + rows, share.data() + rows, columns, 0, 0, 0};
    dcam::fill_axis(boxes, height, width, false, p.rows);
    dcam::fill_axis(boxes, height, width, true, p.columns);
    return image ? dcam::cuda::overlay(p, nullptr) : dcam::cuda::upsample(p, nullptr);
}

}  // extern "C"
