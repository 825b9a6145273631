// guided_filter on the GPU: two launches on the given stream. Neither allocates nor synchronizes.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/guided.h"

namespace dcam::cuda {

// Floats of scratch memory that `guided_filter` needs on the current device.
int64_t guided_workspace(const GuidedParams& params);

// All pointers are device pointers, `statistics` is not used, and `out` may be `maps`. `workspace`, aligned to 16
// bytes, has `guided_workspace` floats. Bitwise identical on every run, for any batch. Maps of more than
// 2^27 cells: cudaErrorInvalidValue.
cudaError_t guided_filter(const GuidedParams& params, float* workspace, cudaStream_t stream);

}  // namespace dcam::cuda
