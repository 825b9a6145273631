#include "dcam/refine.h"

namespace dcam {

const char* const RefineSettings::names[kCount] = {
#define DCAM_NAME(type, name) #name,
    DCAM_REFINE_SETTINGS(DCAM_NAME)
#undef DCAM_NAME
};

RefineSettings RefineSettings::unpack(const double* packed) {
    RefineSettings s;
#define DCAM_READ(type, name) s.name = static_cast<type>(*packed++);
    DCAM_REFINE_SETTINGS(DCAM_READ)
#undef DCAM_READ
    return s;
}

bool RefineSettings::valid() const {
    const bool side = kernel_size == 0 || (kernel_size >= 3 && kernel_size <= 11 && kernel_size % 2 == 1);
    const auto is_percent = [](double percent) { return percent >= 0 && percent <= 100; };
    return is_percent(percentile_spread) && is_percent(percentile_bright) && is_percent(percentile_dim) &&
           is_percent(percentile_else) && side && denoise >= Denoise::none && denoise <= Denoise::gaussian &&
           step_ratio > 0 && smoothing_sigma > 0 && smoothing_sigma <= 5 && gating_sigma >= 0 && gating_sigma <= 5;
}

}  // namespace dcam
