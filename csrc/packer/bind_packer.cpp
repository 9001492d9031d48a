// Python face of the packer: NumPy arrays in and out, the GIL released while rows are made.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <string>

#include "common/check.h"
#include "packer/packer.h"

namespace py = pybind11;

namespace nanochat {
namespace {

using packer::Mask;
using packer::Plan;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// The entries of an array that is (n,), contiguous and of T already: nothing is converted in
// silence.
template <typename T>
std::span<const T> entries(const py::array& array, const char* name) {
  check(py::isinstance<Array<T>>(array) && array.ndim() == 1, "packer: ", name,
        " must be a contiguous 1-D array of ", std::string(py::str(py::dtype::of<T>())), ", got ",
        array.ndim(), "-D of ", std::string(py::str(array.dtype())));
  return {static_cast<const T*>(array.data()), static_cast<size_t>(array.size())};
}

Mask mask_entries(const std::optional<py::array>& mask) {
  if (!mask) return std::nullopt;
  const auto flags = entries<bool>(*mask, "mask");
  // As bytes: a view in NumPy can give a bool other values than 0 and 1.
  return std::span(reinterpret_cast<const uint8_t*>(flags.data()), flags.size());
}

Plan plan(const py::array& offsets, const std::optional<py::array>& mask, int64_t seq_len) {
  const auto offset_entries = entries<int64_t>(offsets, "offsets");
  const Mask flags = mask_entries(mask);
  const py::gil_scoped_release release;
  return packer::plan_rows(offset_entries, flags, seq_len);
}

template <typename T>
std::span<T> mutable_entries(py::array_t<T>& array) {
  return {array.mutable_data(), static_cast<size_t>(array.size())};
}

template <typename Id>
py::tuple write_ids(const Plan& plan, std::span<const Id> ids, const std::optional<py::array>& mask,
                    int32_t bos, const py::array& row_words, const py::array& chunk_words) {
  const Mask flags = mask_entries(mask);
  const auto row_entries = entries<uint64_t>(row_words, "row_words");
  const auto chunk_entries = entries<uint64_t>(chunk_words, "chunk_words");
  const int64_t N = plan.num_rows();
  py::array_t<int32_t> row_ids({N, plan.seq_len + 1});
  py::array_t<int32_t> targets({N, plan.seq_len});
  py::array_t<int64_t> num_padding(N);
  py::array_t<int64_t> num_documents(N);
  const packer::Rows out{.ids = mutable_entries(row_ids),
                         .targets = mutable_entries(targets),
                         .num_padding = mutable_entries(num_padding),
                         .num_documents = mutable_entries(num_documents)};
  {
    const py::gil_scoped_release release;
    packer::write_rows(plan, ids, flags, bos, row_entries, chunk_entries, out);
  }
  return py::make_tuple(row_ids, targets, num_padding, num_documents);
}

py::tuple write(const Plan& plan, const py::array& ids, const std::optional<py::array>& mask,
                int32_t bos, const py::array& row_words, const py::array& chunk_words) {
  const auto with = [&](auto span) {
    return write_ids(plan, span, mask, bos, row_words, chunk_words);
  };
  if (py::isinstance<py::array_t<uint16_t>>(ids)) return with(entries<uint16_t>(ids, "ids"));
  if (py::isinstance<py::array_t<uint32_t>>(ids)) return with(entries<uint32_t>(ids, "ids"));
  if (py::isinstance<py::array_t<int32_t>>(ids)) return with(entries<int32_t>(ids, "ids"));
  throw py::value_error("packer: ids must be uint16, uint32 or int32, got " +
                        std::string(py::str(ids.dtype())));
}

}  // namespace

void bind_packer(py::module_& m) {
  py::class_<Plan>(m, "PackerPlan", "Which runs of which documents share a row.")
      .def_property_readonly("num_rows", &Plan::num_rows)
      .def_property_readonly("num_chunks", &Plan::num_chunks);
  m.def("packer_plan", &plan, py::arg("offsets"), py::arg("mask"), py::kw_only(),
        py::arg("seq_len"), "Plan for documents [offsets[i], offsets[i + 1]).");
  m.def("packer_write", &write, py::arg("plan"), py::arg("ids"), py::arg("mask"), py::kw_only(),
        py::arg("bos"), py::arg("row_words"), py::arg("chunk_words"),
        "(ids, targets, num_padding, num_documents) of the rows, ordered by the random words.");
}

}  // namespace nanochat
