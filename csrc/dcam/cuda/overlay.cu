// Upsampling and blending. A block takes a tile of the frame's pixels in memory order, whatever rows they are of; bytes
// go through shared memory, so that three channels of a byte each still are read and written 16 bytes at a time.
#include <algorithm>

#include "dcam/cuda/launch.h"
#include "dcam/cuda/overlay.h"
#include "dcam/pixels.h"

namespace dcam::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kGroup = 4;  // pixels that a thread blends together: three words, and no two threads in a bank
constexpr int kTile = 2048;
constexpr unsigned kMostMaps = 65535;  // of one grid; a block takes one map after the other

struct alignas(16) Bytes16 {
    uint32_t word[4];
};

// Row `y` of one map, between its two rows of cells; clamped for an axis of one cell.
struct Row {
    const float *upper, *lower;
    float share;

    __device__ __forceinline__ Row(const OverlayParams& p, const float* map, int y) {
        const int64_t width = p.columns.cells;
        upper = map + p.rows.left[y] * width;
        lower = p.rows.cells > 1 ? upper + width : upper;
        share = p.rows.share[y];
    }

    template <class Cell>
    __device__ __forceinline__ float at(const AxisParams& columns, int x, Cell cell) const {
        const int left = columns.left[x], right = columns.cells > 1 ? left + 1 : left;
        return between(between(cell(upper[left]), cell(lower[left]), share),
                       between(cell(upper[right]), cell(lower[right]), share), columns.share[x]);
    }
};

template <class Word>
__device__ __forceinline__ void copy(const uint8_t* from, uint8_t* to, int bytes) {
    const auto* source = reinterpret_cast<const Word*>(from);
    auto* target = reinterpret_cast<Word*>(to);
    for (int i = threadIdx.x; i < bytes / static_cast<int>(sizeof(Word)); i += kThreads) target[i] = source[i];
}

// Word: the largest that every tile of the image and of the result is aligned to.
template <class Word>
__global__ void __launch_bounds__(kThreads) overlay_tile(const __grid_constant__ OverlayParams p) {
    __shared__ float colours[256][4];
    alignas(16) __shared__ uint8_t tile[kTile * 3];
    const int width = static_cast<int>(p.columns.pixels), pixels = static_cast<int>(p.rows.pixels) * width;
    const int first = static_cast<int>(blockIdx.x) * kTile, count = min(kTile, pixels - first);
    const float keep = 1 - p.alpha;
    for (int i = threadIdx.x; i < 256 * 3; i += kThreads) colours[i / 3][i % 3] = weighted_colour(p.alpha, p.table[i]);
    for (int64_t t = blockIdx.y; t < p.count; t += gridDim.y) {
        const float* map = p.maps + t * p.rows.cells * p.columns.cells;
        copy<Word>(p.image + int64_t{3} * first, tile, 3 * count);
        __syncthreads();
        for (int group = threadIdx.x * kGroup; group < count; group += kThreads * kGroup) {
            int y = (first + group) / width, x = first + group - y * width;
            const int end = min(group + kGroup, count);
            Row row(p, map, y);
            for (int i = group; i < end; ++i, ++x) {
                if (x == width) {
                    x = 0;
                    row = Row(p, map, ++y);
                }
                if (y < p.rows.seen_begin || y >= p.rows.seen_end || x < p.columns.seen_begin ||
                    x >= p.columns.seen_end)
                    continue;
                const float* colour = colours[level_of(row.at(p.columns, x, [](float cell) { return tame(cell); }))];
                for (int c = 0; c < 3; ++c) tile[3 * i + c] = blended(keep, tile[3 * i + c], colour[c]);
            }
        }
        __syncthreads();
        copy<Word>(tile, p.out + 3 * (t * pixels + first), 3 * count);
        __syncthreads();
    }
}

__global__ void __launch_bounds__(kThreads) upsample_pixels(const __grid_constant__ OverlayParams p) {
    const int width = static_cast<int>(p.columns.pixels), pixels = static_cast<int>(p.rows.pixels) * width;
    const int pixel = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    if (pixel >= pixels) return;
    const int y = pixel / width;
    for (int64_t t = blockIdx.y; t < p.count; t += gridDim.y) {
        const Row row(p, p.maps + t * p.rows.cells * p.columns.cells, y);
        p.values[t * pixels + pixel] = row.at(p.columns, pixel - y * width, [](float cell) { return cell; });
    }
}

template <class Kernel>
cudaError_t launch_tiles(Kernel kernel, const OverlayParams& p, int tile, cudaStream_t stream) {
    if (p.count == 0) return cudaSuccess;
    if (p.rows.pixels > (int64_t{1} << 30) / p.columns.pixels) return cudaErrorInvalidValue;
    const int64_t tiles = (p.rows.pixels * p.columns.pixels + tile - 1) / tile;
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(std::min<int64_t>(p.count, kMostMaps)));
    return launch(kernel, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace

cudaError_t overlay(const OverlayParams& p, cudaStream_t stream) {
    const auto ends = reinterpret_cast<uintptr_t>(p.image) | reinterpret_cast<uintptr_t>(p.out);
    // a second map begins where the first ends
    const auto frame = static_cast<uintptr_t>(p.rows.pixels * p.columns.pixels * 3);
    const bool aligned = (ends | frame) % sizeof(Bytes16) == 0;
    return launch_tiles(aligned ? overlay_tile<Bytes16> : overlay_tile<uint8_t>, p, kTile, stream);
}

cudaError_t upsample(const OverlayParams& p, cudaStream_t stream) {
    return launch_tiles(upsample_pixels, p, kThreads, stream);
}

}  // namespace dcam::cuda
