#define DCAM_ISA avx512
#define DCAM_TABLE kernels_avx512
#include "dcam/cpu/isa.h"
