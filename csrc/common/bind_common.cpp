#include "common/bind_common.h"

#include "common/check.h"
#include "common/cpu_level.h"
#include "common/cuda/device.h"

namespace py = pybind11;

namespace nanochat {

void bind_common(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Unsupported& unsupported) {
      PyErr_SetString(PyExc_NotImplementedError, unsupported.what());
    }
  });

  m.def("cuda_built", [] { return cuda::kBuilt; }, "True if this build has CUDA kernels.");
  m.def(
      "cuda_devices",
      [] {
        py::list devices;
        for (int i = 0; i < cuda::device_count(); ++i) {
          const auto [major, minor] = cuda::capability(i);
          devices.append(py::make_tuple(major, minor));
        }
        return devices;
      },
      "Compute capability of each visible CUDA device; empty without a driver.");
  m.def(
      "cpu_level", [] { return static_cast<int>(best_cpu_level()); },
      "Instruction level of this machine: 0 base, 1 AVX2, 2 AVX-512, 3 with bf16.");
}

}  // namespace nanochat
