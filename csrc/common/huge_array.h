// Large memory in pages of 2 MB where the system has them: a table that is asked at random places
// then needs few entries of the processor's address cache, and a long output few page faults.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace nanochat {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

// Asks for large pages in [memory, memory + num_bytes), before the first touch. A refusal costs
// nothing.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t num_bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + num_bytes) / kPage * kPage;
  if (end >= begin + kHugePage) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Room for `size` values, not cleared.
template <typename T>
[[nodiscard]] std::unique_ptr<T[], FreeMemory> allocate_huge(size_t size) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignof(std::max_align_t));
  void* const memory = std::malloc(size * sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  prefer_huge_pages(memory, size * sizeof(T));
  return std::unique_ptr<T[], FreeMemory>(static_cast<T*>(memory));
}

// An array of fixed size that begins as zeros, aligned to a line of the processor. What is never
// touched costs nothing: the system makes the zeros.
template <typename T>
class HugeArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HugeArray() = default;
  explicit HugeArray(size_t size) : size_(size) {
    size_t num_bytes = size * sizeof(T) + kLine;
    void* memory = std::calloc(num_bytes, 1);
    if (memory == nullptr) throw std::bad_alloc();
    memory_.reset(memory);
    prefer_huge_pages(memory, num_bytes);
    data_ = static_cast<T*>(std::align(kLine, size * sizeof(T), memory, num_bytes));
  }

  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] T& operator[](size_t i) { return data_[i]; }
  [[nodiscard]] const T& operator[](size_t i) const { return data_[i]; }

 private:
  static constexpr size_t kLine = 64;
  std::unique_ptr<void, FreeMemory> memory_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nanochat
