// The launchers under names that ctypes finds.
#include <vector>

#include "cuda_runtime.h"
#include "dcam/cuda/guided.h"
#include "dcam/cuda/overlay.h"
#include "dcam/cuda/pool.h"
#include "dcam/cuda/refine.h"

extern "C" {

void set_order(int order, unsigned seed) {
    emulator::order = static_cast<emulator::Order>(order);
    emulator::seed = seed;
}

void set_shared_limit(int64_t bytes) {
    emulator::shared_limit = static_cast<size_t>(bytes);
    emulator::requested.clear();
}

// From here on launches are noted and not run, or run as ever.
void set_dry(int dry) {
    emulator::dry = dry != 0;
    emulator::launched.clear();
}

// The most dynamic shared memory that a launch had since.
int64_t most_shared() {
    size_t most = 0;
    for (const auto& [kernel, bytes] : emulator::launched) most = std::max(most, bytes);
    return static_cast<int64_t>(most);
}

// The most that a kernel may have, of those that asked for it.
int64_t most_requested() {
    size_t most = 0;
    for (const auto& [kernel, bytes] : emulator::requested) most = std::max(most, bytes);
    return static_cast<int64_t>(most);
}

// Makes `call` come between the next request for shared memory and the launch it is for.
void set_other_thread(void (*call)()) { emulator::other_thread = call; }

int64_t refine_max_cells() {
    int64_t cells = 0;
    return dcam::cuda::refine_max_cells(&cells) == cudaSuccess ? cells : -1;
}

int refine(const float* maps, float* out, int32_t* flags, const int64_t* grids, const int64_t* offsets,
           const float* repetitions, int64_t count, int64_t height, int64_t width, float repetition, float image_side,
           const double* packed) {
    return dcam::cuda::refine({maps, out, flags, grids, offsets, repetitions, count, height, width, repetition,
                               image_side, dcam::RefineSettings::unpack(packed)},
                              nullptr);
}

// Blocks as their parameters lie in memory, number by number: pointers, strides, sizes, dtype, aggregation.
int pool(const int64_t* numbers, int64_t count, int32_t* flags) {
    std::vector<dcam::PoolParams> blocks;
    for (const int64_t* n = numbers; n < numbers + 14 * count; n += 14) {
        dcam::PoolParams p{};
        p.activations = reinterpret_cast<const void*>(n[0]);
        p.gradients = reinterpret_cast<const void*>(n[1]);
        p.cells = reinterpret_cast<const int64_t*>(n[2]);
        p.out = reinterpret_cast<float*>(n[3]);
        p.activation_target_stride = n[4];
        p.activation_row_stride = n[5];
        p.gradient_target_stride = n[6];
        p.gradient_row_stride = n[7];
        p.rows = n[8];
        p.targets = n[9];
        p.count = n[10];
        p.channels = n[11];
        p.dtype = static_cast<dcam::Dtype>(n[12]);
        p.aggregation = static_cast<dcam::Aggregation>(n[13]);
        blocks.push_back(p);
    }
    // poisoned, and no more than was requested: a sanitizer sees a float beyond it
    std::vector<float> workspace(dcam::cuda::pool_workspace(blocks.data(), count), NAN);
    return dcam::cuda::pool(blocks.data(), count, workspace.data(), flags, nullptr);
}

int rank_filter(const float* maps, float* out, int64_t count, int64_t height, int64_t width, int side) {
    return dcam::cuda::rank_filter({maps, out, count, height, width, side}, nullptr);
}

int guided_filter(const float* maps, const float* guide, float* out, int64_t count, int64_t height, int64_t width,
                  int radius, float epsilon) {
    const dcam::GuidedParams p{maps, guide, nullptr, out, count, height, width, radius, epsilon};
    std::vector<float> workspace(emulator::dry ? 0 : dcam::cuda::guided_workspace(p), NAN);
    return dcam::cuda::guided_filter(p, workspace.data(), nullptr);
}

// upsample if there is no image
int overlay(const float* maps, const uint8_t* image, const float* boxes, const uint8_t* table, float* values,
            uint8_t* out, int64_t count, int64_t height, int64_t width, int64_t rows, int64_t columns, float alpha) {
    // poisoned, so that what is not filled shows
    std::vector<int32_t> left(rows + columns, -1), covered(4, -1);
    std::vector<float> share(rows + columns, NAN);
    dcam::OverlayParams p{maps, image, table, values, out, count, alpha, {}, {}};
    p.rows = {left.data(), share.data(), covered.data(), rows, height};
    p.columns = {left.data() + rows, share.data() + rows, covered.data() + 2, columns, width};
    if (const int error = dcam::cuda::fill_axes(p, boxes, nullptr)) return error;
    return image ? dcam::cuda::overlay(p, nullptr) : dcam::cuda::upsample(p, nullptr);
}

}  // extern "C"
