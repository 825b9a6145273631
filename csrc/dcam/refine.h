// refine and rank_filter: settings, arguments and CPU entry points. No torch.
#pragma once

#include <cstdint>

namespace dcam {

enum class Denoise : int { none, rank, gaussian };

// RefineConfig.packed, number by number.
struct RefineSettings {
    static constexpr int size = 25;

    Denoise denoise;
    int kernel_size;  // 0: adaptive
    double step_ratio;
    bool size_of_image;
    double smoothing_sigma;
    bool gating;
    float gating_spread, gating_bright, gating_dim;
    double percent_spread, percent_bright, percent_dim, percent_else;
    double gating_sigma;
    bool attenuation;
    float of_median, of_p60, of_mean, of_max;
    float attenuation_floor;
    bool debiasing;
    float c_rep, c_high, alpha_max, keep_range;

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
