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

}  // namespace dcam::cuda
