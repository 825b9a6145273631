// The guided filter. What depends on the image alone is computed once, a thread to a cell; then a thread block takes a
// map, and holds it in shared memory from its cells to its result. Sums over windows are taken row by row, then over
// the rows' sums, in the order of the CPU's kernel.
#include <algorithm>

#include "dcam/cuda/guided.h"
#include "dcam/cuda/launch.h"
#include "dcam/guided_math.h"

namespace dcam::cuda {
namespace {

constexpr int kFields = 4;  // of a window's fit: the slope of each colour, then the offset
constexpr int kRoom = 2 * kFields;
constexpr int kGuideThreads = 64;
constexpr int kMapThreads = 1024;
constexpr int64_t kSharedCells = 3072;  // 96 KiB, which every GPU since sm_80 has

// 9 double sums a cell, straight from the colours: in a window of one colour a running sum would leave rounding where
// there is nothing.
__global__ void __launch_bounds__(kGuideThreads) guide_windows(const __grid_constant__ GuidedParams p) {
    const int64_t cells = p.height * p.width, i = int64_t{blockIdx.x} * kGuideThreads + threadIdx.x;
    if (i >= cells) return;
    const Window rows(i / p.width, p.radius, p.height), columns(i % p.width, p.radius, p.width);
    double moments[GuidedParams::kStatistics] = {};
    for (int64_t y = rows.begin; y < rows.end; ++y) {
        for (int64_t x = columns.begin; x < columns.end; ++x) {
            const float* at = p.guide + y * p.width + x;
            const double colour[3] = {at[0], at[cells], at[2 * cells]};
            DCAM_UNROLL
            for (int c = 0; c < 3; ++c) moments[c] += colour[c];
            DCAM_UNROLL
            for (int pair = 0; pair < 6; ++pair)
                moments[3 + pair] += colour[Symmetric3::row(pair)] * colour[Symmetric3::column(pair)];
        }
    }
    const double count = static_cast<double>(rows.size() * columns.size());
    DCAM_UNROLL
    for (int field = 0; field < GuidedParams::kStatistics; ++field) moments[field] /= count;
    const Symmetric3 inverse = inverse_covariance(moments, p.epsilon);
    DCAM_UNROLL
    for (int c = 0; c < 3; ++c) p.statistics[c * cells + i] = static_cast<float>(moments[c]);
    DCAM_UNROLL
    for (int pair = 0; pair < 6; ++pair) p.statistics[(3 + pair) * cells + i] = static_cast<float>(inverse.of[pair]);
}

// Calls body(cell, its row, its column) for the cells of this thread.
template <class Body>
__device__ __forceinline__ void each_cell(const GuidedParams& p, Body body) {
    const int width = static_cast<int>(p.width), cells = static_cast<int>(p.height) * width;
    for (int i = threadIdx.x; i < cells; i += blockDim.x) body(i, i / width, i % width);
}

// Means over windows of what `rows` holds the sums of along the rows.
__device__ __forceinline__ void mean_of_rows(const GuidedParams& p, const float* rows, float* means, int i, int y,
                                             int x) {
    const Window down(y, p.radius, p.height), across(x, p.radius, p.width);
    const int64_t cells = p.height * p.width;
    float sums[kFields] = {};
    for (int64_t other = down.begin; other < down.end; ++other) {
        DCAM_UNROLL
        for (int field = 0; field < kFields; ++field) sums[field] += rows[field * cells + other * p.width + x];
    }
    const float count = static_cast<float>(down.size() * across.size());
    DCAM_UNROLL
    for (int field = 0; field < kFields; ++field) means[field * cells + i] = sums[field] / count;
}

// `room`, for kRoom maps a block; null: shared memory.
__global__ void __launch_bounds__(kMapThreads) guided_maps(const __grid_constant__ GuidedParams p, float* room) {
    DCAM_DYNAMIC_SHARED(float, shared);
    const int64_t cells = p.height * p.width, t = blockIdx.x;
    float* rows = room ? room + t * kRoom * cells : shared;
    float* fit = rows + kFields * cells;
    const float* map = p.maps + t * cells;
    float* out = p.out + t * cells;
    each_cell(p, [&](int i, int, int x) {
        const Window across(x, p.radius, p.width);
        float sums[kFields] = {};
        for (int64_t other = across.begin; other < across.end; ++other) {
            const int64_t at = i - x + other;
            const float value = map[at];
            DCAM_UNROLL
            for (int c = 0; c < 3; ++c) sums[c] += value * p.guide[c * cells + at];
            sums[3] += value;
        }
        DCAM_UNROLL
        for (int field = 0; field < kFields; ++field) rows[field * cells + i] = sums[field];
    });
    __syncthreads();
    each_cell(p, [&](int i, int y, int x) {
        mean_of_rows(p, rows, fit, i, y, x);
        fit_window(p.statistics + i, fit + i, cells);
    });
    __syncthreads();
    each_cell(p, [&](int i, int, int x) {
        const Window across(x, p.radius, p.width);
        DCAM_UNROLL
        for (int field = 0; field < kFields; ++field) {
            const float* row = fit + field * cells + i - x;
            float sum = 0;
            for (int64_t other = across.begin; other < across.end; ++other) sum += row[other];
            rows[field * cells + i] = sum;
        }
    });
    __syncthreads();
    each_cell(p, [&](int i, int y, int x) {
        mean_of_rows(p, rows, fit, i, y, x);
        out[i] = fitted(p.guide + i, fit + i, cells);
    });
}

}  // namespace

int64_t guided_workspace(const GuidedParams& p) {
    const int64_t cells = p.height * p.width;
    return GuidedParams::kStatistics * cells + (cells > kSharedCells ? p.count * kRoom * cells : 0);
}

cudaError_t guided_filter(const GuidedParams& p, cudaStream_t stream) {
    if (p.count == 0) return cudaSuccess;
    if (p.height > (1 << 30) / p.width || p.count >= int64_t{1} << 31) return cudaErrorInvalidValue;
    const int64_t cells = p.height * p.width;
    const auto blocks = static_cast<unsigned>((cells + kGuideThreads - 1) / kGuideThreads);
    cudaError_t error = launch(guide_windows, dim3(blocks), dim3(kGuideThreads), 0, stream, p);
    if (error != cudaSuccess) return error;
    const bool fits = cells <= kSharedCells;
    const size_t shared = fits ? kRoom * static_cast<size_t>(cells) * sizeof(float) : 0;
    constexpr size_t without_asking = 48 * 1024;
    if (shared > without_asking) {
        error =
            cudaFuncSetAttribute(guided_maps, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
        if (error != cudaSuccess) return error;
    }
    const auto threads = static_cast<unsigned>(std::min<int64_t>((cells + 31) / 32 * 32, kMapThreads));
    float* room = fits ? nullptr : p.statistics + GuidedParams::kStatistics * cells;
    return launch(guided_maps, dim3(static_cast<unsigned>(p.count)), dim3(threads), shared, stream, p, room);
}

}  // namespace dcam::cuda
