// The rank-weighted filter and the Gaussian: a map with reflected borders, W cells of a row at a time.
#pragma once

#include "dcam/cpu/kernels.h"
#include "dcam/cpu/simd.h"
#include "dcam/modules.h"

namespace dcam::DCAM_ISA {

constexpr int64_t kSlack = W;  // floats past the end of a buffer that a whole vector may touch

DCAM_HD int64_t padded_size(int64_t height, int64_t width, int64_t radius) {
    return (height + 2 * radius) * (width + 2 * radius) + kSlack;
}

// `map` into the middle of `padded`, reflected on all sides.
static void pad(const float* map, float* padded, int64_t height, int64_t width, int radius) {
    const int64_t stride = width + 2 * radius;
    int64_t left[kMaxRadius + 1], right[kMaxRadius + 1];
    for (int x = 1; x <= radius; ++x) {
        left[x] = fold<int64_t>(-x, width);
        right[x] = fold<int64_t>(width - 1 + x, width);
    }
    for (int64_t y = 0; y < height; ++y) {
        const float* source = map + y * width;
        float* row = padded + (y + radius) * stride + radius;
        std::memcpy(row, source, width * sizeof(float));
        for (int x = 1; x <= radius; ++x) {
            row[-x] = source[left[x]];
            row[width - 1 + x] = source[right[x]];
        }
    }
    for (int y = 1; y <= radius; ++y) {
        const float* above = padded + (radius + fold<int64_t>(-y, height)) * stride;
        const float* below = padded + (radius + fold<int64_t>(height - 1 + y, height)) * stride;
        std::memcpy(padded + (radius - y) * stride, above, stride * sizeof(float));
        std::memcpy(padded + (radius + height - 1 + y) * stride, below, stride * sizeof(float));
    }
    std::memset(padded + (height + 2 * radius) * stride, 0, kSlack * sizeof(float));
}

// `out` has room for kSlack floats more: what a row's last vector writes too much, the next row overwrites.
template <int K>
static void rank_rows(const float* padded, float* out, int64_t height, int64_t width) {
    const int64_t stride = width + K - 1;
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; x += W) {
            vf window[K * K];
            const float* corner = padded + y * stride + x;
            for (int i = 0; i < K; ++i)
                for (int j = 0; j < K; ++j) window[i * K + j] = load(corner + i * stride + j);
            store(out + y * width + x, rank_mean<Lanes, K * K>(window));
        }
}

static void rank_map(const float* map, float* padded, float* out, int64_t height, int64_t width, int side) {
    pad(map, padded, height, width, side / 2);
    switch (side) {
        case 3:
            return rank_rows<3>(padded, out, height, width);
        case 5:
            return rank_rows<5>(padded, out, height, width);
        case 7:
            return rank_rows<7>(padded, out, height, width);
        case 9:
            return rank_rows<9>(padded, out, height, width);
        default:
            return rank_rows<11>(padded, out, height, width);
    }
}

// As rank_map.
static void gaussian_map(const float* map, float* padded, float* out, int64_t height, int64_t width, const Taps& taps) {
    const int radius = taps.radius;
    const int64_t stride = width + 2 * radius;
    pad(map, padded, height, width, radius);
    float* middle = padded + padded_size(height, width, radius);
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < stride; x += W) {
            const float* at = padded + (y + radius) * stride + x;
            vf sum = load(at) * taps.weight[0];
            for (int d = 1; d <= radius; ++d)
                sum = Lanes::fma(load(at - d * stride) + load(at + d * stride), fill(taps.weight[d]), sum);
            store(middle + y * stride + x, sum);
        }
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; x += W) {
            const float* at = middle + y * stride + x + radius;
            vf sum = load(at) * taps.weight[0];
            for (int d = 1; d <= radius; ++d) sum = Lanes::fma(load(at - d) + load(at + d), fill(taps.weight[d]), sum);
            store(out + y * width + x, sum);
        }
}

// Floats that rank_map or gaussian_map may need for `padded`.
DCAM_HD int64_t filter_scratch(int64_t height, int64_t width, int64_t radius) {
    return 2 * padded_size(height, width, radius) + kSlack;
}

static void rank_filter(const RankFilterParams& params, int64_t begin, int64_t end) {
    const int64_t cells = params.height * params.width,
                  need = filter_scratch(params.height, params.width, params.side / 2);
    float* padded = scratch(need + cells + kSlack);
    float* filtered = padded + need;
    for (int64_t i = begin; i < end; ++i) {
        rank_map(params.maps + i * cells, padded, filtered, params.height, params.width, params.side);
        std::memcpy(params.out + i * cells, filtered, cells * sizeof(float));
    }
}

}  // namespace dcam::DCAM_ISA
