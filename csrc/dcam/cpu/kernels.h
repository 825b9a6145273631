// The CPU kernels of one instruction set, and the table through which the chosen set is reached.
#pragma once

#include "dcam/guided.h"
#include "dcam/overlay.h"
#include "dcam/pool.h"
#include "dcam/refine.h"

namespace dcam {

struct Kernels {
    const char* name;
    void (*pool_weights)(const PoolParams&, int64_t begin, int64_t end);
    void (*pool_cells)(const PoolParams&, int64_t begin, int64_t end);
    void (*normalize)(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end);
    void (*refine)(const RefineParams&, int64_t begin, int64_t end);
    void (*rank_filter)(const RankFilterParams&, int64_t begin, int64_t end);
    void (*guide_statistics)(const GuidedParams&);
    void (*guided_filter)(const GuidedParams&, int64_t begin, int64_t end);
    void (*upsample)(const OverlayParams&, int64_t begin, int64_t end);
    void (*overlay)(const OverlayParams&, int64_t begin, int64_t end);
};

// The table in use: the best that this machine runs, until `use_kernels` names another (false: it cannot run here).
const Kernels& kernels();
bool use_kernels(const char* name);

// `size` floats, 64-byte aligned, that belong to this thread until it asks again.
float* scratch(int64_t size);

}  // namespace dcam
