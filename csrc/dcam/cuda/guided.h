// guided_filter on the GPU: two launches on the given stream, nothing allocated and nothing waited for.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/guided.h"

namespace dcam::cuda {

// Floats that `guided_filter` needs beside its result on the current device.
int64_t guided_workspace(const GuidedParams& params);

// All pointers are device pointers, `statistics` is not used, and `out` may be `maps`. `workspace`, aligned to 16
// bytes, has `guided_workspace` floats. The same bits on every run, whatever else is in the batch. Maps of more than
// 2^27 cells: cudaErrorInvalidValue.
cudaError_t guided_filter(const GuidedParams& params, float* workspace, cudaStream_t stream);

}  // namespace dcam::cuda
