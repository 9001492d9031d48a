// Large memory in pages of 2 MB where the system has them: a table that is asked at random places
// then needs few entries of the processor's address cache, and a long output few page faults.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace nanochat::bpe {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

// Room for `size` values, not cleared; aligned to a line of the processor at least.
template <typename T>
[[nodiscard]] std::unique_ptr<T[], FreeMemory> allocate_huge(size_t size) {
  static_assert(std::is_trivially_copyable_v<T>);
  constexpr size_t kLine = 64;
  constexpr size_t kPage = size_t{2} << 20;
  const size_t alignment = size * sizeof(T) < kPage ? kLine : kPage;
  const size_t num_bytes = (size * sizeof(T) + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, num_bytes);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
  // Before the first touch; a refusal costs nothing.
  if (alignment == kPage) madvise(memory, num_bytes, MADV_HUGEPAGE);
#endif
  return std::unique_ptr<T[], FreeMemory>(static_cast<T*>(memory));
}

// An array of fixed size that begins as zeros.
template <typename T>
class HugeArray {
 public:
  HugeArray() = default;
  explicit HugeArray(size_t size) : data_(allocate_huge<T>(size)), size_(size) {
    std::memset(static_cast<void*>(data_.get()), 0, size * sizeof(T));
  }

  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] T& operator[](size_t i) { return data_[i]; }
  [[nodiscard]] const T& operator[](size_t i) const { return data_[i]; }

 private:
  std::unique_ptr<T[], FreeMemory> data_;
  size_t size_ = 0;
};

}  // namespace nanochat::bpe
