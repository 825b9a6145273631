// guided_filter on the GPU: two launches on the given stream, nothing allocated and nothing waited for.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/guided.h"

namespace dcam::cuda {

// Floats that `guided_filter` needs beside its result: the statistics of the guide, and room for maps of more cells
// than shared memory takes.
int64_t guided_workspace(const GuidedParams& params);

// Device pointers; `statistics` points to the workspace; `out` must not overlap `maps`.
cudaError_t guided_filter(const GuidedParams& params, cudaStream_t stream);

}  // namespace dcam::cuda
