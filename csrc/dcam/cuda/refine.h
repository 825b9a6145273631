// refine and rank_filter on the GPU: one launch each, on the given stream. Neither allocates nor synchronizes.
#pragma once

#include <cuda_runtime_api.h>

#include "dcam/refine.h"

namespace dcam::cuda {

// Cells of the largest map that `refine` takes where shared memory suffices, as on compute capability 8.0 and 9.0.
constexpr int64_t kMaxCells = 16384;

// The same for the current device: fewer where a thread block has less shared memory (11,406 on 8.6 and 8.9).
cudaError_t refine_max_cells(int64_t* cells);

// `maps`, `out`, `flags` and `repetitions` are device pointers. `grids` and `offsets` are host pointers, read before
// the call returns: they are passed as kernel arguments, so that nothing is copied and a captured graph
// needs no host memory. Ragged batches take a launch per 128 maps. Maps of more than `refine_max_cells`:
// cudaErrorInvalidValue.
cudaError_t refine(const RefineParams& params, cudaStream_t stream);

// Device pointers; maps of any size; `out` must not overlap `maps`.
cudaError_t rank_filter(const RankFilterParams& params, cudaStream_t stream);

}  // namespace dcam::cuda
