// As much of CUDA as the kernels use, on the host and in their own source: a block runs as
// fibers, one for each thread, that change at barriers and warp instructions; blocks run one after
// another; device memory is the heap, and what is not written yet is NaN, in device memory and in
// the shared memory whose size a launch gives. Slow and exact: indices,
// barriers and the order of sums are the kernel's, so sanitizers and `==` see them.
//
// What it cannot show: races between blocks or across a missing barrier, and the rounding of the
// real special functions.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

inline constexpr int kWarp = 32;
inline constexpr int kMaxThreads = 1024;  // of a block
inline constexpr size_t kStackBytes = 64 << 10, kSlotBytes = 48;
inline constexpr size_t kSharedBytes = 48 << 10;  // that a launch may ask for unasked

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s\n", what);
  std::abort();
}

// Threads of one block, or lanes of one warp, that meet. A slot is overwritten two meetings later,
// when all have read it.
struct Meeting {
  int arrived = 0;
  int64_t generation = 0;
  alignas(16) char slots[2][kWarp][kSlotBytes];
};

// A thread. Made by makecontext, changed to by the builtin longjmp: that leaves the signal mask
// alone, so it needs no system call, and the address sanitizer does not take it for an unwinding of
// the stack, if the functions that do it are not instrumented. It takes on one kernel after
// another.
struct Fiber {
  explicit Fiber(void (*body)()) : stack(std::make_unique_for_overwrite<char[]>(kStackBytes)) {
    getcontext(&context);
    context.uc_stack = {.ss_sp = stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
    makecontext(&context, body, 0);
  }

  [[gnu::noinline, gnu::no_sanitize_address]] void resume() {
    if (std::exchange(is_started, true)) __builtin_longjmp(place, 1);
    setcontext(&context);
  }

  std::unique_ptr<char[]> stack;
  ucontext_t context;
  void* place[5];
  bool is_started = false;
  bool is_done = false;
};

class Block {
 public:
  Block(int num_threads, size_t shared_bytes, const std::function<void()>& kernel)
      : kernel_(kernel),
        num_threads_(num_threads),
        serial_(num_blocks_++),
        dynamic_shared_(shared_bytes / sizeof(SharedLine), unwritten()),
        warps_(num_threads / kWarp) {
    if (num_threads % kWarp != 0 || num_threads > kMaxThreads) fail("a block of that size");
    if (shared_bytes % sizeof(SharedLine) != 0) fail("shared memory ends inside of a line");
    while (static_cast<int>(fibers_.size()) < num_threads) {
      fibers_.push_back(std::make_unique<Fiber>(&Block::serve));
    }
  }

  [[gnu::no_sanitize_address]] void run() {
    current_ = this;
    alive_ = num_threads_;
    for (int i = 0; i < num_threads_; ++i) fibers_[i]->is_done = false;
    while (alive_ > 0) {
      has_progress_ = false;
      for (index_ = 0; index_ < num_threads_; ++index_) {
        if (fibers_[index_]->is_done) continue;
        if (index_ / kWarp == late_warp && !is_late_due_) continue;
        threadIdx = {static_cast<unsigned>(index_), 0, 0};
        if (__builtin_setjmp(scheduler_) == 0) fibers_[index_]->resume();
      }
      const bool was_late_due = std::exchange(is_late_due_, !has_progress_);
      if (!has_progress_ && was_late_due && !when_idle()) {
        fail("threads wait for each other: a barrier that not all reach");
      }
    }
  }

  void barrier() {
    meet(block_, [this] { return alive_; });
  }

  // Leaves `value` and returns what the 32 lanes of the warp left.
  const char (*exchange(const void* value, size_t size)) [kSlotBytes] {
    Meeting& warp = warps_[index_ / kWarp];
    const auto slots = warp.slots[warp.generation % 2];
    std::memcpy(slots[index_ % kWarp], value, size);
    meet(warp, [] { return kWarp; });
    return slots;
  }

  static Block& current() {
    return *current_;
  }

  // Until `ready`, whoever brings that about; who does calls note_progress.
  template <typename Ready>
  void wait_until(const Ready& ready) {
    Fiber& fiber = *fibers_[index_];
    while (!ready()) yield(fiber);
    has_progress_ = true;
  }

  void note_progress() { has_progress_ = true; }

  // Lets the others go first.
  void pause() {
    has_progress_ = true;
    yield(*fibers_[index_]);
  }

  // A warp that runs only when no other can; a test sets it before a launch. -1: none.
  inline static int late_warp = -1;

  // Called when all threads wait: finishes work that is nobody's, or has none and returns false.
  inline static bool (*when_idle)() = [] { return false; };

  // Of all blocks that ran so far.
  [[nodiscard]] int64_t serial() const { return serial_; }

  [[nodiscard]] char* dynamic_shared() { return dynamic_shared_.data()->bytes; }

  [[nodiscard]] size_t shared_bytes() const { return dynamic_shared_.size() * sizeof(SharedLine); }

 private:
  struct SharedLine {
    alignas(128) char bytes[128];
  };
  static SharedLine unwritten() {
    SharedLine line;
    std::memset(line.bytes, 0xff, sizeof line.bytes);
    return line;
  }

  static void serve() {
    for (;;) {
      current_->kernel_();
      Fiber& fiber = *fibers_[current_->index_];
      fiber.is_done = true;
      current_->has_progress_ = true;
      --current_->alive_;
      yield(fiber);
    }
  }

  [[gnu::noinline, gnu::no_sanitize_address]] static void yield(Fiber& fiber) {
    if (__builtin_setjmp(fiber.place) == 0) to_scheduler();
  }

  [[noreturn, gnu::noinline, gnu::no_sanitize_address]] static void to_scheduler() {
    __builtin_longjmp(scheduler_, 1);
  }

  template <typename Expected>
  void meet(Meeting& meeting, const Expected& expected) {
    Fiber& fiber = *fibers_[index_];
    const int64_t generation = meeting.generation;
    ++meeting.arrived;
    has_progress_ = true;
    while (meeting.generation == generation && meeting.arrived < expected()) yield(fiber);
    if (meeting.generation == generation) {  // the first to see that all are here
      ++meeting.generation;
      meeting.arrived = 0;
      has_progress_ = true;
    }
  }

  inline static Block* current_ = nullptr;
  inline static std::vector<std::unique_ptr<Fiber>> fibers_;
  inline static void* scheduler_[5];
  inline static int64_t num_blocks_ = 0;
  const std::function<void()>& kernel_;
  const int num_threads_;
  const int64_t serial_;
  std::vector<SharedLine> dynamic_shared_;
  std::vector<Meeting> warps_;
  Meeting block_{};
  int index_ = 0;
  int alive_ = 0;
  bool has_progress_ = false;
  bool is_late_due_ = false;
};

inline void run_grid(dim3 grid, dim3 block, size_t shared_bytes,
                     const std::function<void()>& kernel) {
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        Block(static_cast<int>(block.x), shared_bytes, kernel).run();
      }
    }
  }
}

}  // namespace cuda_on_host

// Device functions.

inline void __syncthreads() {
  cuda_on_host::Block::current().barrier();
}
inline void __syncwarp() {
  const char nothing = 0;
  cuda_on_host::Block::current().exchange(&nothing, sizeof nothing);
}
inline void __threadfence() {}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
inline unsigned atomicAdd(unsigned* p, unsigned x) {
  const unsigned before = *p;
  *p += x;
  return before;
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int lane_mask, int = cuda_on_host::kWarp) {
  const auto slots = cuda_on_host::Block::current().exchange(&x, sizeof x);
  T result;
  std::memcpy(&result, slots[(threadIdx.x % cuda_on_host::kWarp) ^ lane_mask], sizeof result);
  return result;
}

// The runtime, in which all has happened when a call returns.

enum cudaError_t { cudaSuccess };
struct CudaGraphOnHost {
  std::vector<std::function<void()>> nodes;
};
struct CudaNothing {};
using cudaStream_t = CudaNothing*;
using cudaEvent_t = CudaNothing*;
using cudaGraph_t = CudaGraphOnHost*;
using cudaGraphExec_t = CudaGraphOnHost*;
inline CudaGraphOnHost* cuda_capture = nullptr;

enum { cudaStreamNonBlocking, cudaEventDisableTiming, cudaStreamCaptureModeThreadLocal };
enum cudaMemcpyKind {
  cudaMemcpyDefault,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrReservedSharedMemoryPerBlock
};
enum { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  int id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline const char* cudaGetErrorString(cudaError_t) {
  return "";
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kSm90[] = {9, 0, 228 << 10, 1 << 10};
  *value = kSm90[attribute];
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** p, size_t size) {
  *p = std::malloc(size);
  if (*p == nullptr) cuda_on_host::fail("out of memory");
  std::memset(*p, 0xff, size);  // NaN in fp32 and bf16
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** p, size_t size) {
  return cudaMalloc(p, size);
}
inline cudaError_t cudaFreeHost(void* p) {
  return cudaFree(p);
}
inline cudaError_t cudaMemset(void* p, int value, size_t size) {
  std::memset(p, value, size);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  std::memcpy(to, from, size);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind kind,
                                   cudaStream_t) {
  if (cuda_capture != nullptr) cuda_on_host::fail("a copy inside a graph");
  return cudaMemcpy(to, from, size, kind);
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CudaNothing;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CudaNothing;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
  cuda_capture = new CudaGraphOnHost;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(cuda_capture, nullptr);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  *exec = new CudaGraphOnHost(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  for (const auto& node : exec->nodes) node();
  return cudaSuccess;
}

// What a kernel was allowed beyond kSharedBytes.
inline std::map<const void*, size_t> cuda_shared_limits;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  cuda_shared_limits[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(value);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const size_t shared_bytes = config->dynamicSmemBytes;
  if (shared_bytes > cuda_on_host::kSharedBytes &&
      shared_bytes > cuda_shared_limits[reinterpret_cast<const void*>(kernel)]) {
    cuda_on_host::fail("more shared memory than the kernel was allowed");
  }
  const auto node = [grid = config->gridDim, block = config->blockDim, shared_bytes, kernel,
                     parameters = std::tuple<std::decay_t<Parameters>...>(arguments...)] {
    cuda_on_host::run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
  };
  if (cuda_capture != nullptr) {
    cuda_capture->nodes.push_back(node);
  } else {
    node();
  }
  return cudaSuccess;
}
