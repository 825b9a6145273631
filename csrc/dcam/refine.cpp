#include "dcam/refine.h"

namespace dcam {

RefineSettings RefineSettings::unpack(const double* p) {
    const auto real = [&p] { return *p++; };
    const auto single = [&p] { return static_cast<float>(*p++); };
    RefineSettings s;
    s.denoise = static_cast<Denoise>(static_cast<int>(real()));
    s.kernel_size = static_cast<int>(real());
    s.step_ratio = real();
    s.size_of_image = real() != 0;
    s.smoothing_sigma = real();
    s.gating = real() != 0;
    s.gating_spread = single();
    s.gating_bright = single();
    s.gating_dim = single();
    s.percent_spread = real();
    s.percent_bright = real();
    s.percent_dim = real();
    s.percent_else = real();
    s.gating_sigma = real();
    s.attenuation = real() != 0;
    s.of_median = single();
    s.of_p60 = single();
    s.of_mean = single();
    s.of_max = single();
    s.attenuation_floor = single();
    s.debiasing = real() != 0;
    s.c_rep = single();
    s.c_high = single();
    s.alpha_max = single();
    s.keep_range = single();
    return s;
}

bool RefineSettings::valid() const {
    const bool side = kernel_size == 0 || (kernel_size >= 3 && kernel_size <= 11 && kernel_size % 2 == 1);
    const auto is_percent = [](double percent) { return percent >= 0 && percent <= 100; };
    return is_percent(percent_spread) && is_percent(percent_bright) && is_percent(percent_dim) &&
           is_percent(percent_else) && side && denoise >= Denoise::none && denoise <= Denoise::gaussian &&
           step_ratio > 0 && smoothing_sigma > 0 && smoothing_sigma <= 5 && gating_sigma >= 0 && gating_sigma <= 5;
}

}  // namespace dcam
