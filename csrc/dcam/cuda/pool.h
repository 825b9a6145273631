// pool on the GPU, on the given stream. Neither allocates nor synchronizes; bitwise identical on every run.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/pool.h"

namespace dcam::cuda {

// Floats of scratch memory that `pool` needs.
int64_t pool_workspace(const PoolParams* layers, int64_t count);

// The normalized mean of `count` >= 1 layers into their common `out`, [targets, cells of the map]; `weights` is not
// used. All pointers are device pointers. `flags` [targets] or null: 1 where NaN, Inf or a cell that is no row reached
// the map, which then is zeros; else 0.
cudaError_t pool(const PoolParams* layers, int64_t count, float* workspace, int32_t* flags, cudaStream_t stream);

}  // namespace dcam::cuda
