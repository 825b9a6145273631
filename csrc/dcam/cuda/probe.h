// Whether kernels can run at all.
#pragma once

namespace dcam::cuda {

// Why this extension's kernels cannot run on the current device, in CUDA's words: it has no code for the device, or the
// driver is older than the runtime that is linked in. Null if they can. Launches nothing.
const char* unavailable_reason();

}  // namespace dcam::cuda
