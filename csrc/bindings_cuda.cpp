// Operators for CUDA tensors: the checks of arguments.h, the current stream and the torch-free launchers.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "arguments.h"
#include "dcam/cuda/guided.h"
#include "dcam/cuda/overlay.h"
#include "dcam/cuda/pool.h"
#include "dcam/cuda/refine.h"

// Lives in libtorch_cuda alone; weak, so that this module loads beside a CPU-only torch too.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace {

using dcam::check, dcam::new_floats, dcam::ScalarType;
using torch::stable::Tensor;

void check_cuda(const char* caller, cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(caller) + ": CUDA: " + cudaGetErrorString(error));
}

// Makes the device of a tensor current, and holds its current stream.
struct DeviceStream {
    torch::stable::accelerator::DeviceGuard guard;
    cudaStream_t stream;

    DeviceStream(const char* caller, const Tensor& tensor) : guard(tensor.get_device_index()) {
        if (aoti_torch_get_current_cuda_stream == nullptr)
            throw std::runtime_error(std::string(caller) + ": this torch was built without CUDA");
        void* current = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
        stream = static_cast<cudaStream_t>(current);
    }
};

// A copy on the host. Waits for the stream.
template <class T>
std::vector<T> read(const char* caller, const Tensor& tensor, cudaStream_t stream) {
    std::vector<T> values(tensor.numel());
    const size_t bytes = values.size() * sizeof(T);
    check_cuda(caller, cudaMemcpyAsync(values.data(), tensor.const_data_ptr(), bytes, cudaMemcpyDeviceToHost, stream));
    check_cuda(caller, cudaStreamSynchronize(stream));
    return values;
}

void check_device(const char* caller, const Tensor& tensor, const Tensor& like) {
    check(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), caller,
          ": tensors must be on one device, got several");
}

// ---------------------------------------------------------------------------------------------------------------- pool

// The layers of a call on the device, and their scratch memory.
struct Layers {
    dcam::PoolArguments given;
    std::vector<dcam::PoolParams> params;

    Layers(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
           const std::optional<Tensor>& cells, int64_t aggregation, float* out)
        : given(activations, gradients, cells, aggregation) {
        for (size_t b = 0; b < gradients.size(); ++b) {
            check_device("pool", given.activations[b], gradients[0]);
            check_device("pool", given.gradients[b], gradients[0]);
            params.push_back(
                dcam::pool_params(given.activations[b], given.gradients[b], given.cells, aggregation, out));
        }
        if (given.cells) check_device("pool", *given.cells, gradients[0]);
    }

    int64_t workspace() const { return dcam::cuda::pool_workspace(params.data(), static_cast<int64_t>(params.size())); }

    void launch(float* workspace, int32_t* flags, cudaStream_t stream) const {
        check_cuda("pool",
                   dcam::cuda::pool(params.data(), static_cast<int64_t>(params.size()), workspace, flags, stream));
    }

    // Throws if a flag is set, naming the input at fault. Slow: searches on the host.
    void check_flags(const Tensor& flags, cudaStream_t stream) const {
        bool bad = false;
        for (const int32_t flag : read<int32_t>("pool", flags, stream)) bad = bad || flag != 0;
        if (!bad) return;
        std::vector<int64_t> cells;
        if (given.cells) cells = read<int64_t>("pool", *given.cells, stream);
        for (size_t b = 0; b < params.size(); ++b) {
            const int64_t rows = params[b].rows;
            for (const int64_t cell : cells)
                check(cell >= 0 && cell < rows, "pool: cells must be from 0 to ", rows - 1, ", got ", cell);
            const Tensor A = dcam::on_host(given.activations[b]), G = dcam::on_host(given.gradients[b]);
            dcam::PoolParams p = dcam::pool_params(dcam::channels_together(A), dcam::channels_together(G), {},
                                                   static_cast<int64_t>(params[b].aggregation), nullptr);
            p.cells = given.cells ? cells.data() : nullptr;
            p.count = params[b].count;
            if (b + 1 == params.size() || !dcam::finite_rows(p, false) || !dcam::finite_rows(p, true))
                dcam::throw_not_finite(p);
        }
    }
};

Tensor pool(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients, std::optional<Tensor> cells,
            int64_t aggregation, bool validate) {
    check(!gradients.empty() && gradients[0].dim() == 3, "pool: gradients must be [T, S, D]");
    const DeviceStream device("pool", gradients[0]);
    const int64_t targets = gradients[0].size(0);
    Tensor out = new_floats(gradients[0], {targets, cells ? cells->numel() : gradients[0].size(1)});
    Tensor flags = torch::stable::new_empty(out, {targets}, ScalarType::Int);
    const Layers layers(activations, gradients, cells, aggregation, out.mutable_data_ptr<float>());
    Tensor workspace = new_floats(out, {layers.workspace()});
    layers.launch(workspace.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), device.stream);
    if (validate && targets > 0) layers.check_flags(flags, device.stream);
    return out;
}

void pool_out(Tensor out, Tensor flags, const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
              std::optional<Tensor> cells, int64_t aggregation) {
    dcam::check_pool_out("pool_out", out, flags, activations, gradients, cells);
    check_device("pool_out", out, gradients[0]);
    check_device("pool_out", flags, gradients[0]);
    const DeviceStream device("pool_out", out);
    const Layers layers(activations, gradients, cells, aggregation, out.mutable_data_ptr<float>());
    Tensor workspace = new_floats(out, {layers.workspace()});
    layers.launch(workspace.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), device.stream);
}

// -------------------------------------------------------------------------------------------------------------- refine

// For the current device.
void check_sizes(const dcam::RefineParams& p) {
    int64_t most = 0;
    check_cuda("refine", dcam::cuda::refine_max_cells(&most));
    for (int64_t i = 0; i < (p.grids ? p.count : 1); ++i) {
        const int64_t height = p.grids ? p.grids[2 * i] : p.height, width = p.grids ? p.grids[2 * i + 1] : p.width;
        check(height <= most / width, "refine: maps must have at most ", most,
              " cells with backend 'cuda' on this GPU, got ", height, " x ", width);
    }
}

void refine_into(float* out, const Tensor& maps, const std::vector<double>& config, const std::optional<Tensor>& grids,
                 double repetition, const std::optional<Tensor>& repetitions, double image_side, bool validate) {
    const DeviceStream device("refine", maps);
    if (repetitions) check_device("refine", *repetitions, maps);
    const dcam::RefineArguments given(maps, config, grids, repetition, repetitions, image_side, out);
    dcam::RefineParams p = given.params;
    check_sizes(p);
    if (p.count == 0) return;
    std::optional<Tensor> flags;
    if (validate) {
        flags = torch::stable::new_empty(maps, {p.count}, ScalarType::Int);
        p.flags = flags->mutable_data_ptr<int32_t>();
    }
    check_cuda("refine", dcam::cuda::refine(p, device.stream));
    if (!validate) return;
    const auto bad = read<int32_t>("refine", *flags, device.stream);
    for (int64_t i = 0; i < p.count; ++i) check(bad[i] == 0, "refine: maps must be finite, got NaN or Inf in map ", i);
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
    check_device("refine", out, maps);
    refine_into(out.mutable_data_ptr<float>(), maps, config, grids, repetition, repetitions, image_side, validate);
}

Tensor rank_filter(const Tensor& given, int64_t k) {
    const DeviceStream device("rank_filter", given);
    dcam::check_rank_filter(given, k);
    const Tensor maps = dcam::as_float(given);
    Tensor out = new_floats(maps, {maps.size(0), maps.size(1), maps.size(2)});
    check_cuda("rank_filter", dcam::cuda::rank_filter({maps.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
                                                       maps.size(0), maps.size(1), maps.size(2), static_cast<int>(k)},
                                                      device.stream));
    return out;
}

Tensor guided_filter(const Tensor& given, const Tensor& guide, int64_t radius, double epsilon) {
    check_device("guided_filter", guide, given);
    const DeviceStream device("guided_filter", given);
    dcam::GuidedParams p = dcam::guided_params(given, guide, radius, epsilon);
    const Tensor maps = dcam::as_float(given), colors = dcam::as_float(guide);
    Tensor out = new_floats(maps, {p.count, p.height, p.width});
    Tensor workspace = new_floats(maps, {dcam::cuda::guided_workspace(p)});
    p.maps = maps.const_data_ptr<float>();
    p.guide = colors.const_data_ptr<float>();
    p.out = out.mutable_data_ptr<float>();
    check_cuda("guided_filter", dcam::cuda::guided_filter(p, workspace.mutable_data_ptr<float>(), device.stream));
    return out;
}

// ------------------------------------------------------------------------------------------------------- diffusion_cam

Tensor diffusion_cam(const std::vector<Tensor>& activations, const std::vector<Tensor>& gradients,
                     std::optional<Tensor> cells, int64_t aggregation, int64_t height, int64_t width,
                     const std::vector<double>& config, double repetition, std::optional<Tensor> repetitions,
                     double image_side, bool validate) {
    Tensor out = dcam::new_maps(gradients, cells, height, width);
    const DeviceStream device("diffusion_cam", out);
    float* maps = out.mutable_data_ptr<float>();
    if (repetitions) check_device("diffusion_cam", *repetitions, out);
    const dcam::RefineArguments refinement(out, config, {}, repetition, repetitions, image_side, maps);
    check_sizes(refinement.params);
    const Layers layers(activations, gradients, cells, aggregation, maps);
    if (out.numel() == 0) return out;
    Tensor flags = torch::stable::new_empty(out, {out.size(0)}, ScalarType::Int);
    Tensor workspace = new_floats(out, {layers.workspace()});
    layers.launch(workspace.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), device.stream);
    check_cuda("diffusion_cam", dcam::cuda::refine(refinement.params, device.stream));
    if (validate) layers.check_flags(flags, device.stream);
    return out;
}

// Neither allocates nor synchronizes if the tensors are laid out as the kernels take them.
void diffusion_cam_out(Tensor out, Tensor flags, Tensor workspace, const std::vector<Tensor>& activations,
                       const std::vector<Tensor>& gradients, std::optional<Tensor> cells, int64_t aggregation,
                       const std::vector<double>& config, double repetition, std::optional<Tensor> repetitions,
                       double image_side) {
    dcam::check_pool_out("diffusion_cam_out", out, flags, activations, gradients, cells);
    dcam::check_diffusion_cam_out(out, flags, workspace, activations, gradients, cells, repetitions);
    for (const Tensor* tensor : {&out, &flags, &workspace}) check_device("diffusion_cam_out", *tensor, gradients[0]);
    if (repetitions) check_device("diffusion_cam_out", *repetitions, out);
    const DeviceStream device("diffusion_cam_out", out);
    float* maps = out.mutable_data_ptr<float>();
    const dcam::RefineArguments refinement(out, config, {}, repetition, repetitions, image_side, maps);
    check_sizes(refinement.params);
    const Layers layers(activations, gradients, cells, aggregation, maps);
    check(workspace.scalar_type() == ScalarType::Float && workspace.is_contiguous() &&
              workspace.numel() >= layers.workspace(),
          "diffusion_cam_out: workspace must be contiguous float32 [", layers.workspace(), "] at least, got ",
          workspace.numel());
    if (out.numel() == 0) return;
    layers.launch(workspace.mutable_data_ptr<float>(), flags.mutable_data_ptr<int32_t>(), device.stream);
    check_cuda("diffusion_cam_out", dcam::cuda::refine(refinement.params, device.stream));
}

// ------------------------------------------------------------------------------------------------------------- overlay

// The axes, on the device.
struct DevicePixels : dcam::Pixels {
    Tensor shares, indices;

    DevicePixels(const char* caller, const Tensor& given, const Tensor& given_boxes, int64_t height, int64_t width,
                 bool validate, cudaStream_t stream)
        : Pixels(caller, given, given_boxes, height, width, validate),
          shares(new_floats(maps, {pixels()})),
          indices(torch::stable::new_empty(maps, {pixels() + 4}, ScalarType::Int)) {
        check_device(caller, boxes, maps);
        auto* lefts = indices.mutable_data_ptr<int32_t>();
        place(lefts, shares.mutable_data_ptr<float>(), lefts + pixels());
        check_cuda(caller, dcam::cuda::fill_axes(params, boxes.const_data_ptr<float>(), stream));
    }
};

Tensor upsample(const Tensor& maps, const Tensor& boxes, int64_t height, int64_t width, bool validate) {
    const DeviceStream device("upsample", maps);
    DevicePixels pixels("upsample", maps, boxes, height, width, validate, device.stream);
    Tensor out = new_floats(pixels.maps, {pixels.params.count, height, width});
    pixels.params.values = out.mutable_data_ptr<float>();
    check_cuda("upsample", dcam::cuda::upsample(pixels.params, device.stream));
    return out;
}

Tensor overlay(const Tensor& maps, const Tensor& image, const Tensor& boxes, const Tensor& colormap, double alpha,
               bool validate) {
    dcam::check_overlay(image, colormap, alpha);
    check_device("overlay", image, maps);
    check_device("overlay", colormap, maps);
    const DeviceStream device("overlay", maps);
    const int64_t height = image.size(0), width = image.size(1);
    DevicePixels pixels("overlay", maps, boxes, height, width, validate, device.stream);
    const Tensor below = torch::stable::contiguous(image), table = torch::stable::contiguous(colormap);
    Tensor out = torch::stable::new_empty(below, {pixels.params.count, height, width, 3});
    pixels.params.image = below.const_data_ptr<uint8_t>();
    pixels.params.table = table.const_data_ptr<uint8_t>();
    pixels.params.out = out.mutable_data_ptr<uint8_t>();
    pixels.params.alpha = static_cast<float>(alpha);
    check_cuda("overlay", dcam::cuda::overlay(pixels.params, device.stream));
    return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dcam_fast, CUDA, m) {
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
