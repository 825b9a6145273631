// AKD, DACG, CBA and SICD in one launch: a thread block per map. The map lies in shared memory where windows read it,
// and in registers, if it is small enough, where cells are met one by one: thread t has the cells t, t + threads, ...
#include <algorithm>

#include "dcam/cuda/cells.cuh"
#include "dcam/cuda/filter.cuh"
#include "dcam/cuda/launch.h"
#include "dcam/cuda/reduce.cuh"
#include "dcam/cuda/refine.h"
#include "dcam/cuda/select.cuh"
#include "dcam/modules.h"

namespace dcam::cuda {
namespace {

constexpr int kNarrowThreads = 768;  // windows up to 5 x 5, in 80 registers
constexpr int kWideThreads = 256;    // windows up to 11 x 11, in 255
constexpr int kHeld = 4;             // cells that a thread can hold in registers
constexpr int64_t kRagged = 128;     // maps of a ragged batch that one launch's arguments describe
constexpr int kFilterThreads = 128;
constexpr int64_t kCellBytes = 2 * sizeof(float);  // of shared memory: two maps

struct Grid {
    uint32_t offset;  // in cells, from the first map of the launch
    uint16_t height, width;
};

struct Arguments {
    const float* maps;
    float* out;
    int32_t* flags;
    const float* repetitions;
    int height, width;
    float repetition, image_side;
    bool ragged;
    RefineSettings settings;
    Taps smoothing, gating;
    Grid grids[kRagged];
};

// As large as the compiler makes it: dynamic shared memory begins after it at a multiple of 16 bytes.
struct alignas(16) Memory {
    ReduceMemory reduce;
    SelectMemory select;
};

template <int C, int Side>
__device__ __forceinline__ void filter(const Cells<C>& cells, const View& view, const float* map, float* out) {
    one_by_one(cells, [&](int i) {
        const int y = i / view.width;
        out[i] = rank_at<Side>(map, y, i - y * view.width, view.height, view.width);
    });
}

template <int C, bool Wide>
__device__ __forceinline__ void rank_filter(const Cells<C>& cells, const View& view, int side, const float* map,
                                            float* out) {
    if (side == 3) return filter<C, 3>(cells, view, map, out);
    if (side == 5) return filter<C, 5>(cells, view, map, out);
    if constexpr (Wide) {
        if (side == 7) return filter<C, 7>(cells, view, map, out);
        if (side == 9) return filter<C, 9>(cells, view, map, out);
        filter<C, 11>(cells, view, map, out);
    }
}

// `body` with each cell's smoothed value; `middle` is scratch of a map.
template <int C, class Body>
__device__ __forceinline__ void smooth(const Cells<C>& cells, const View& view, const Taps& taps, const float* map,
                                       float* middle, Body body) {
    one_by_one(cells, [&](int i) {
        const int y = i / view.width;
        middle[i] = smooth_at(map + (i - y * view.width), y, view.height, view.width, taps);
    });
    __syncthreads();
    one_by_one(cells, [&](int i) {
        const int y = i / view.width;
        body(i, smooth_at(middle + y * view.width, i - y * view.width, view.width, 1, taps));
    });
}

// AKD, from `map`; where the result lies. Each thread reads of it what it wrote itself.
template <int C, bool Wide>
__device__ __forceinline__ float* denoise(const Cells<C>& cells, const View& view, const Arguments& args, double std,
                                          float* map, float* other) {
    switch (args.settings.denoise) {
        case Denoise::none:
            return map;
        case Denoise::gaussian:
            smooth(cells, view, args.smoothing, map, other, [&](int i, float value) { map[i] = value; });
            return map;
        default:
            rank_filter<C, Wide>(cells, view, window_side(args.settings, std, view.height, args.image_side), map,
                                 other);
            return other;
    }
}

// DACG
template <int C>
__device__ __forceinline__ void gate(Cells<C>& cells, const View& view, const Arguments& args, float* map, float* other,
                                     Memory& memory) {
    Moments moments;
    Sum<int> nonzero;
    Min lowest;
    Max highest;
    const float shift = args.settings.gating_dim;  // any value near the mean
    cells.each([&](float& z, int) {
        moments.add(z, shift);
        if (z != 0) {
            ++nonzero.value;
            lowest.value = min(lowest.value, ordered(z));
            highest.value = max(highest.value, ordered(z));
        }
    });
    reduce(memory.reduce, moments.sum, moments.squares, nonzero, lowest, highest);
    float zeta = kMinLevel;
    if (nonzero.value > 0) {
        const double percent = gating_percent(args.settings, static_cast<float>(moments.mean(view.cells, shift)),
                                              static_cast<float>(moments.std(view.cells)));
        const Request request{percentile_position(nonzero.value, percent), lowest.value, highest.value, 0,
                              nonzero.value};
        float found[1];
        select(memory.select, {request}, found, [&](auto take) {
            cells.each([&](float& z, int) {
                if (z != 0) take(ordered(z));
            });
        });
        zeta = fmaxf(found[0], zeta);
    }
    cells.each([&](float z, int i) { map[i] = z; });
    __syncthreads();
    smooth(cells, view, args.gating, map, other, [&](int i, float value) {
        if (!(map[i] > zeta)) map[i] = value;
    });
    cells.hold(map);
}

// delta of CBA
template <int C>
__device__ __forceinline__ float background(Cells<C>& cells, const View& view, const RefineSettings& s,
                                            Memory& memory) {
    Sum<float> sum;
    Sum<int> positive;
    Min lowest;
    Max highest;
    cells.each([&](float& z, int) {
        sum.value += z > 0 ? z : 0;
        positive.value += z > 0;
        lowest.value = min(lowest.value, ordered(z));
        highest.value = max(highest.value, ordered(z));
    });
    reduce(memory.reduce, sum, positive, lowest, highest);
    const int n = view.cells, nonpositive = n - positive.value;
    if (positive.value == 0) return kMinLevel;
    const Request median{median_of_positive(n, positive.value), max(lowest.value, 1), highest.value, nonpositive,
                         positive.value};
    // of whichever sign it is: a map may be full of equal zeros, which a histogram counts one by one
    Request p60{percentile_position(n, 60), median.low, median.high, nonpositive, positive.value};
    if (p60.at.below < nonpositive) p60 = {p60.at, lowest.value, 0, 0, nonpositive};
    float found[2];
    select(memory.select, {median, p60}, found,
           [&](auto take) { cells.each([&](float& z, int) { take(ordered(z)); }); });
    return background_level(s, found[0], found[1], sum.value / static_cast<float>(positive.value),
                            from_ordered(highest.value));
}

// SICD. The minimum of z is 0, its maximum `top`.
template <int C>
__device__ __forceinline__ void debias(Cells<C>& cells, const View& view, const RefineSettings& s, float repetition,
                                       float top, Memory& memory) {
    Moments moments;
    cells.each([&](float& z, int) { moments.add(z, 0); });
    reduce(memory.reduce, moments.sum, moments.squares);
    const Instance instance(s, static_cast<float>(moments.mean(view.cells, 0)),
                            static_cast<float>(moments.std(view.cells)), repetition);
    // Within either level of the instance the order of the cells stays: the range that will be left follows from the
    // extremes of both.
    Sum<float> sum;
    Sum<int> count;
    Max dim;
    Min bright;
    cells.each([&](float& z, int) {
        const bool high = z > instance.high;
        sum.value += high ? z : 0;
        count.value += high;
        if (high)
            bright.value = min(bright.value, ordered(z));
        else
            dim.value = max(dim.value, ordered(z));
    });
    reduce(memory.reduce, sum, count, dim, bright);
    const float highs = static_cast<float>(count.value), rest = static_cast<float>(view.cells - count.value);
    const float energy =
        highs * (instance.level_high * instance.level_high) + rest * (instance.level_all * instance.level_all);
    if (energy == 0) return;
    const float projection =
        sum.value * instance.level_high + (static_cast<float>(moments.sum.value) - sum.value) * instance.level_all;
    const float alpha = instance_share(s, projection, energy);
    float lowest = instance.removed(0, alpha), highest = instance.removed(from_ordered(dim.value), alpha);
    if (count.value > 0) {
        lowest = fminf(lowest, instance.removed(from_ordered(bright.value), alpha));
        highest = fmaxf(highest, instance.removed(top, alpha));
    }
    if (keeps_map(s, highest - lowest, top)) return;
    cells.each([&](float& z, int) { z = instance.removed(z, alpha); });
}

template <int C, bool Wide>
__global__ void __launch_bounds__(Wide ? kWideThreads : kNarrowThreads)
    refine_map(const __grid_constant__ Arguments args) {
    DCAM_DYNAMIC_SHARED(float, maps);
    __shared__ Memory memory;
    const int index = blockIdx.x, thread = threadIdx.x;
    const RefineSettings& s = args.settings;
    View view{args.height, args.width, args.height * args.width};
    int64_t offset = static_cast<int64_t>(index) * view.cells;
    if (args.ragged) {
        const Grid grid = args.grids[index];
        view = {grid.height, grid.width, grid.height * grid.width};
        offset = grid.offset;
    }
    const float* x = args.maps + offset;
    float *map = maps, *other = maps + view.cells;
    const int threads = threads_for(view.cells, Wide ? kWideThreads : kNarrowThreads);
    Cells<C> cells{thread < threads ? thread : view.cells, threads, view.cells, {}};

    for (int i = thread; i < kMaxRequests * kBins; i += blockDim.x) memory.select.histogram[i / kBins][i % kBins] = 0;
    Moments moments;
    Max highest;
    Sum<int> bad;
    const bool adaptive = s.denoise == Denoise::rank && s.kernel_size == 0;
    const float shift = x[0];
    one_by_one(cells, [&](int i) {
        const float value = x[i];
        map[i] = value;
        bad.value += value * 0.0f != 0;
        highest.value = max(highest.value, ordered(value));
        if (adaptive) moments.add(value, shift);
    });
    if (adaptive)
        reduce(memory.reduce, highest, bad, moments.sum, moments.squares);
    else
        reduce(memory.reduce, highest, bad);
    if (thread == 0 && args.flags) args.flags[index] = bad.value != 0;
    float* out = args.out + offset;
    if (bad.value != 0) {
        one_by_one(cells, [&](int i) { out[i] = 0; });
        return;
    }

    cells.hold(denoise<C, Wide>(cells, view, args, moments.std(view.cells), map, other));
    // with the identity smoothing of the official code, DACG changes nothing
    if (s.gating && s.gating_sigma > 0) gate(cells, view, args, map, other, memory);
    if (s.attenuation) {
        const float delta = background(cells, view, s, memory);
        cells.each([&](float& z, int) { z = attenuated(z, delta, s.attenuation_floor); });
    }

    const float ceiling = from_ordered(highest.value);
    Min lowest;
    Max top;
    cells.each([&](float& z, int) {
        z = clipped(z, ceiling);
        lowest.value = min(lowest.value, ordered(z));
        top.value = max(top.value, ordered(z));
    });
    reduce(memory.reduce, lowest, top);
    const float low = from_ordered(lowest.value), high = from_ordered(top.value), span = span_of(low, high);
    cells.each([&](float& z, int) { z = (z - low) / span; });
    if (s.debiasing) {
        const float repetition = args.repetitions ? args.repetitions[index] : args.repetition;
        debias(cells, view, s, repetition, (high - low) / span, memory);
    }
    cells.each([&](float z, int i) { out[i] = z; });
}

template <int Side>
__global__ void __launch_bounds__(kFilterThreads)
    rank_filter_maps(const float* maps, float* out, int64_t count, int height, int width) {
    const int i = static_cast<int>(blockIdx.x * kFilterThreads + threadIdx.x), y = i / width;
    const int64_t cells = static_cast<int64_t>(height) * width;
    if (i >= cells) return;
    for (int64_t t = blockIdx.y; t < count; t += gridDim.y)
        out[t * cells + i] = rank_at<Side>(maps + t * cells, y, i - y * width, height, width);
}

// Whether a window of the batch may be larger than 5 x 5.
bool may_be_wide(const RefineSettings& s, int64_t height, float image_side) {
    constexpr double any_std = 1;  // more makes no larger window
    return s.denoise == Denoise::rank && window_side(s, any_std, height, image_side) > 5;
}

template <int C, bool Wide>
cudaError_t launch_refine(const Arguments& args, int64_t count, int threads, int64_t cells, cudaStream_t stream) {
    return launch_with_shared(refine_map<C, Wide>, sizeof(Memory), dim3(static_cast<unsigned>(count)), dim3(threads),
                              static_cast<size_t>(cells) * kCellBytes, stream, args);
}

}  // namespace

cudaError_t refine_max_cells(int64_t* cells) {
    int64_t limit = 0;
    const cudaError_t error = shared_limit(&limit);
    *cells = std::min(kMaxCells, (limit - static_cast<int64_t>(sizeof(Memory))) / kCellBytes);
    return error;
}

cudaError_t refine(const RefineParams& p, cudaStream_t stream) {
    const RefineSettings& s = p.settings;
    Arguments args{p.maps,
                   p.out,
                   p.flags,
                   p.repetitions,
                   static_cast<int>(p.height),
                   static_cast<int>(p.width),
                   p.repetition,
                   p.image_side,
                   p.grids != nullptr,
                   s,
                   Taps(s.smoothing_sigma),
                   Taps(s.gating_sigma),
                   {}};
    const auto height = [&p](int64_t i) { return p.grids ? p.grids[2 * i] : p.height; };
    const auto width = [&p](int64_t i) { return p.grids ? p.grids[2 * i + 1] : p.width; };
    const int64_t step = p.grids ? kRagged : std::max<int64_t>(p.count, 1);
    // a batch of one size is looked at once
    const auto shapes = [&](int64_t begin) { return p.grids ? std::min(begin + kRagged, p.count) : begin + 1; };
    int64_t most = 0;
    if (const cudaError_t error = refine_max_cells(&most); error != cudaSuccess) return error;
    for (int64_t begin = 0; begin < p.count; begin += step)
        for (int64_t i = begin; i < shapes(begin); ++i)
            if (height(i) < 1 || width(i) < 1 || height(i) > most / width(i)) return cudaErrorInvalidValue;

    for (int64_t begin = 0; begin < p.count; begin += step) {
        const int64_t count = std::min(step, p.count - begin);
        bool wide = false;
        for (int64_t i = begin; i < shapes(begin); ++i) wide = wide || may_be_wide(s, height(i), p.image_side);
        int64_t cells = 0;
        int threads = 0;
        for (int64_t i = begin; i < shapes(begin); ++i) {
            cells = std::max(cells, height(i) * width(i));
            threads = std::max(threads, threads_for(height(i) * width(i), wide ? kWideThreads : kNarrowThreads));
            if (p.grids)
                args.grids[i - begin] = {static_cast<uint32_t>(p.offsets[i] - p.offsets[begin]),
                                         static_cast<uint16_t>(height(i)), static_cast<uint16_t>(width(i))};
        }
        if (p.grids) {
            args.maps = p.maps + p.offsets[begin];
            args.out = p.out + p.offsets[begin];
        }
        const auto launcher = wide                              ? launch_refine<0, true>
                              : cells <= kHeld * kNarrowThreads ? launch_refine<kHeld, false>
                                                                : launch_refine<0, false>;
        const cudaError_t error = launcher(args, count, threads, cells, stream);
        if (error != cudaSuccess) return error;
        if (args.flags) args.flags += count;
        if (args.repetitions) args.repetitions += count;
    }
    return cudaSuccess;
}

cudaError_t rank_filter(const RankFilterParams& p, cudaStream_t stream) {
    if (p.count == 0) return cudaSuccess;
    if (p.height > (1 << 30) / p.width) return cudaErrorInvalidValue;
    const auto kernel = p.side == 3   ? rank_filter_maps<3>
                        : p.side == 5 ? rank_filter_maps<5>
                        : p.side == 7 ? rank_filter_maps<7>
                        : p.side == 9 ? rank_filter_maps<9>
                                      : rank_filter_maps<11>;
    const int64_t blocks = (p.height * p.width + kFilterThreads - 1) / kFilterThreads;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min<int64_t>(p.count, 65535)));
    return launch(kernel, grid, dim3(kFilterThreads), 0, stream, p.maps, p.out, p.count, static_cast<int>(p.height),
                  static_cast<int>(p.width));
}

}  // namespace dcam::cuda
