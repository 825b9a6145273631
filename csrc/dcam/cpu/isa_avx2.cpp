#define DCAM_ISA avx2
#define DCAM_TABLE kernels_avx2
#include "dcam/cpu/isa.h"
