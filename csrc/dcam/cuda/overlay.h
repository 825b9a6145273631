// overlay and upsample on the GPU: a launch each, on the given stream, nothing allocated and nothing waited for.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/overlay.h"

namespace dcam::cuda {

// All pointers are device pointers, those of the axes too. From boxes that are wrong come pixels that are.
cudaError_t fill_axes(const OverlayParams& params, const float* boxes, cudaStream_t stream);
cudaError_t overlay(const OverlayParams& params, cudaStream_t stream);
cudaError_t upsample(const OverlayParams& params, cudaStream_t stream);

}  // namespace dcam::cuda
