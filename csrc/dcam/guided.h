// guided_filter: arguments and CPU entry points. No torch.
#pragma once

#include <cstdint>

namespace dcam {

struct GuidedParams {
    static constexpr int kStatistics = 9;  // of a window's colors: their mean, and their covariance in factors

    const float* maps;   // [count, height, width]
    const float* guide;  // [3, height, width]
    float* statistics;   // [kStatistics, height, width], which `guide_statistics` fills
    float* out;          // [count, height, width]
    int64_t count, height, width;
    int radius;
    float epsilon;
};

void guide_statistics(const GuidedParams& params);
// Works on maps begin..end.
void guided_filter(const GuidedParams& params, int64_t begin, int64_t end);

}  // namespace dcam
