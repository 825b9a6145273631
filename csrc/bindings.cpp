// Operators for CPU tensors, on torch's stable ABI: one binary serves every torch from 2.11. Schemas and fakes are in
// dcam_fast/ops. This file checks arguments for memory safety and passes plain pointers on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <numeric>
#include <optional>
#include <vector>

#include "arguments.h"
#include "dcam/cpu/threads.h"

namespace {

using dcam::check, dcam::as_float, dcam::divide, dcam::new_floats, dcam::Pixels, dcam::ScalarType;
using torch::stable::Tensor;

// ---------------------------------------------------------------------------------------------------------------- pool

// The raw maps of one layer into `out` [T, N].
dcam::PoolParams pool_layer(const Tensor& activations, const Tensor& gradients, const std::optional<Tensor>& cells,
                            int64_t aggregation, std::vector<float>& weights, float* out) {
    dcam::PoolParams p = dcam::pool_params(activations, gradients, cells, aggregation, out);
    const int64_t rows = p.rows, targets = p.targets, channels = p.channels;
    for (int64_t n = 0; cells && n < p.count; ++n)
        check(p.cells[n] >= 0 && p.cells[n] < rows, "pool: cells must be from 0 to ", rows - 1, ", got ", p.cells[n]);
    constexpr double per_channel = 0.1;
    if (dcam::uses_weights(p.aggregation)) {
        weights.resize(targets * dcam::weight_stride(channels));
        p.weights = weights.data();
        const int64_t chunks = (channels + dcam::kWeightChunk - 1) / dcam::kWeightChunk;
        divide(targets * chunks, per_channel * static_cast<double>(p.count * dcam::kWeightChunk),
               [&p](int64_t begin, int64_t end) { dcam::pool_weights(p, begin, end); });
    }
    divide(p.count, per_channel * static_cast<double>(targets * channels),
           [&p](int64_t begin, int64_t end) { dcam::pool_cells(p, begin, end); });
    return p;
}

void pool_into(float* out, int32_t* flags, const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
               const std::optional<Tensor>& cells, int64_t aggregation, bool validate) {
    const dcam::PoolArguments given(activations, gradients, cells, aggregation);
    const int64_t targets = given.targets, count = given.count;
    std::fill_n(flags, targets, 0);
    const auto layers = static_cast<int64_t>(activations.size());
    std::vector<float> weights, layer_map(layers > 1 ? targets * count : 0);
    const auto normalize = [&](float* maps) {
        divide(targets, static_cast<double>(count),
               [&](int64_t begin, int64_t end) { dcam::normalize(maps, flags, count, begin, end); });
    };
    for (int64_t b = 0; b < layers; ++b) {
        float* raw = layers > 1 ? layer_map.data() : out;
        const dcam::PoolParams p =
            pool_layer(given.activations[b], given.gradients[b], given.cells, aggregation, weights, raw);
        normalize(raw);
        for (int64_t t = 0; validate && t < targets; ++t)
            if (flags[t] != 0) {
                dcam::throw_not_finite(p);
            }
        if (layers > 1)
            for (int64_t i = 0; i < targets * count; ++i)
                out[i] = (b == 0 ? 0 : out[i]) + layer_map[i] / static_cast<float>(layers);
    }
    if (layers == 1) return;
    normalize(out);
    // a map that is not finite in one layer is zeros as a whole
    for (int64_t t = 0; t < targets; ++t)
        if (flags[t] != 0) std::fill_n(out + t * count, count, 0.0f);
}

Tensor pool(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients, std::optional<Tensor> cells,
            int64_t aggregation, bool validate) {
    check(!gradients.empty() && gradients[0].dim() == 3, "pool: gradients must be [T, S, D]");
    const int64_t targets = gradients[0].size(0);
    Tensor out = new_floats(gradients[0], {targets, cells ? cells->numel() : gradients[0].size(1)});
    std::vector<int32_t> flags(targets);
    pool_into(out.mutable_data_ptr<float>(), flags.data(), activations, gradients, cells, aggregation, validate);
    return out;
}

void pool_out(Tensor out, Tensor flags, const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
              std::optional<Tensor> cells, int64_t aggregation) {
    dcam::check_pool_out("pool_out", out, flags, activations, gradients, cells);
    pool_into(out.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), activations, gradients, cells,
              aggregation, false);
}

// -------------------------------------------------------------------------------------------------------------- refine

void refine_maps(const dcam::RefineParams& p, int64_t cells) {
    constexpr double per_cell = 8;
    divide(p.count, per_cell * static_cast<double>(cells) / static_cast<double>(p.count),
           [&p](int64_t begin, int64_t end) { dcam::refine(p, begin, end); });
}

void refine_into(float* out, const Tensor& given, const std::vector<double>& config, const std::optional<Tensor>& grids,
                 double repetition, const std::optional<Tensor>& repetitions, double image_side, bool validate) {
    const dcam::RefineArguments arguments(given, config, grids, repetition, repetitions, image_side, out);
    dcam::RefineParams p = arguments.params;
    std::vector<int32_t> flags(p.count);
    p.flags = flags.data();
    if (p.count > 0) refine_maps(p, arguments.maps.numel());
    for (int64_t i = 0; validate && i < p.count; ++i)
        check(flags[i] == 0, "refine: maps must be finite, got NaN or Inf in map ", i);
}

Tensor refine(const Tensor& maps, const std::vector<double>& config, std::optional<Tensor> grids, double repetition,
              std::optional<Tensor> repetitions, double image_side, bool validate) {
    Tensor out = torch::stable::new_empty(maps, maps.sizes(), ScalarType::Float);
    refine_into(out.mutable_data_ptr<float>(), maps, config, grids, repetition, repetitions, image_side, validate);
    return out;
}

void refine_out(Tensor out, const Tensor& maps, const std::vector<double>& config, std::optional<Tensor> grids,
                double repetition, std::optional<Tensor> repetitions, double image_side, bool validate) {
    dcam::check_refine_out(out, maps, grids, repetitions);
    refine_into(out.mutable_data_ptr<float>(), maps, config, grids, repetition, repetitions, image_side, validate);
}

Tensor rank_filter(const Tensor& given, int64_t k) {
    dcam::check_rank_filter(given, k);
    const Tensor maps = as_float(given);
    Tensor out = new_floats(maps, {maps.size(0), maps.size(1), maps.size(2)});
    const dcam::RankFilterParams p{
        maps.const_data_ptr<float>(), out.mutable_data_ptr<float>(), maps.size(0), maps.size(1), maps.size(2),
        static_cast<int>(k)};
    divide(p.count, static_cast<double>(p.height * p.width * k * k),
           [&p](int64_t begin, int64_t end) { dcam::rank_filter(p, begin, end); });
    return out;
}

Tensor guided_filter(const Tensor& given, const Tensor& guide, int64_t radius, double epsilon) {
    dcam::GuidedParams p = dcam::guided_params(given, guide, radius, epsilon);
    const Tensor maps = as_float(given), colors = as_float(guide);
    Tensor out = new_floats(maps, {p.count, p.height, p.width});
    std::vector<float> statistics(dcam::GuidedParams::kStatistics * p.height * p.width);
    p.maps = maps.const_data_ptr<float>();
    p.guide = colors.const_data_ptr<float>();
    p.statistics = statistics.data();
    p.out = out.mutable_data_ptr<float>();
    if (p.count > 0) dcam::guide_statistics(p);
    constexpr double per_cell = 20;
    divide(p.count, per_cell * static_cast<double>(p.height * p.width),
           [&p](int64_t begin, int64_t end) { dcam::guided_filter(p, begin, end); });
    return out;
}

// ------------------------------------------------------------------------------------------------------- diffusion_cam

void diffusion_cam_into(float* out, int32_t* flags, const std::vector<Tensor>& activations,
                        const std::vector<Tensor>& gradients, const std::optional<Tensor>& cells, int64_t aggregation,
                        const dcam::RefineArguments& refinement, bool validate) {
    pool_into(out, flags, activations, gradients, cells, aggregation, validate);
    dcam::RefineParams p = refinement.params;
    if (p.count > 0) refine_maps(p, p.count * p.height * p.width);
}

Tensor diffusion_cam(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
                     std::optional<Tensor> cells, int64_t aggregation, int64_t height, int64_t width,
                     const std::vector<double>& config, double repetition, std::optional<Tensor> repetitions,
                     double image_side, bool validate) {
    Tensor out = dcam::new_maps(gradients, cells, height, width);
    const dcam::RefineArguments refinement(out, config, {}, repetition, repetitions, image_side,
                                           out.mutable_data_ptr<float>());
    std::vector<int32_t> flags(out.size(0));
    diffusion_cam_into(out.mutable_data_ptr<float>(), flags.data(), activations, gradients, cells, aggregation,
                       refinement, validate);
    return out;
}

// The CPU kernels keep their own scratch memory: `workspace` is not used.
void diffusion_cam_out(Tensor out, Tensor flags, Tensor workspace, const std::vector<Tensor>& activations,
                       const std::vector<Tensor>& gradients, std::optional<Tensor> cells, int64_t aggregation,
                       const std::vector<double>& config, double repetition, std::optional<Tensor> repetitions,
                       double image_side) {
    dcam::check_pool_out("diffusion_cam_out", out, flags, activations, gradients, cells);
    dcam::check_diffusion_cam_out(out, flags, workspace, activations, gradients, cells, repetitions);
    const dcam::RefineArguments refinement(out, config, {}, repetition, repetitions, image_side,
                                           out.mutable_data_ptr<float>());
    diffusion_cam_into(out.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), activations, gradients, cells,
                       aggregation, refinement, false);
}

// ------------------------------------------------------------------------------------------------------------- overlay

// The axes, on the host.
struct HostPixels : Pixels {
    std::vector<int32_t> left, covered;
    std::vector<float> share;

    HostPixels(const char* caller, const Tensor& given, const Tensor& given_boxes, int64_t height, int64_t width,
               bool validate)
        : Pixels(caller, given, given_boxes, height, width, validate), left(pixels()), covered(4), share(pixels()) {
        place(left.data(), share.data(), covered.data());
        const float* at = boxes.const_data_ptr<float>();
        dcam::fill_axis(at, params.rows.cells, params.columns.cells, false, params.rows);
        dcam::fill_axis(at, params.rows.cells, params.columns.cells, true, params.columns);
    }
};

Tensor upsample(const Tensor& maps, const Tensor& boxes, int64_t height, int64_t width, bool validate) {
    HostPixels pixels("upsample", maps, boxes, height, width, validate);
    Tensor out = new_floats(pixels.maps, {pixels.params.count, height, width});
    pixels.params.values = out.mutable_data_ptr<float>();
    divide(pixels.params.count * height, static_cast<double>(width),
           [&pixels](int64_t begin, int64_t end) { dcam::upsample(pixels.params, begin, end); });
    return out;
}

Tensor overlay(const Tensor& maps, const Tensor& image, const Tensor& boxes, const Tensor& colormap, double alpha,
               bool validate) {
    dcam::check_overlay(image, colormap, alpha);
    const int64_t height = image.size(0), width = image.size(1);
    HostPixels pixels("overlay", maps, boxes, height, width, validate);
    const Tensor below = torch::stable::contiguous(image), table = torch::stable::contiguous(colormap);
    Tensor out = torch::stable::new_empty(below, {pixels.params.count, height, width, 3});
    pixels.params.image = below.const_data_ptr<uint8_t>();
    pixels.params.table = table.const_data_ptr<uint8_t>();
    pixels.params.out = out.mutable_data_ptr<uint8_t>();
    pixels.params.alpha = static_cast<float>(alpha);
    divide(pixels.params.count * height, 5.0 * static_cast<double>(width),
           [&pixels](int64_t begin, int64_t end) { dcam::overlay(pixels.params, begin, end); });
    return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dcam_fast, CPU, m) {
    m.impl("pool", TORCH_BOX(&pool));
    m.impl("pool_out", TORCH_BOX(&pool_out));
    m.impl("diffusion_cam", TORCH_BOX(&diffusion_cam));
    m.impl("diffusion_cam_out", TORCH_BOX(&diffusion_cam_out));
    m.impl("refine", TORCH_BOX(&refine));
    m.impl("refine_out", TORCH_BOX(&refine_out));
    m.impl("rank_filter", TORCH_BOX(&rank_filter));
    m.impl("guided_filter", TORCH_BOX(&guided_filter));
    m.impl("upsample", TORCH_BOX(&upsample));
    m.impl("overlay", TORCH_BOX(&overlay));
}
