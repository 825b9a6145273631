// Upsampling and blending. A thread block takes a tile of the frame's pixels in memory order, across rows. Bytes
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
constexpr int kWarp = 32;
constexpr unsigned kMaxMaps = 65535;  // of one grid; a thread block takes one map after the other

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

// Block y: 0 the rows, 1 the columns.
__global__ void __launch_bounds__(kThreads) axes_of_boxes(const __grid_constant__ OverlayParams p, const float* boxes) {
    const bool columns = blockIdx.y == 1;
    const AxisParams& axis = columns ? p.columns : p.rows;
    const Edges edges(boxes, p.columns.cells, columns);
    const int64_t pixel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (pixel < axis.pixels) {
        const Reading reading = edges.read(pixel, axis.cells);
        axis.left[pixel] = reading.left;
        axis.share[pixel] = reading.share;
    }
    if (blockIdx.x > 0 || threadIdx.x >= kWarp) return;
    float first = edges.begin(0), last = edges.end(0);
    for (int64_t i = threadIdx.x; i < axis.cells; i += kWarp) {
        first = fminf(first, edges.begin(i));
        last = fmaxf(last, edges.end(i));
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        first = fminf(first, __shfl_xor_sync(0xffffffff, first, distance));
        last = fmaxf(last, __shfl_xor_sync(0xffffffff, last, distance));
    }
    if (threadIdx.x > 0) return;
    axis.covered[0] = covered_from(first, axis.pixels);
    axis.covered[1] = covered_to(last, axis.pixels);
}

// Word: the largest that every tile of the image and of the result is aligned to.
template <class Word>
__global__ void __launch_bounds__(kThreads) overlay_tile(const __grid_constant__ OverlayParams p) {
    __shared__ float colors[256][4];
    __shared__ int32_t covered[4];  // rows, then columns
    alignas(16) __shared__ uint8_t tile[kTile * 3];
    const int width = static_cast<int>(p.columns.pixels), pixels = static_cast<int>(p.rows.pixels) * width;
    const int first = static_cast<int>(blockIdx.x) * kTile, count = min(kTile, pixels - first);
    const float keep = 1 - p.alpha;
    if (threadIdx.x < 4) covered[threadIdx.x] = (threadIdx.x < 2 ? p.rows : p.columns).covered[threadIdx.x % 2];
    for (int i = threadIdx.x; i < 256 * 3; i += kThreads) colors[i / 3][i % 3] = weighted_color(p.alpha, p.table[i]);
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
                if (y < covered[0] || y >= covered[1] || x < covered[2] || x >= covered[3]) continue;
                const float* color = colors[level_of(row.at(p.columns, x, [](float cell) { return sanitize(cell); }))];
                for (int c = 0; c < 3; ++c) tile[3 * i + c] = blended(keep, tile[3 * i + c], color[c]);
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
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(std::min<int64_t>(p.count, kMaxMaps)));
    return launch(kernel, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace

cudaError_t fill_axes(const OverlayParams& p, const float* boxes, cudaStream_t stream) {
    const int64_t pixels = std::max(p.rows.pixels, p.columns.pixels);
    if (pixels > int64_t{1} << 30) return cudaErrorInvalidValue;
    const auto blocks = static_cast<unsigned>((pixels + kThreads - 1) / kThreads);
    return launch(axes_of_boxes, dim3(blocks, 2), dim3(kThreads), 0, stream, p, boxes);
}

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
