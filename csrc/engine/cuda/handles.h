// Owners of what the CUDA runtime hands out.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "common/cuda/launch.h"

namespace nanochat::engine::cuda {

using nanochat::cuda::check_cuda;
using nanochat::cuda::DeviceGuard;

// Releases through kRelease, once, in whatever order moves happened.
template <typename Handle, auto kRelease>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle handle) : handle_(handle) {}
  ~Owner() {
    if (handle_ != Handle{}) kRelease(handle_);
  }
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  Owner& operator=(Owner&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  [[nodiscard]] Handle get() const { return handle_; }

 private:
  Handle handle_{};
};

using Stream = Owner<cudaStream_t, cudaStreamDestroy>;
using Event = Owner<cudaEvent_t, cudaEventDestroy>;
using GraphExec = Owner<cudaGraphExec_t, cudaGraphExecDestroy>;
using DeviceMemory = Owner<void*, cudaFree>;
using PinnedMemory = Owner<void*, cudaFreeHost>;

[[nodiscard]] inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "engine: stream");
  return Stream(stream);
}

[[nodiscard]] inline Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "engine: event");
  return Event(event);
}

// An array on the device, zero to begin with.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t size) {
    if (size == 0) return;
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, size * sizeof(T)), "engine: device memory");
    memory_ = DeviceMemory(memory);
    check_cuda(cudaMemset(memory, 0, size * sizeof(T)), "engine: device memory");
  }
  explicit DeviceArray(std::span<const T> values) : DeviceArray(values.size()) {
    if (values.empty()) return;
    check_cuda(cudaMemcpy(memory_.get(), values.data(), values.size_bytes(), cudaMemcpyDefault),
               "engine: upload");
  }

  [[nodiscard]] T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  DeviceMemory memory_;
};

// An array of the host that the device copies to and from without waiting.
template <typename T>
class PinnedArray {
 public:
  explicit PinnedArray(size_t size) : size_(size) {
    void* memory = nullptr;
    check_cuda(cudaMallocHost(&memory, size * sizeof(T)), "engine: pinned memory");
    memory_ = PinnedMemory(memory);
  }

  [[nodiscard]] std::span<T> span() const { return {static_cast<T*>(memory_.get()), size_}; }

 private:
  size_t size_;
  PinnedMemory memory_;
};

}  // namespace nanochat::engine::cuda
