// Compiled once per instruction set: DCAM_ISA is the namespace, and DCAM_TABLE the table that it fills.
#include "dcam/cpu/guided_kernel.h"
#include "dcam/cpu/kernels.h"
#include "dcam/cpu/overlay_kernel.h"
#include "dcam/cpu/pool_kernel.h"
#include "dcam/cpu/rank_kernel.h"
#include "dcam/cpu/refine_kernel.h"

#define DCAM_TEXT_(x) #x
#define DCAM_TEXT(x) DCAM_TEXT_(x)

namespace dcam {
extern const Kernels DCAM_TABLE;
const Kernels DCAM_TABLE{
    DCAM_TEXT(DCAM_ISA), &DCAM_ISA::pool_weights, &DCAM_ISA::pool_cells,       &DCAM_ISA::normalize,
    &DCAM_ISA::refine,   &DCAM_ISA::rank_filter,  &DCAM_ISA::guide_statistics, &DCAM_ISA::guided_filter,
    &DCAM_ISA::upsample, &DCAM_ISA::overlay,
};
}  // namespace dcam
