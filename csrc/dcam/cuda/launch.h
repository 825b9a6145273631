// How kernels are launched, and get at their dynamic shared memory: the part that a host emulator replaces.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifndef DCAM_DYNAMIC_SHARED
#define DCAM_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

namespace dcam::cuda {

// Bytes that a thread block may have, static ones among them, without cudaFuncAttributeMaxDynamicSharedMemorySize.
constexpr int64_t kSharedWithoutAsking = 48 * 1024;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Bytes of shared memory that a thread block may have on the current device, static ones among them.
inline cudaError_t shared_limit(int64_t* bytes) {
    int device = 0, limit = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    *bytes = limit;
    return error;
}

// `launch` with dynamic shared memory for a kernel that declares up to `declared` bytes more. What a kernel may have is
// a property of the kernel, not of a launch: always the same is asked for, so that no call takes it from another
// thread's, which asked for more and has not launched yet.
template <class... Parameters, class... Arguments>
cudaError_t launch_with_shared(void (*kernel)(Parameters...), size_t declared, dim3 grid, dim3 block, size_t shared,
                               cudaStream_t stream, const Arguments&... arguments) {
    if (shared + declared > kSharedWithoutAsking) {
        int64_t limit = 0;
        cudaError_t error = shared_limit(&limit);
        if (error == cudaSuccess)
            error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(limit - static_cast<int64_t>(declared)));
        if (error != cudaSuccess) return error;
    }
    return launch(kernel, grid, block, shared, stream, arguments...);
}

}  // namespace dcam::cuda
