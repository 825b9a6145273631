// Order statistics of the values that a thread block holds in its registers. A histogram over the integers that the
// floats are ordered by narrows the range to a thousandth, until a warp can rank what is left: all exact.
#pragma once

#include <climits>

#include "dcam/cuda/reduce.cuh"
#include "dcam/math.h"

namespace dcam::cuda {

constexpr int kBins = 1024;
constexpr int kMaxRequests = 2;

// Request for the value `at` of n ordered keys, of which `under` are less than `low` and `inside` are low..high.
struct Request {
    Position at;
    int low, high, under, inside;

    __device__ bool narrow() const { return inside <= 32 || low == high; }
};

struct SelectMemory {
    int histogram[kMaxRequests][kBins];  // zeros before and after each selection
    Request requests[kMaxRequests];
    int found[kMaxRequests][32], count[kMaxRequests], above[kMaxRequests];
    float result[kMaxRequests];
};

// Bins of 2^shift keys; the last is the one of `high`.
__device__ __forceinline__ int bin_shift(const Request& r) {
    const unsigned span = static_cast<unsigned>(r.high) - static_cast<unsigned>(r.low);
    return span < kBins ? 0 : 22 - __clz(static_cast<int>(span));
}

// Called by one warp: the request's range becomes the bin that its value lies in.
__device__ __forceinline__ void narrow_range(Request& request, int* histogram) {
    const Request r = request;
    const int lane = threadIdx.x & 31, target = static_cast<int>(r.at.below) - r.under;
    int own = 0;
    for (int j = 0; j < 32; ++j) own += histogram[lane * 32 + ((j + lane) & 31)];  // skewed: no two lanes in a bank
    const int upto = warp_scan(own);
    const int group = __ffs(__ballot_sync(kWarp, upto > target)) - 1;
    const int before = __shfl_sync(kWarp, upto - own, group);
    const int bin = histogram[group * 32 + lane], bins = before + warp_scan(bin);
    const int at = __ffs(__ballot_sync(kWarp, bins > target)) - 1;
    const int inside = __shfl_sync(kWarp, bin, at), under = __shfl_sync(kWarp, bins - bin, at);
    __syncwarp();
    for (int j = 0; j < 32; ++j) histogram[j * 32 + lane] = 0;
    if (lane != 0) return;
    const int shift = bin_shift(r);
    const unsigned low = static_cast<unsigned>(r.low) + (static_cast<unsigned>(group * 32 + at) << shift);
    const unsigned left = static_cast<unsigned>(r.high) - low, width = (1u << shift) - 1;
    request.low = static_cast<int>(low);
    request.high = static_cast<int>(low + (left < width ? left : width));
    request.under = r.under + under;
    request.inside = inside;
}

// Called by one warp: the value among the keys found in the range, or between two of them.
__device__ __forceinline__ float rank_found(const Request& r, const int* found, int above) {
    const int lane = threadIdx.x & 31, rank = static_cast<int>(r.at.below) - r.under;
    int low = r.low, next = r.low;
    if (r.low != r.high) {
        const int own_key = lane < r.inside ? found[lane] : INT_MAX;
        int order = 0;
        for (int j = 0; j < 32; ++j) {
            const int other = __shfl_sync(kWarp, own_key, j);
            order += other < own_key || (other == own_key && j < lane);
        }
        low = __shfl_sync(kWarp, own_key, __ffs(__ballot_sync(kWarp, order == rank)) - 1);
        next = __shfl_sync(kWarp, own_key, (__ffs(__ballot_sync(kWarp, order == rank + 1)) - 1) & 31);
    }
    if (rank + 1 >= r.inside) next = above;
    const float value = from_ordered(low);
    return r.at.share == 0 ? value : value + r.at.share * (from_ordered(next) - value);
}

// Called by the whole thread block. `each(f)` calls f with the key of every value that this thread holds.
template <int R, class Each>
__device__ __forceinline__ void select(SelectMemory& memory, const Request (&requests)[R], float (&results)[R],
                                       Each each) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    if (threadIdx.x == 0)
        for (int r = 0; r < R; ++r) {
            memory.requests[r] = requests[r];
            memory.count[r] = 0;
            memory.above[r] = INT_MAX;
        }
    __syncthreads();
    Request now[R];
    while (true) {
        bool narrow = true;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            now[r] = memory.requests[r];
            narrow = narrow && now[r].narrow();
        }
        if (narrow) break;
        each([&](int key) {
#pragma unroll
            for (int r = 0; r < R; ++r)
                if (key >= now[r].low && key <= now[r].high) {
                    const unsigned offset = static_cast<unsigned>(key) - static_cast<unsigned>(now[r].low);
                    atomicAdd(&memory.histogram[r][offset >> bin_shift(now[r])], 1);
                }
        });
        __syncthreads();
        if (warp < R) narrow_range(memory.requests[warp], memory.histogram[warp]);
        __syncthreads();
    }
    int above[R];
#pragma unroll
    for (int r = 0; r < R; ++r) above[r] = INT_MAX;
    each([&](int key) {
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (key > now[r].high) {
                above[r] = min(above[r], key);
            } else if (key >= now[r].low && now[r].low != now[r].high) {
                memory.found[r][atomicAdd(&memory.count[r], 1)] = key;
            }
        }
    });
#pragma unroll
    for (int r = 0; r < R; ++r) {
        above[r] = warp_min(above[r]);
        if (lane == 0) atomicMin(&memory.above[r], above[r]);
    }
    __syncthreads();
    if (warp < R) {
        const float value = rank_found(memory.requests[warp], memory.found[warp], memory.above[warp]);
        if (lane == 0) memory.result[warp] = value;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) results[r] = memory.result[r];
}

}  // namespace dcam::cuda
