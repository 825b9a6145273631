// overlay and upsample on the GPU: one launch each, on the given stream, nothing allocated and nothing waited for.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/overlay.h"

namespace dcam::cuda {

// All pointers are device pointers, those of the axes too; `fill_axis` fills them on the host, for the caller to copy.
cudaError_t overlay(const OverlayParams& params, cudaStream_t stream);
cudaError_t upsample(const OverlayParams& params, cudaStream_t stream);

}  // namespace dcam::cuda
