#include "dcam/cuda/probe.h"

#include <cuda_runtime.h>

namespace dcam::cuda {
namespace {

// Compiled for the same architectures as all others.
__global__ void probe() {}

}  // namespace

const char* unavailable_reason() {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
    if (error == cudaSuccess) return nullptr;
    cudaGetLastError();  // or a later call of torch's would report it
    return cudaGetErrorString(error);
}

}  // namespace dcam::cuda
