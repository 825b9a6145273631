// What is the same for every instruction set: the choice of one, arguments, and the entry points of dcam/*.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "dcam/cpu/kernels.h"
#include "dcam/math.h"

namespace dcam {

extern const Kernels kernels_base;
#ifdef __x86_64__
extern const Kernels kernels_avx2, kernels_avx512;
#endif

namespace {

bool runs(const Kernels& table) {
#ifdef __x86_64__
    if (&table == &kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (&table == &kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return &table == &kernels_base;
}

const Kernels* const tables[] = {
#ifdef __x86_64__
    &kernels_avx512,
    &kernels_avx2,
#endif
    &kernels_base,
};

const Kernels*& in_use() {
    static const Kernels* table = *std::find_if(std::begin(tables), std::end(tables), [](auto t) { return runs(*t); });
    return table;
}

}  // namespace

const Kernels& kernels() { return *in_use(); }

bool use_kernels(const char* name) {
    for (const Kernels* table : tables)
        if (std::strcmp(table->name, name) == 0 && runs(*table)) {
            in_use() = table;
            return true;
        }
    return false;
}

float* scratch(int64_t size) {
    struct Free {
        void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    thread_local std::unique_ptr<float, Free> memory;
    thread_local int64_t capacity = 0;
#ifdef __SANITIZE_ADDRESS__
    capacity = 0;  // room left from a larger map would hide that a smaller one overruns its own
#endif
    if (size > capacity) {
        memory.reset();
        capacity = 0;
        memory.reset(static_cast<float*>(::operator new(size * sizeof(float), std::align_val_t{64})));
        capacity = size;
    }
    return memory.get();
}

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
    return side && denoise >= Denoise::none && denoise <= Denoise::gaussian && step_ratio > 0 && smoothing_sigma > 0 &&
           smoothing_sigma <= 5 && gating_sigma >= 0 && gating_sigma <= 5;
}

void refine(const RefineParams& p, int64_t begin, int64_t end) { kernels().refine(p, begin, end); }
void rank_filter(const RankFilterParams& p, int64_t begin, int64_t end) { kernels().rank_filter(p, begin, end); }
void pool_weights(const PoolParams& p, int64_t begin, int64_t end) { kernels().pool_weights(p, begin, end); }
void pool_cells(const PoolParams& p, int64_t begin, int64_t end) { kernels().pool_cells(p, begin, end); }
void normalise(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end) {
    kernels().normalise(maps, flags, count, begin, end);
}
void upsample(const OverlayParams& p, int64_t begin, int64_t end) { kernels().upsample(p, begin, end); }
void overlay(const OverlayParams& p, int64_t begin, int64_t end) { kernels().overlay(p, begin, end); }

bool finite_rows(const PoolParams& p, bool of_gradients) {
    const void* data = of_gradients ? p.gradients : p.activations;
    const int64_t target_stride = of_gradients ? p.gradient_target_stride : p.activation_target_stride;
    const int64_t row_stride = of_gradients ? p.gradient_row_stride : p.activation_row_stride;
    const auto finite = [&](int64_t index) {
        if (p.dtype == Dtype::float32) return std::isfinite(static_cast<const float*>(data)[index]);
        const int exponent = p.dtype == Dtype::bfloat16 ? 0x7f80 : 0x7c00;
        return (static_cast<const uint16_t*>(data)[index] & exponent) != exponent;
    };
    for (int64_t t = 0; t < p.targets; ++t)
        for (int64_t n = 0; n < p.count; ++n)
            for (int64_t d = 0; d < p.channels; ++d)
                if (!finite(t * target_stride + (p.cells ? p.cells[n] : n) * row_stride + d)) return false;
    return true;
}

const char* check_boxes(const float* boxes, int64_t height, int64_t width) {
    for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
            for (int c = 0; c < 4; ++c)
                if (boxes[(y * width + x) * 4 + c] != (c % 2 == 0 ? boxes[x * 4 + c] : boxes[y * width * 4 + c]))
                    return "separable (x from the column, y from the row)";
    for (int axis = 0; axis < 2; ++axis) {
        const int64_t cells = axis == 0 ? width : height, stride = axis == 0 ? 4 : width * 4;
        for (int64_t i = 0; i < cells; ++i) {
            const float *box = boxes + i * stride + axis, *next = box + stride;
            const bool ascending = i + 1 == cells || box[0] + box[2] < next[0] + next[2];
            if (!(box[0] < box[2]) || !ascending) return "ordered (x0 < x1, y0 < y1, centres ascending)";
        }
    }
    return nullptr;
}

void fill_axis(const float* boxes, int64_t height, int64_t width, bool columns, AxisParams& axis) {
    const int64_t cells = columns ? width : height, stride = columns ? 4 : width * 4;
    const float* box = boxes + (columns ? 0 : 1);
    const auto centre = [&](int64_t i) { return (static_cast<double>(box[i * stride]) + box[i * stride + 2]) / 2; };
    axis.cells = cells;
    for (int64_t pixel = 0, left = 0; pixel < axis.pixels; ++pixel) {
        const double at = std::clamp(static_cast<double>(pixel) + 0.5, centre(0), centre(cells - 1));
        while (left + 2 < cells && centre(left + 1) <= at) ++left;
        axis.left[pixel] = static_cast<int32_t>(left);
        axis.share[pixel] =
            cells == 1 ? 0 : static_cast<float>((at - centre(left)) / (centre(left + 1) - centre(left)));
    }
    const auto pixel_at = [&](double edge) {
        return static_cast<int64_t>(std::clamp(edge, 0.0, static_cast<double>(axis.pixels)));
    };
    float first = box[0], last = box[2];
    for (int64_t i = 1; i < cells; ++i) {
        first = std::min(first, box[i * stride]);
        last = std::max(last, box[i * stride + 2]);
    }
    axis.seen_begin = pixel_at(std::ceil(first - 0.5));
    axis.seen_end = pixel_at(std::floor(last + 0.5));
}

}  // namespace dcam
