// CUDA on the host, as far as our kernels go: their source, compiled as C++ against this header instead of NVIDIA's,
// runs with a fiber per thread, one block after the other. A fiber runs until it has to wait for others; which comes
// next is chosen by `order`, so that a result that depends on it shows.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

using cudaError_t = int;
using cudaStream_t = void*;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin };

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum class Order : int { forward, reverse, random };

constexpr unsigned kWarpSize = 32;
constexpr size_t kStack = 128 * 1024;

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
    const Barrier* waits;
    unsigned generation;  // of the barrier, when it began to wait
    unsigned exchanges;
};

// Values that lanes show each other: the next exchange may begin while slow lanes still read the last.
struct Warp {
    Barrier barrier;
    uint64_t slots[2][kWarpSize];
};

// What a block's shared memory may be: without asking, and at most.
constexpr size_t kWithoutAsking = 48 * 1024;
inline size_t shared_limit = 227 * 1024;
inline std::map<const void*, size_t> requested;
inline std::function<void()> other_thread;  // a call that comes, once, between a request and the launch it is for

// Launches are noted, not run.
inline bool dry = false;
inline std::map<const void*, size_t> launched;  // the most dynamic shared memory of each kernel

inline Order order = Order::forward;
inline unsigned seed = 0;
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline std::vector<char> dynamic_shared;
inline std::function<void()> body;
inline ucontext_t scheduler;
inline Fiber* running;

inline void enter() {
    body();
    running->done = true;
    swapcontext(&running->context, &scheduler);
}

inline void wait(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    running->waits = &barrier;
    running->generation = barrier.generation;
    swapcontext(&running->context, &scheduler);
}

inline unsigned lane() { return threadIdx.x % kWarpSize; }
inline Warp& warp() { return warps[threadIdx.x / kWarpSize]; }

// What all lanes of the warp show.
template <class T>
const uint64_t* show(T value) {
    static_assert(sizeof value <= sizeof(uint64_t));
    uint64_t* slots = warp().slots[running->exchanges++ % 2];
    slots[lane()] = 0;
    std::memcpy(&slots[lane()], &value, sizeof value);
    wait(warp().barrier, kWarpSize);
    return slots;
}

template <class T>
T shown_by(unsigned source, T value) {
    const uint64_t* slots = show(value);
    std::memcpy(&value, &slots[source % kWarpSize], sizeof value);
    return value;
}

inline void run_block() {
    const unsigned threads = blockDim.x;
    if (fibers.size() < threads) fibers.resize(threads);
    warps.assign(threads / kWarpSize, Warp{});
    block_barrier = {};
    std::vector<unsigned> turn(threads);
    for (unsigned i = 0; i < threads; ++i) {
        turn[i] = order == Order::reverse ? threads - 1 - i : i;
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack.reset(new char[kStack]);
        fiber.done = false;
        fiber.waits = nullptr;
        fiber.exchanges = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        makecontext(&fiber.context, enter, 0);
    }
    std::mt19937 random(seed);
    for (unsigned left = threads; left > 0;) {
        if (order == Order::random) std::shuffle(turn.begin(), turn.end(), random);
        bool moved = false;
        for (const unsigned i : turn) {
            Fiber& fiber = fibers[i];
            if (fiber.done || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
            fiber.waits = nullptr;
            running = &fiber;
            threadIdx = dim3(i, 0, 0);
            swapcontext(&scheduler, &fiber.context);
            left -= fiber.done;
            moved = true;
        }
        if (!moved) {
            std::fputs("emulator: every thread waits for another\n", stderr);
            std::abort();
        }
    }
}

}  // namespace emulator

#define DCAM_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::dynamic_shared.data())

using std::max;
using std::min;

inline void __syncthreads() { emulator::wait(emulator::block_barrier, blockDim.x); }
inline void __syncwarp() { emulator::wait(emulator::warp().barrier, emulator::kWarpSize); }

template <class T>
T __shfl_sync(unsigned, T value, int source) {
    return emulator::shown_by(static_cast<unsigned>(source), value);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
    return emulator::shown_by(emulator::lane() ^ static_cast<unsigned>(distance), value);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
    const unsigned lane = emulator::lane(), from = static_cast<unsigned>(distance);
    return emulator::shown_by(lane < from ? lane : lane - from, value);
}
inline unsigned __ballot_sync(unsigned, bool holds) {
    const uint64_t* slots = emulator::show<int>(holds);
    unsigned mask = 0;
    for (unsigned i = 0; i < emulator::kWarpSize; ++i) mask |= static_cast<unsigned>(slots[i] != 0) << i;
    return mask;
}

inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }

inline int atomicAdd(int* target, int value) {
    const int before = *target;
    *target += value;
    return before;
}
inline int atomicMin(int* target, int value) {
    const int before = *target;
    *target = min(before, value);
    return before;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
    *value = static_cast<int>(emulator::shared_limit);
    return cudaSuccess;
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), int, int bytes) {
    if (static_cast<size_t>(bytes) > emulator::shared_limit) return cudaErrorInvalidValue;
    emulator::requested[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(bytes);
    if (const auto call = std::exchange(emulator::other_thread, nullptr)) call();
    return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    const auto* key = reinterpret_cast<const void*>(kernel);
    if (config->dynamicSmemBytes > max(emulator::kWithoutAsking, emulator::requested[key])) return cudaErrorInvalidValue;
    emulator::launched[key] = max(emulator::launched[key], config->dynamicSmemBytes);
    if (emulator::dry) return cudaSuccess;
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    emulator::body = [&] { kernel(arguments...); };
    for (unsigned y = 0; y < config->gridDim.y; ++y)
        for (unsigned x = 0; x < config->gridDim.x; ++x) {
            blockIdx = dim3(x, y);
            emulator::dynamic_shared.assign(config->dynamicSmemBytes, static_cast<char>(0xff));  // NaN
            emulator::run_block();
        }
    return cudaSuccess;
}
