// overlay and upsample on the GPU: one launch each, on the given stream. Neither allocates nor synchronizes.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/overlay.h"

namespace dcam::cuda {

// All pointers are device pointers, those of the axes too. Wrong boxes give wrong pixels.
cudaError_t fill_axes(const OverlayParams& params, const float* boxes, cudaStream_t stream);
cudaError_t overlay(const OverlayParams& params, cudaStream_t stream);
cudaError_t upsample(const OverlayParams& params, cudaStream_t stream);

}  // namespace dcam::cuda
