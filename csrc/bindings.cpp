// Operators for CPU tensors, on torch's stable ABI: one binary serves every torch from 2.11. Schemas and fakes are in
// dcam_fast/ops; here arguments are checked for what memory safety needs, and handed on as plain pointers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "dcam/overlay.h"
#include "dcam/pool.h"
#include "dcam/refine.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Python gets a ValueError with just this text.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
    if (ok) return;
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

// `body` over 0..count, in pieces worth waking a thread for; `cost` is of one item, in nanoseconds, roughly.
template <class Body>
void divide(int64_t count, double cost, const Body& body) {
    constexpr double worth = 100'000;
    const auto grain = static_cast<int64_t>(worth / cost) + 1;
    if (count <= grain)
        body(0, count);
    else
        torch::stable::parallel_for(0, count, grain, body);
}

Tensor as_float(const Tensor& tensor) {
    const Tensor single =
        tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
    return single.is_contiguous() ? single : torch::stable::contiguous(single);
}

Tensor new_floats(const Tensor& like, std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(like, sizes, ScalarType::Float);
}

// ---------------------------------------------------------------------------------------------------------------- pool

dcam::Dtype dtype_of(const Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return dcam::Dtype::float32;
        case ScalarType::BFloat16:
            return dcam::Dtype::bfloat16;
        case ScalarType::Half:
            return dcam::Dtype::float16;
        default:
            throw std::invalid_argument("pool: activations must be float32, bfloat16 or float16");
    }
}

Tensor channels_together(const Tensor& tensor) {
    return tensor.stride(-1) == 1 || tensor.size(-1) == 1 ? tensor : torch::stable::contiguous(tensor);
}

// One block's raw maps into `out` [T, N].
dcam::PoolParams pool_block(const Tensor& activations, const Tensor& gradients, const std::optional<Tensor>& cells,
                            int64_t aggregation, std::vector<float>& weights, float* out) {
    const int64_t targets = gradients.size(0), rows = gradients.size(1), channels = gradients.size(2);
    check((activations.dim() == 2 || (activations.dim() == 3 && activations.size(0) == targets)) &&
              activations.size(-2) == rows && activations.size(-1) == channels,
          "pool: activations must be [S, D] or [T, S, D] like gradients, got another shape");
    check(activations.scalar_type() == gradients.scalar_type(), "pool: gradients must be of the activations' dtype");
    dcam::PoolParams p{};
    p.activations = activations.const_data_ptr();
    p.gradients = gradients.const_data_ptr();
    p.cells = cells ? cells->const_data_ptr<int64_t>() : nullptr;
    p.out = out;
    p.activation_target_stride = activations.dim() == 2 ? 0 : activations.stride(0);
    p.activation_row_stride = activations.stride(-2);
    p.gradient_target_stride = gradients.stride(0);
    p.gradient_row_stride = gradients.stride(1);
    p.targets = targets;
    p.count = cells ? cells->numel() : rows;
    p.channels = channels;
    p.dtype = dtype_of(activations);
    p.aggregation = static_cast<dcam::Aggregation>(aggregation);
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
               const std::optional<Tensor>& cells, int64_t aggregation, bool refuse) {
    check(!activations.empty() && activations.size() == gradients.size(),
          "pool: gradients must be one tensor per block of activations");
    check(aggregation >= 0 && aggregation <= static_cast<int>(dcam::Aggregation::activation),
          "pool: aggregation must be from 0 to 6, got ", aggregation);
    const Tensor& first = gradients[0];
    check(first.dim() == 3, "pool: gradients must be [T, S, D]");
    const int64_t targets = first.size(0), count = cells ? cells->numel() : first.size(1);
    std::optional<Tensor> indexes = cells;
    if (cells) {
        check(cells->scalar_type() == ScalarType::Long, "pool: cells must be int64");
        indexes = torch::stable::contiguous(*cells);
    }
    std::fill_n(flags, targets, 0);
    const auto blocks = static_cast<int64_t>(activations.size());
    std::vector<float> weights, block_map(blocks > 1 ? targets * count : 0);
    const auto normalise = [&](float* maps) {
        divide(targets, static_cast<double>(count),
               [&](int64_t begin, int64_t end) { dcam::normalise(maps, flags, count, begin, end); });
    };
    for (int64_t b = 0; b < blocks; ++b) {
        check(gradients[b].dim() == 3 && gradients[b].size(0) == targets && gradients[b].size(2) > 0 &&
                  (cells || gradients[b].size(1) == count) && count > 0,
              "pool: gradients must be [T, S, D] with the same T and cells in every block");
        const Tensor A = channels_together(activations[b]), G = channels_together(gradients[b]);
        float* raw = blocks > 1 ? block_map.data() : out;
        const dcam::PoolParams p = pool_block(A, G, indexes, aggregation, weights, raw);
        normalise(raw);
        for (int64_t t = 0; refuse && t < targets; ++t)
            if (flags[t] != 0) {
                const bool by_activations = !dcam::finite_rows(p, false);
                const bool by_gradients = !by_activations && !dcam::finite_rows(p, true);
                // what is finite may still overflow when multiplied
                check(false, "pool: ",
                      by_activations ? "activations"
                      : by_gradients ? "gradients"
                                     : "activations times gradients",
                      " must be finite, got NaN or Inf");
            }
        if (blocks > 1)
            for (int64_t i = 0; i < targets * count; ++i)
                out[i] = (b == 0 ? 0 : out[i]) + block_map[i] / static_cast<float>(blocks);
    }
    if (blocks == 1) return;
    normalise(out);
    // a map that one block spoiled is zeros as a whole
    for (int64_t t = 0; t < targets; ++t)
        if (flags[t] != 0) std::fill_n(out + t * count, count, 0.0f);
}

Tensor pool(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients, std::optional<Tensor> cells,
            int64_t aggregation, bool refuse) {
    check(!gradients.empty() && gradients[0].dim() == 3, "pool: gradients must be [T, S, D]");
    const int64_t targets = gradients[0].size(0);
    Tensor out = new_floats(gradients[0], {targets, cells ? cells->numel() : gradients[0].size(1)});
    std::vector<int32_t> flags(targets);
    pool_into(out.mutable_data_ptr<float>(), flags.data(), activations, gradients, cells, aggregation, refuse);
    return out;
}

void pool_out(Tensor out, Tensor flags, const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
              std::optional<Tensor> cells, int64_t aggregation) {
    check(!gradients.empty() && gradients[0].dim() == 3, "pool_out: gradients must be [T, S, D]");
    const int64_t targets = gradients[0].size(0), count = cells ? cells->numel() : gradients[0].size(1);
    check(out.scalar_type() == ScalarType::Float && out.is_contiguous() && out.numel() == targets * count,
          "pool_out: out must be contiguous float32 [T, N]");
    check(flags.scalar_type() == ScalarType::Int && flags.is_contiguous() && flags.numel() == targets,
          "pool_out: flags must be contiguous int32 [T]");
    pool_into(out.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), activations, gradients, cells,
              aggregation, false);
}

// -------------------------------------------------------------------------------------------------------------- refine

void refine_into(float* out, const Tensor& given, const std::vector<double>& config, const std::optional<Tensor>& grids,
                 double repetition, const std::optional<Tensor>& repetitions, double image_side, bool refuse) {
    check(config.size() == dcam::RefineSettings::size, "refine: config must be RefineConfig.packed");
    const Tensor maps = as_float(given);
    dcam::RefineParams p{};
    p.settings = dcam::RefineSettings::unpack(config.data());
    check(p.settings.valid(), "refine: config must be RefineConfig.packed");
    p.maps = maps.const_data_ptr<float>();
    p.out = out;
    p.repetition = static_cast<float>(repetition);
    p.image_side = static_cast<float>(image_side);
    std::vector<int64_t> offsets;
    std::optional<Tensor> shapes;
    int64_t cells = 0;
    if (grids) {
        check(maps.dim() == 1 && grids->is_cpu() && grids->scalar_type() == ScalarType::Long && grids->dim() == 2 &&
                  grids->size(1) == 2,
              "refine: grids must be int64 [T, 2] on the CPU for flat maps");
        shapes = torch::stable::contiguous(*grids);
        p.grids = shapes->const_data_ptr<int64_t>();
        p.count = grids->size(0);
        for (int64_t i = 0; i < p.count; ++i) {
            const int64_t height = p.grids[2 * i], width = p.grids[2 * i + 1], left = maps.numel() - cells;
            check(height > 0 && width > 0 && height <= left / width, "refine: grids must cover the ", maps.numel(),
                  " cells of maps, got ", height, " x ", width, " at cell ", cells);
            offsets.push_back(cells);
            cells += height * width;
        }
        check(cells == maps.numel(), "refine: grids must cover the ", maps.numel(), " cells of maps, got ", cells);
        p.offsets = offsets.data();
    } else {
        check(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0, "refine: maps must be [T, h, w] with h, w > 0");
        p.count = maps.size(0);
        p.height = maps.size(1);
        p.width = maps.size(2);
        cells = maps.numel();
    }
    std::optional<Tensor> ratios;
    if (repetitions) {
        check(repetitions->numel() == p.count, "refine: repetition must be a float or float [T]");
        ratios = as_float(*repetitions);
        p.repetitions = ratios->const_data_ptr<float>();
    }
    std::vector<int32_t> flags(p.count);
    p.flags = flags.data();
    if (p.count > 0) {
        constexpr double per_cell = 8;
        divide(p.count, per_cell * static_cast<double>(cells) / static_cast<double>(p.count),
               [&p](int64_t begin, int64_t end) { dcam::refine(p, begin, end); });
    }
    for (int64_t i = 0; refuse && i < p.count; ++i)
        check(flags[i] == 0, "refine: maps must be finite, got NaN or Inf in map ", i);
}

Tensor refine(const Tensor& maps, const std::vector<double>& config, std::optional<Tensor> grids, double repetition,
              std::optional<Tensor> repetitions, double image_side, bool refuse) {
    Tensor out = torch::stable::new_empty(maps, maps.sizes(), ScalarType::Float);
    refine_into(out.mutable_data_ptr<float>(), maps, config, grids, repetition, repetitions, image_side, refuse);
    return out;
}

void refine_out(Tensor out, const Tensor& maps, const std::vector<double>& config, std::optional<Tensor> grids,
                double repetition, std::optional<Tensor> repetitions, double image_side, bool refuse) {
    check(out.scalar_type() == ScalarType::Float && out.is_contiguous() && out.numel() == maps.numel(),
          "refine: out must be contiguous float32 of the shape of maps");
    refine_into(out.mutable_data_ptr<float>(), maps, config, grids, repetition, repetitions, image_side, refuse);
}

Tensor rank_filter(const Tensor& given, int64_t k) {
    check(given.dim() == 3 && given.size(1) > 0 && given.size(2) > 0,
          "rank_filter: maps must be [T, h, w] with h, w > 0");
    check(k >= 3 && k <= 11 && k % 2 == 1, "rank_filter: k must be an odd int from 3 to 11, got ", k);
    const Tensor maps = as_float(given);
    Tensor out = new_floats(maps, {maps.size(0), maps.size(1), maps.size(2)});
    const dcam::RankFilterParams p{
        maps.const_data_ptr<float>(), out.mutable_data_ptr<float>(), maps.size(0), maps.size(1), maps.size(2),
        static_cast<int>(k)};
    divide(p.count, static_cast<double>(p.height * p.width * k * k),
           [&p](int64_t begin, int64_t end) { dcam::rank_filter(p, begin, end); });
    return out;
}

// ------------------------------------------------------------------------------------------------------------- overlay

// The pixel side of both ops, with the memory that its axes point into.
struct Pixels {
    Tensor maps, boxes;
    std::vector<int32_t> left;
    std::vector<float> share;
    dcam::OverlayParams params{};

    Pixels(const char* caller, const Tensor& given, const Tensor& given_boxes, int64_t height, int64_t width)
        : maps(as_float(given)), boxes(as_float(given_boxes)) {
        check(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0, caller,
              ": maps must be [T, h, w] with h, w > 0");
        const int64_t h = maps.size(1), w = maps.size(2);
        check(boxes.dim() == 3 && boxes.size(0) == h && boxes.size(1) == w && boxes.size(2) == 4, caller,
              ": boxes must be [h, w, 4]");
        check(height > 0 && width > 0, caller, ": the image must have a pixel at least");
        const float* at = boxes.const_data_ptr<float>();
        if (const char* need = dcam::check_boxes(at, h, w))
            check(false, caller, ": boxes must be ", need, ", got others");
        left.resize(height + width);
        share.resize(height + width);
        params.maps = maps.const_data_ptr<float>();
        params.count = maps.size(0);
        params.rows = {left.data(), share.data(), height, 0, 0, 0};
        params.columns = {left.data() + height, share.data() + height, width, 0, 0, 0};
        dcam::fill_axis(at, h, w, false, params.rows);
        dcam::fill_axis(at, h, w, true, params.columns);
    }
};

Tensor upsample(const Tensor& maps, const Tensor& boxes, int64_t height, int64_t width) {
    Pixels pixels("upsample", maps, boxes, height, width);
    Tensor out = new_floats(pixels.maps, {pixels.params.count, height, width});
    pixels.params.values = out.mutable_data_ptr<float>();
    divide(pixels.params.count * height, static_cast<double>(width),
           [&pixels](int64_t begin, int64_t end) { dcam::upsample(pixels.params, begin, end); });
    return out;
}

Tensor overlay(const Tensor& maps, const Tensor& image, const Tensor& boxes, const Tensor& colormap, double alpha) {
    check(image.dim() == 3 && image.size(2) == 3 && image.scalar_type() == ScalarType::Byte,
          "overlay: image must be uint8 [H, W, 3]");
    check(colormap.numel() == 768 && colormap.scalar_type() == ScalarType::Byte,
          "overlay: colormap must be uint8 [256, 3]");
    check(alpha >= 0 && alpha <= 1, "overlay: alpha must be from 0 to 1, got ", alpha);
    const int64_t height = image.size(0), width = image.size(1);
    Pixels pixels("overlay", maps, boxes, height, width);
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
    m.impl("refine", TORCH_BOX(&refine));
    m.impl("refine_out", TORCH_BOX(&refine_out));
    m.impl("rank_filter", TORCH_BOX(&rank_filter));
    m.impl("upsample", TORCH_BOX(&upsample));
    m.impl("overlay", TORCH_BOX(&overlay));
}
