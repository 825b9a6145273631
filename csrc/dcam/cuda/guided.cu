// The guided filter: what the windows' colors say once a call, a thread a cell; then the maps, a thread block each.
// The four fields of a map lie side by side, so that one 16-byte load has them all, in shared memory if they fit. Sums
// over windows are direct, rows and then columns: running sums would cancel, and leave one thread per row something to
// do.
#include <algorithm>

#include "dcam/cuda/cells.cuh"
#include "dcam/cuda/guided.h"
#include "dcam/cuda/launch.h"
#include "dcam/guided_math.h"

namespace dcam::cuda {
namespace {

constexpr int kStatisticsThreads = 64;  // few, so that a small map reaches many SMs
constexpr int kMapThreads = 1024;
constexpr int64_t kMaxGuidedCells = int64_t{1} << 27;
constexpr int64_t kBlocksInMemory = 256;  // at most so many maps have their fields in global memory at a time

// The map times each color, and the map; then the slopes along the colors, and the offset.
struct alignas(16) Fields {
    float of[4];
};

// What a map takes: its fields, and as much again to sum them up in.
int64_t field_bytes(const GuidedParams& p) { return p.height * p.width * static_cast<int64_t>(2 * sizeof(Fields)); }

// Whether that fits the shared memory of a thread block on the current device.
bool fits(const GuidedParams& p) {
    int64_t bytes = 0;
    return shared_limit(&bytes) == cudaSuccess && field_bytes(p) <= bytes;
}

// Of the statistics, up to where fields may begin.
int64_t statistics_floats(const GuidedParams& p) {
    return (GuidedParams::kStatistics * p.height * p.width + 3) / 4 * 4;
}

__global__ void __launch_bounds__(kStatisticsThreads) guide_windows(const __grid_constant__ GuidedParams p) {
    const int height = static_cast<int>(p.height), width = static_cast<int>(p.width), cells = height * width;
    const int i = static_cast<int>(blockIdx.x * kStatisticsThreads + threadIdx.x), at = i / width;
    if (i >= cells) return;
    const Window<int> rows(at, p.radius, height), columns(i - at * width, p.radius, width);
    double moments[GuidedParams::kStatistics] = {};
    for (int y = rows.begin; y < rows.end; ++y)
        for (int j = y * width + columns.begin; j < y * width + columns.end; ++j) {
            const double r = p.guide[j], g = p.guide[cells + j], b = p.guide[2 * cells + j];
            const double terms[GuidedParams::kStatistics] = {r, g, b, r * r, r * g, r * b, g * g, g * b, b * b};
#pragma unroll
            for (int field = 0; field < GuidedParams::kStatistics; ++field) moments[field] += terms[field];
        }
    const double count = rows.size() * columns.size();
#pragma unroll
    for (int field = 0; field < GuidedParams::kStatistics; ++field) moments[field] /= count;
    write_statistics(moments, p.epsilon, p.statistics + i, cells);
}

__device__ __forceinline__ Fields sum(const Fields* line, const Window<int>& window, int step) {
    Fields total{};
    for (int at = window.begin; at < window.end; ++at) {
        const Fields one = line[at * step];
#pragma unroll
        for (int field = 0; field < 4; ++field) total.of[field] += one.of[field];
    }
    return total;
}

// `body` with each cell's means over its window, `middle` as scratch. `body` may write to `fields`.
template <class Body>
__device__ __forceinline__ void window_means(const Cells<0>& cells, const View& view, int radius, const Fields* fields,
                                             Fields* middle, Body body) {
    __syncthreads();
    one_by_one(cells, [&](int i) {
        const int start = i / view.width * view.width;
        middle[i] = sum(fields + start, {i - start, radius, view.width}, 1);
    });
    __syncthreads();
    one_by_one(cells, [&](int i) {
        const int y = i / view.width, x = i - y * view.width;
        const Window<int> rows(y, radius, view.height), columns(x, radius, view.width);
        Fields means = sum(middle + x, rows, view.width);
        const auto count = static_cast<float>(rows.size() * columns.size());
#pragma unroll
        for (int field = 0; field < 4; ++field) means.of[field] /= count;
        body(i, means);
    });
}

// In shared memory, or each thread block in its part of `memory`.
template <bool Shared>
__global__ void __launch_bounds__(kMapThreads, 1) guided_maps(const __grid_constant__ GuidedParams p, Fields* memory) {
    DCAM_DYNAMIC_SHARED(Fields, shared);
    const View view{static_cast<int>(p.height), static_cast<int>(p.width), static_cast<int>(p.height * p.width)};
    Fields* fields = Shared ? shared : memory + int64_t{2} * blockIdx.x * view.cells;
    Fields* middle = fields + view.cells;
    const Cells<0> cells{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), view.cells, nullptr};
    const auto color = [&](int c, int i) { return p.guide[c * view.cells + i]; };
    for (int64_t t = blockIdx.x; t < p.count; t += gridDim.x) {
        const float* map = p.maps + t * view.cells;
        float* out = p.out + t * view.cells;
        one_by_one(cells, [&](int i) {
            const float value = map[i];
            fields[i] = {{value * color(0, i), value * color(1, i), value * color(2, i), value}};
        });
        window_means(cells, view, p.radius, fields, middle, [&](int i, Fields& means) {
            float statistics[GuidedParams::kStatistics];
#pragma unroll
            for (int field = 0; field < GuidedParams::kStatistics; ++field)
                statistics[field] = p.statistics[field * view.cells + i];
            fit_window(statistics, means.of, 1);
            fields[i] = means;
        });
        window_means(cells, view, p.radius, fields, middle, [&](int i, const Fields& means) {
            const float colors[3] = {color(0, i), color(1, i), color(2, i)};
            out[i] = fitted(colors, means.of, 1);
        });
    }
}

}  // namespace

int64_t guided_workspace(const GuidedParams& p) {
    if (p.count == 0) return 0;
    const int64_t maps = fits(p) ? 0 : std::min(p.count, kBlocksInMemory);
    return statistics_floats(p) + maps * field_bytes(p) / static_cast<int64_t>(sizeof(float));
}

cudaError_t guided_filter(const GuidedParams& given, float* workspace, cudaStream_t stream) {
    GuidedParams p = given;
    if (p.count == 0) return cudaSuccess;
    if (p.height > kMaxGuidedCells / p.width) return cudaErrorInvalidValue;
    p.statistics = workspace;
    const int64_t cells = p.height * p.width, blocks = (cells + kStatisticsThreads - 1) / kStatisticsThreads;
    const cudaError_t error =
        launch(guide_windows, dim3(static_cast<unsigned>(blocks)), dim3(kStatisticsThreads), 0, stream, p);
    if (error != cudaSuccess) return error;
    const int threads = threads_for(cells, kMapThreads);
    if (fits(p))
        return launch_with_shared(guided_maps<true>, 0, dim3(static_cast<unsigned>(p.count)), dim3(threads),
                                  static_cast<size_t>(field_bytes(p)), stream, p, nullptr);
    return launch(guided_maps<false>, dim3(static_cast<unsigned>(std::min(p.count, kBlocksInMemory))), dim3(threads), 0,
                  stream, p, reinterpret_cast<Fields*>(workspace + statistics_floats(p)));
}

}  // namespace dcam::cuda
