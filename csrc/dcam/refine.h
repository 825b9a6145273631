// refine and rank_filter: settings, arguments and CPU entry points. No torch.
#pragma once

#include <cstdint>

namespace dcam {

enum class Denoise : int { none, rank, gaussian };

enum class SizeRule : int { grid, image };

// The settings in the order of RefineConfig.packed. This list is the only place in C++ that has their types and order.
// clang-format off
#define DCAM_REFINE_SETTINGS(X)  \
    X(Denoise, denoise)          \
    X(int, kernel_size)          \
    X(double, step_ratio)        \
    X(SizeRule, size)            \
    X(double, smoothing_sigma)   \
    X(bool, gating)              \
    X(float, gating_spread)      \
    X(float, gating_bright)      \
    X(float, gating_dim)         \
    X(double, percentile_spread) \
    X(double, percentile_bright) \
    X(double, percentile_dim)    \
    X(double, percentile_else)   \
    X(double, gating_sigma)      \
    X(bool, attenuation)         \
    X(float, weight_median)      \
    X(float, weight_p60)         \
    X(float, weight_mean)        \
    X(float, weight_max)         \
    X(float, attenuation_floor)  \
    X(bool, debiasing)           \
    X(float, c_rep)              \
    X(float, c_high)             \
    X(float, alpha_max)          \
    X(float, keep_range)
// clang-format on

// A kernel_size of 0 is adaptive.
struct RefineSettings {
#define DCAM_FIELD(type, name) type name;
    DCAM_REFINE_SETTINGS(DCAM_FIELD)
#undef DCAM_FIELD

#define DCAM_ONE(type, name) +1
    static constexpr int kCount = 0 DCAM_REFINE_SETTINGS(DCAM_ONE);
#undef DCAM_ONE
    static const char* const names[kCount];

    static RefineSettings unpack(const double* packed);
    // Whether every number that sizes a buffer or chooses a kernel is one that RefineConfig allows.
    bool valid() const;
};

// `count` maps one after the other; all of height x width, or map i of grids[i] at offsets[i].
struct RefineParams {
    const float* maps;
    float* out;                // may be `maps`
    int32_t* flags;            // [count], 1 where NaN or Inf came (that map becomes zeros); or null
    const int64_t* grids;      // [count, 2] or null
    const int64_t* offsets;    // [count], with grids
    const float* repetitions;  // [count] or null
    int64_t count, height, width;
    float repetition, image_side;
    RefineSettings settings;
};

struct RankFilterParams {
    const float* maps;
    float* out;
    int64_t count, height, width;
    int side;
};

// Both work on maps begin..end, so that the caller divides them among threads.
void refine(const RefineParams& params, int64_t begin, int64_t end);
void rank_filter(const RankFilterParams& params, int64_t begin, int64_t end);

}  // namespace dcam
