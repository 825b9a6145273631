// Checks of the operators' arguments that memory safety needs, shared by all devices. The checked arguments are laid
// out as the parameters of the kernels.
#pragma once

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dcam/guided.h"
#include "dcam/overlay.h"
#include "dcam/pool.h"
#include "dcam/refine.h"

namespace dcam {

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

inline Tensor as_float(const Tensor& tensor) {
    const Tensor single =
        tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
    return single.is_contiguous() ? single : torch::stable::contiguous(single);
}

inline Tensor on_host(const Tensor& tensor) {
    return tensor.is_cpu() ? tensor
                           : torch::stable::to(tensor, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

inline Tensor new_floats(const Tensor& like, std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(like, sizes, ScalarType::Float);
}

inline Dtype dtype_of(const Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return Dtype::float32;
        case ScalarType::BFloat16:
            return Dtype::bfloat16;
        case ScalarType::Half:
            return Dtype::float16;
        default:
            throw std::invalid_argument("pool: activations must be float32, bfloat16 or float16");
    }
}

// Whether the memory ranges of two tensors, from first to last element, overlap.
inline bool overlap(const Tensor& one, const Tensor& other) {
    if (one.numel() == 0 || other.numel() == 0) return false;
    const auto begin = [](const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()); };
    const auto end = [&begin](const Tensor& tensor) {
        int64_t last = 0;
        for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
        return begin(tensor) + (static_cast<uintptr_t>(last) + 1) * tensor.element_size();
    };
    return begin(one) < end(other) && begin(other) < end(one);
}

// Throws if an output overlaps another argument.
inline void check_apart(const char* caller, const char* name, const Tensor& out, const char* other_name,
                        const Tensor& other) {
    check(!overlap(out, other), caller, ": ", name, " must not overlap ", other_name, ", got memory of both");
}
inline void check_apart(const char* caller, const char* name, const Tensor& out, const char* other_name,
                        const std::optional<Tensor>& other) {
    if (other) check_apart(caller, name, out, other_name, *other);
}
inline void check_apart(const char* caller, const char* name, const Tensor& out, const char* other_name,
                        const std::vector<Tensor>& others) {
    for (const Tensor& other : others) check_apart(caller, name, out, other_name, other);
}

// `out` may be `maps`, if the kernel reads `maps` without a copy.
inline void check_refine_out(const Tensor& out, const Tensor& maps, const std::optional<Tensor>& grids,
                             const std::optional<Tensor>& repetitions) {
    check(out.scalar_type() == ScalarType::Float && out.is_contiguous() && out.numel() == maps.numel(),
          "refine: out must be contiguous float32 of the shape of maps");
    const bool in_place = out.const_data_ptr() == maps.const_data_ptr() && maps.scalar_type() == ScalarType::Float &&
                          maps.is_contiguous();
    if (!in_place) check_apart("refine", "out", out, "maps", maps);
    check_apart("refine", "out", out, "grids", grids);
    check_apart("refine", "out", out, "repetition", repetitions);
}

inline Tensor channels_together(const Tensor& tensor) {
    return tensor.stride(-1) == 1 || tensor.size(-1) == 1 ? tensor : torch::stable::contiguous(tensor);
}

// One layer, without scratch memory.
inline PoolParams pool_params(const Tensor& activations, const Tensor& gradients, const std::optional<Tensor>& cells,
                              int64_t aggregation, float* out) {
    const int64_t targets = gradients.size(0), rows = gradients.size(1), channels = gradients.size(2);
    check((activations.dim() == 2 || (activations.dim() == 3 && activations.size(0) == targets)) &&
              activations.size(-2) == rows && activations.size(-1) == channels,
          "pool: activations must be [S, D] or [T, S, D] like gradients, got another shape");
    check(activations.scalar_type() == gradients.scalar_type(), "pool: gradients must be of the activations' dtype");
    PoolParams p{};
    p.activations = activations.const_data_ptr();
    p.gradients = gradients.const_data_ptr();
    p.cells = cells ? cells->const_data_ptr<int64_t>() : nullptr;
    p.out = out;
    p.activation_target_stride = activations.dim() == 2 ? 0 : activations.stride(0);
    p.activation_row_stride = activations.stride(-2);
    p.gradient_target_stride = gradients.stride(0);
    p.gradient_row_stride = gradients.stride(1);
    p.rows = rows;
    p.targets = targets;
    p.count = cells ? cells->numel() : rows;
    p.channels = channels;
    p.dtype = dtype_of(activations);
    p.aggregation = static_cast<Aggregation>(aggregation);
    return p;
}

// The checked layers of `pool`, with contiguous channels and cells.
struct PoolArguments {
    std::vector<Tensor> activations, gradients;
    std::optional<Tensor> cells;
    int64_t targets, count;

    PoolArguments(const std::vector<Tensor>& given_activations, const std::vector<Tensor>& given_gradients,
                  const std::optional<Tensor>& given_cells, int64_t aggregation) {
        check(!given_activations.empty() && given_activations.size() == given_gradients.size(),
              "pool: gradients must be one tensor per layer of activations");
        check(aggregation >= 0 && aggregation <= static_cast<int>(Aggregation::activation),
              "pool: aggregation must be from 0 to 6, got ", aggregation);
        check(given_gradients[0].dim() == 3, "pool: gradients must be [T, S, D]");
        targets = given_gradients[0].size(0);
        count = given_cells ? given_cells->numel() : given_gradients[0].size(1);
        if (given_cells) {
            check(given_cells->scalar_type() == ScalarType::Long, "pool: cells must be int64");
            cells = torch::stable::contiguous(*given_cells);
        }
        for (size_t b = 0; b < given_gradients.size(); ++b) {
            const Tensor& G = given_gradients[b];
            check(G.dim() == 3 && G.size(0) == targets && G.size(2) > 0 && (cells || G.size(1) == count) && count > 0,
                  "pool: gradients must be [T, S, D] with the same T and cells in every layer");
            check(G.size(1) > 0, "pool: gradients must have a row and a channel at least, got no row");
            const int64_t dimensions = given_activations[b].dim();
            check(dimensions == 2 || dimensions == 3, "pool: activations must be [S, D] or [T, S, D] like gradients");
            activations.push_back(channels_together(given_activations[b]));
            gradients.push_back(channels_together(G));
        }
    }
};

// Throws, naming the input that made a map not finite. Host pointers.
[[noreturn]] inline void throw_not_finite(const PoolParams& p) {
    const char* culprit = !finite_rows(p, false)  ? "activations"
                          : !finite_rows(p, true) ? "gradients"
                                                  : "activations times gradients";  // these may overflow
    throw std::invalid_argument(std::string("pool: ") + culprit + " must be finite, got NaN or Inf");
}

inline void check_pool_out(const char* caller, const Tensor& out, const Tensor& flags,
                           const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
                           const std::optional<Tensor>& cells) {
    check(!gradients.empty() && gradients[0].dim() == 3, caller, ": gradients must be [T, S, D]");
    const int64_t targets = gradients[0].size(0), count = cells ? cells->numel() : gradients[0].size(1);
    check(out.scalar_type() == ScalarType::Float && out.is_contiguous() && out.numel() == targets * count, caller,
          ": out must be contiguous float32 [T, N]");
    check(flags.scalar_type() == ScalarType::Int && flags.is_contiguous() && flags.numel() == targets, caller,
          ": flags must be contiguous int32 [T]");
    check_apart(caller, "out", out, "flags", flags);
    for (const auto& [name, tensor] : {std::pair{"out", &out}, std::pair{"flags", &flags}}) {
        check_apart(caller, name, *tensor, "activations", activations);
        check_apart(caller, name, *tensor, "gradients", gradients);
        check_apart(caller, name, *tensor, "cells", cells);
    }
}

// Maps [T, height, width] for the cells that are pooled.
inline Tensor new_maps(const std::vector<Tensor>& gradients, const std::optional<Tensor>& cells, int64_t height,
                       int64_t width) {
    check(!gradients.empty() && gradients[0].dim() == 3, "diffusion_cam: gradients must be [T, S, D]");
    const int64_t count = cells ? cells->numel() : gradients[0].size(1);
    check(height > 0 && width > 0 && count % width == 0 && count / width == height,
          "diffusion_cam: grid must have as many cells as are pooled, ", count, ", got ", height, " x ", width);
    return new_floats(gradients[0], {gradients[0].size(0), height, width});
}

constexpr uintptr_t kWorkspaceAlignment = 16;

// Checks of the buffers of `diffusion_cam_out`, in addition to `check_pool_out`.
inline void check_diffusion_cam_out(const Tensor& out, const Tensor& flags, const Tensor& workspace,
                                    const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
                                    const std::optional<Tensor>& cells, const std::optional<Tensor>& repetitions) {
    constexpr const char* caller = "diffusion_cam_out";
    check(out.dim() == 3 && out.size(0) == flags.numel(), caller, ": out must be [T, h, w]");
    // the CUDA kernels store 16 bytes at a time
    const auto past = reinterpret_cast<uintptr_t>(workspace.const_data_ptr()) % kWorkspaceAlignment;
    check(past == 0, caller, ": workspace must begin at a multiple of ", kWorkspaceAlignment, " bytes, got one ", past,
          " bytes past it");
    check_apart(caller, "workspace", workspace, "out", out);
    check_apart(caller, "workspace", workspace, "flags", flags);
    check_apart(caller, "workspace", workspace, "activations", activations);
    check_apart(caller, "workspace", workspace, "gradients", gradients);
    check_apart(caller, "workspace", workspace, "cells", cells);
    check_apart(caller, "workspace", workspace, "repetition", repetitions);
    check_apart(caller, "out", out, "repetition", repetitions);
    check_apart(caller, "flags", flags, "repetition", repetitions);
}

// The checked arguments of `refine`, and the memory that its parameters point into. The caller provides the flags.
struct RefineArguments {
    Tensor maps;
    std::vector<int64_t> offsets;
    std::optional<Tensor> shapes, ratios;
    RefineParams params{};

    RefineArguments(const Tensor& given, const std::vector<double>& config, const std::optional<Tensor>& grids,
                    double repetition, const std::optional<Tensor>& repetitions, double image_side, float* out)
        : maps(as_float(given)) {
        check(config.size() == RefineSettings::kCount, "refine: config must be RefineConfig.packed");
        RefineParams& p = params;
        p.settings = RefineSettings::unpack(config.data());
        check(p.settings.valid(), "refine: config must be RefineConfig.packed");
        p.maps = maps.const_data_ptr<float>();
        p.out = out;
        p.repetition = static_cast<float>(repetition);
        p.image_side = static_cast<float>(image_side);
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
            check(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0,
                  "refine: maps must be [T, h, w] with h, w > 0");
            p.count = maps.size(0);
            p.height = maps.size(1);
            p.width = maps.size(2);
        }
        if (repetitions) {
            check(repetitions->numel() == p.count, "refine: repetition must be a float or float [T]");
            ratios = as_float(*repetitions);
            p.repetitions = ratios->const_data_ptr<float>();
        }
    }
    RefineArguments(const RefineArguments&) = delete;
};

inline void check_rank_filter(const Tensor& given, int64_t k) {
    check(given.dim() == 3 && given.size(1) > 0 && given.size(2) > 0,
          "rank_filter: maps must be [T, h, w] with h, w > 0");
    check(k >= 3 && k <= 11 && k % 2 == 1, "rank_filter: k must be an odd int from 3 to 11, got ", k);
}

inline GuidedParams guided_params(const Tensor& maps, const Tensor& guide, int64_t radius, double epsilon) {
    check(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0,
          "guided_filter: maps must be [T, h, w] with h, w > 0");
    check(guide.dim() == 3 && guide.size(0) == 3 && guide.size(1) == maps.size(1) && guide.size(2) == maps.size(2),
          "guided_filter: guide must be [3, h, w] like the maps");
    check(radius >= 1 && radius <= 8, "guided_filter: radius must be from 1 to 8 cells, got ", radius);
    check(epsilon >= 1e-5 && epsilon <= 1e6, "guided_filter: epsilon must be from 1e-05 to 1e+06, got ", epsilon);
    GuidedParams p{};
    p.count = maps.size(0);
    p.height = maps.size(1);
    p.width = maps.size(2);
    p.radius = static_cast<int>(radius);
    p.epsilon = static_cast<float>(epsilon);
    return p;
}

inline void check_overlay(const Tensor& image, const Tensor& colormap, double alpha) {
    check(image.dim() == 3 && image.size(2) == 3 && image.scalar_type() == ScalarType::Byte,
          "overlay: image must be uint8 [H, W, 3]");
    check(colormap.numel() == 768 && colormap.scalar_type() == ScalarType::Byte,
          "overlay: colormap must be uint8 [256, 3]");
    check(alpha >= 0 && alpha <= 1, "overlay: alpha must be from 0 to 1, got ", alpha);
}

// The checked arguments of both ops except the image, and the location of the axes.
struct Pixels {
    Tensor maps, boxes;
    OverlayParams params{};

    // Reads `maps`. With `validate` it also reads the boxes, on the host.
    Pixels(const char* caller, const Tensor& given, const Tensor& given_boxes, int64_t height, int64_t width,
           bool validate)
        : maps(as_float(given)), boxes(as_float(given_boxes)) {
        check(maps.dim() == 3 && maps.size(1) > 0 && maps.size(2) > 0, caller,
              ": maps must be [T, h, w] with h, w > 0");
        const int64_t h = maps.size(1), w = maps.size(2);
        check(boxes.dim() == 3 && boxes.size(0) == h && boxes.size(1) == w && boxes.size(2) == 4, caller,
              ": boxes must be [h, w, 4]");
        constexpr int64_t max_side = 1 << 30;  // an int holds any pixel's place on its axis
        check(height > 0 && width > 0 && height <= max_side && width <= max_side, caller,
              ": size must be of 1 to 2^30 pixels a side");
        if (validate) {
            const Tensor here = on_host(boxes);
            const char* need = check_boxes(here.const_data_ptr<float>(), h, w);
            check(need == nullptr, caller, ": boxes must be ", need ? need : "", ", got others");
        }
        params.maps = maps.const_data_ptr<float>();
        params.count = maps.size(0);
        params.rows.pixels = height;
        params.columns.pixels = width;
        params.rows.cells = h;
        params.columns.cells = w;
    }

    // Sets where the axes lie: `left` and `share` of height + width pixels, `covered` [4].
    void place(int32_t* left, float* share, int32_t* covered) {
        params.rows.left = left;
        params.rows.share = share;
        params.rows.covered = covered;
        params.columns.left = left + params.rows.pixels;
        params.columns.share = share + params.rows.pixels;
        params.columns.covered = covered + 2;
    }
    int64_t pixels() const { return params.rows.pixels + params.columns.pixels; }
};

}  // namespace dcam
