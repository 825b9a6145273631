// The guided filter (He, Sun, Tang 2013) with three channels of color: windows cut at the border, every sum direct, so
// that nothing cancels.
#pragma once

#include <cstring>
#include <vector>

#include "dcam/cpu/kernels.h"
#include "dcam/guided_math.h"

namespace dcam::DCAM_ISA {

// Means over windows of (2 radius + 1)^2 cells; `rows` is scratch for one map.
template <class Real>
DCAM_HD void window_means(const Real* values, Real* rows, Real* means, int64_t height, int64_t width, int64_t radius) {
    for (int64_t y = 0; y < height; ++y) {
        Real* row = rows + y * width;
        std::memset(row, 0, width * sizeof(Real));
        for (int64_t d = -radius; d <= radius; ++d) {
            const int64_t begin = d < 0 ? -d : 0, end = d > 0 ? width - d : width;
            const Real* shifted = values + y * width + d;
#pragma omp simd
            for (int64_t x = begin; x < end; ++x) row[x] += shifted[x];
        }
    }
    for (int64_t y = 0; y < height; ++y) {
        Real* mean = means + y * width;
        const Window vertical(y, radius, height);
        std::memset(mean, 0, width * sizeof(Real));
        for (int64_t other = vertical.begin; other < vertical.end; ++other) {
            const Real* row = rows + other * width;
#pragma omp simd
            for (int64_t x = 0; x < width; ++x) mean[x] += row[x];
        }
        for (int64_t x = 0; x < width; ++x)
            mean[x] /= static_cast<Real>(vertical.size() * Window(x, radius, width).size());
    }
}

static void guide_statistics(const GuidedParams& p) {
    const int64_t n = p.height * p.width;
    std::vector<double> values(n), rows(n), means(9 * n);
    const auto mean_of = [&](int64_t field) {
        window_means(values.data(), rows.data(), means.data() + field * n, p.height, p.width, p.radius);
    };
    for (int c = 0; c < 3; ++c) {
        for (int64_t i = 0; i < n; ++i) values[i] = p.guide[c * n + i];
        mean_of(c);
    }
    for (int pair = 0; pair < 6; ++pair) {
        const float *first = p.guide + first_channel(pair) * n, *second = p.guide + second_channel(pair) * n;
        for (int64_t i = 0; i < n; ++i) values[i] = static_cast<double>(first[i]) * second[i];
        mean_of(3 + pair);
    }
    for (int64_t i = 0; i < n; ++i) {
        double moments[GuidedParams::kStatistics];
        for (int field = 0; field < GuidedParams::kStatistics; ++field) moments[field] = means[field * n + i];
        write_statistics(moments, p.epsilon, p.statistics + i, n);
    }
}

static void guided_filter(const GuidedParams& p, int64_t begin, int64_t end) {
    const int64_t n = p.height * p.width;
    float* rows = scratch(6 * n);
    float *values = rows + n, *fit = rows + 2 * n;  // fit: the slope of each color, then the offset
    const auto mean_of = [&p, rows](const float* of, float* into) {
        window_means(of, rows, into, p.height, p.width, p.radius);
    };
    for (int64_t t = begin; t < end; ++t) {
        const float* map = p.maps + t * n;
        float* out = p.out + t * n;
        for (int c = 0; c < 3; ++c) {
            const float* color = p.guide + c * n;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) values[i] = map[i] * color[i];
            mean_of(values, fit + c * n);
        }
        mean_of(map, fit + 3 * n);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) fit_window(p.statistics + i, fit + i, n);
        for (int field = 0; field < 4; ++field) {
            float* of = fit + field * n;
            mean_of(of, values);
            std::memcpy(of, values, n * sizeof(float));
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) out[i] = fitted(p.guide + i, fit + i, n);
    }
}

}  // namespace dcam::DCAM_ISA
