// pool: arguments and CPU entry points. No torch.
#pragma once

#include <cstdint>

namespace dcam {

enum class Dtype : int { float32, bfloat16, float16 };

// In the order of dcam_fast.ops.reference.AGGREGATIONS.
enum class Aggregation : int { pooled, elementwise, layer_cam, grad_cam, grad_cam_paper, hires_cam, activation };

constexpr bool uses_weights(Aggregation a) {
    return a == Aggregation::pooled || a == Aggregation::grad_cam || a == Aggregation::grad_cam_paper;
}

// Channels of one item of work; and the floats that a target's weights occupy, rounded up to whole vectors.
constexpr int64_t kWeightChunk = 1024;
constexpr int64_t weight_stride(int64_t channels) { return (channels + 31) / 32 * 32; }

// One layer. Strides in elements; channels lie next to each other.
struct PoolParams {
    const void* activations;
    const void* gradients;
    const int64_t* cells;  // [count] rows, or null: row n for cell n
    float* weights;  // [targets, weight_stride(channels)], scratch for the aggregations that use_weights; else null
    float* out;      // [targets, count]
    int64_t activation_target_stride, activation_row_stride;  // target stride 0: shared by all targets
    int64_t gradient_target_stride, gradient_row_stride;
    int64_t rows;  // of the sequence
    int64_t targets, count, channels;
    Dtype dtype;
    Aggregation aggregation;
};

// Parts that the CUDA kernels divide the cells into to average gradients, enough to fill a GPU. Depends on the shapes
// alone, so that results are bitwise identical on all GPUs.
constexpr int64_t weight_parts(int64_t targets, int64_t count, int64_t channels) {
    constexpr int64_t target_parts = 1024, min_cells = 16;
    const int64_t columns = targets * ((channels + kWeightChunk - 1) / kWeightChunk);
    const int64_t max_parts = (count + min_cells - 1) / min_cells, parts = columns > 0 ? target_parts / columns : 1;
    return parts < 1 ? 1 : parts < max_parts ? parts : max_parts;
}

// Three steps, each divisible among threads; NaN or Inf in an input makes the raw values it reaches NaN.
void pool_weights(const PoolParams& params, int64_t begin, int64_t end);  // over targets * chunks of channels
void pool_cells(const PoolParams& params, int64_t begin, int64_t end);    // over cells, every target
// Min-max of maps begin..end in place; a map that is not finite becomes zeros and sets its flag.
void normalize(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end);

// Whether all gathered rows are finite. For error messages only, so not fast.
bool finite_rows(const PoolParams& params, bool of_gradients);

}  // namespace dcam
