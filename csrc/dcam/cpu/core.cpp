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

void refine(const RefineParams& p, int64_t begin, int64_t end) { kernels().refine(p, begin, end); }
void rank_filter(const RankFilterParams& p, int64_t begin, int64_t end) { kernels().rank_filter(p, begin, end); }
void guide_statistics(const GuidedParams& p) { kernels().guide_statistics(p); }
void guided_filter(const GuidedParams& p, int64_t begin, int64_t end) { kernels().guided_filter(p, begin, end); }
void pool_weights(const PoolParams& p, int64_t begin, int64_t end) { kernels().pool_weights(p, begin, end); }
void pool_cells(const PoolParams& p, int64_t begin, int64_t end) { kernels().pool_cells(p, begin, end); }
void normalize(float* maps, int32_t* flags, int64_t count, int64_t begin, int64_t end) {
    kernels().normalize(maps, flags, count, begin, end);
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

}  // namespace dcam
