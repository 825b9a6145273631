// The pybind11 module: build facts, and one map at a time as NumPy arrays, past torch's dispatcher.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "dcam/cpu/kernels.h"
#include "dcam/cpu/threads.h"
#include "dcam/math.h"
#include "dcam/pool.h"
#include "dcam/refine.h"

#ifdef DCAM_CUDA_ARCHS
#include "dcam/cuda/probe.h"
#else
#define DCAM_CUDA_ARCHS ""
namespace dcam::cuda {
const char* unavailable_reason() { return "the extension was built without CUDA kernels"; }
}  // namespace dcam::cuda
#endif

namespace py = pybind11;

namespace {

using Array = py::array_t<float, py::array::c_style>;

// A float32 [h, w] array in C order: the argument itself, or a copy of a strided one.
Array as_map(const char* caller, const py::array& map) {
    if (!py::isinstance<py::array_t<float>>(map) || map.ndim() != 2 || map.size() == 0)
        throw py::value_error(std::string(caller) + ": map must be float32 [h, w] with h, w > 0, got " +
                              py::str(map.dtype()).cast<std::string>() + " " +
                              py::str(py::tuple(map.attr("shape"))).cast<std::string>());
    return Array::ensure(map);
}

Array refine_array(const py::array& given, const py::tuple& packed, double repetition, double image_side) {
    const Array map = as_map("refine_array", given);
    double numbers[dcam::RefineSettings::kCount];
    const bool complete = packed.size() == dcam::RefineSettings::kCount;
    for (int i = 0; complete && i < dcam::RefineSettings::kCount; ++i)
        numbers[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(packed.ptr(), i));
    dcam::RefineParams params{};
    if (complete) params.settings = dcam::RefineSettings::unpack(numbers);
    if (!complete || !params.settings.valid())
        throw py::value_error("refine_array: config must be RefineConfig.packed");
    Array out({map.shape(0), map.shape(1)});
    int32_t flag = 0;
    params.maps = map.data();
    params.out = out.mutable_data();
    params.flags = &flag;
    params.count = 1;
    params.height = map.shape(0);
    params.width = map.shape(1);
    params.repetition = static_cast<float>(repetition);
    params.image_side = static_cast<float>(image_side);
    dcam::refine(params, 0, 1);
    if (flag != 0) throw py::value_error("refine_array: map must be finite, got NaN or Inf");
    return out;
}

Array rank_filter_array(const py::array& given, int side) {
    const Array map = as_map("rank_filter_array", given);
    if (side < 3 || side > 11 || side % 2 == 0)
        throw py::value_error("rank_filter_array: k must be an odd int from 3 to 11, got " + std::to_string(side));
    Array out({map.shape(0), map.shape(1)});
    dcam::rank_filter({map.data(), out.mutable_data(), 1, map.shape(0), map.shape(1), side}, 0, 1);
    return out;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.attr("cuda_archs") = DCAM_CUDA_ARCHS;
    py::list settings;
    for (const char* name : dcam::RefineSettings::names) settings.append(name);
    m.attr("refine_settings") = py::tuple(settings);
    m.def("cuda_unavailable_reason", &dcam::cuda::unavailable_reason,
          "Why no CUDA kernel can run on the current device; None: they can.");
    m.def("cpu_kernels", [] { return dcam::kernels().name; }, "The instruction set in use.");
    m.def("use_cpu_kernels", &dcam::use_kernels, "Choose an instruction set (base, avx2, avx512); False: not here.");
    m.def("num_threads", &dcam::num_threads, "How many threads a CPU op may use, the calling one included.");
    m.def("set_num_threads", &dcam::set_num_threads);
    m.def("kernel_side", &dcam::kernel_side, "Side of the adaptive kernel from step_ratio, std and size.");
    m.def("pool_weight_parts", &dcam::weight_parts, "Parts of a CUDA pool's mean gradients, from T, N and D.");
    m.def("refine_array", &refine_array);
    m.def("rank_filter_array", &rank_filter_array);
}
