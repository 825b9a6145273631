#define DCAM_ISA base
#define DCAM_TABLE kernels_base
#include "dcam/cpu/isa.h"
