// csrc/common/cuda/sm90.cuh in plain C++, for cuda_runtime.h beside it. Shared memory has the
// addresses and the swizzle of the hardware, and what is asynchronous happens at the worst moment
// that the rules allow:
//   wgmma      reads its operands in shared memory when the group is waited for; until then its
//              accumulators are NaN
//   TMA load   at once, or when no thread can go on, the oldest or the newest first (tma_loads)
//   TMA store  reads shared memory when it is waited for
//   addition   reads shared memory at once if loads do, else when that is waited for; adds when the
//              end of all is waited for
// Rules that a result may not show are checked: fences before wgmma and TMA stores, registers that
// a wait must name, alignment, descriptors that differ among lanes.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "common/cuda/mma.cuh"
#include "common/cuda/sw128.h"

namespace nanochat::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kMaxSharedBytesSm90 = 227 * 1024;

// When loads happen: at once, or one by one when no thread can go on. Chosen by a test before a
// launch.
enum class Loads { kAtOnce, kOldestFirst, kNewestFirst };
inline Loads tma_loads = Loads::kAtOnce;

enum class Major : int { kK = 0, kMN = 1 };

namespace on_host {

// Where dynamic shared memory begins: aligned as little as the hardware promises.
inline constexpr uint32_t kFirstAddress = 1024 + 128;

inline cuda_on_host::Block& block() {
  return cuda_on_host::Block::current();
}

inline void require(bool rule, const char* what) {
  if (!rule) cuda_on_host::fail(what);
}

inline char* at(uint32_t address) {
  require(address >= kFirstAddress && address < kFirstAddress + block().shared_bytes(),
          "an address outside of shared memory");
  return block().dynamic_shared() + (address - kFirstAddress);
}

// Bits 4-6 are permuted by bits 7-9.
inline uint32_t swizzled(uint32_t address) {
  return address ^ (address >> 7 & 7) << 4;
}

struct Barrier {
  uint16_t count;    // arrivals of a phase
  uint16_t missing;  // of this one
  uint32_t phase : 1;
  int32_t bytes : 31;  // expected and not yet here
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

template <typename Change>
void change(uint64_t* word, const Change& how) {
  auto barrier = std::bit_cast<Barrier>(*word);
  how(barrier);
  if (barrier.missing == 0 && barrier.bytes == 0) {
    barrier.missing = barrier.count;
    barrier.phase ^= 1u;
  }
  *word = std::bit_cast<uint64_t>(barrier);
  block().note_progress();
}

struct Copy {
  CUtensorMap map;
  uint32_t address;
  uint64_t* barrier;  // of a load
  int c[CUtensorMap::kRank];

  // Calls f(pointer into the tensor or null, pointer into shared memory, bytes) for each 16 bytes.
  template <typename F>
  void each_chunk(const F& f) const {
    constexpr uint32_t kChunk = 16, kElements = 8;
    uint32_t offset = 0;
    for (uint32_t i3 = 0; i3 < map.box[3]; ++i3) {
      for (uint32_t i2 = 0; i2 < map.box[2]; ++i2) {
        for (uint32_t i1 = 0; i1 < map.box[1]; ++i1) {
          for (uint32_t i0 = 0; i0 < map.box[0]; i0 += kElements, offset += kChunk) {
            const int64_t place[] = {c[0] + int64_t{i0}, c[1] + int64_t{i1}, c[2] + int64_t{i2},
                                     c[3] + int64_t{i3}};
            char* tensor = map.base;
            for (int d = 0; d < CUtensorMap::kRank; ++d) {
              const bool is_inside = place[d] >= 0 && place[d] < static_cast<int64_t>(map.sizes[d]);
              if (!is_inside) tensor = nullptr;
              if (tensor != nullptr) tensor += place[d] * static_cast<int64_t>(map.strides[d]);
            }
            f(tensor, at(swizzled(address + offset)), kChunk);
          }
        }
      }
    }
  }

  [[nodiscard]] int bytes() const {
    return static_cast<int>(map.box[0] * map.box[1] * map.box[2] * map.box[3] * 2);
  }

  void load() const {
    each_chunk([](const char* tensor, char* shared, size_t size) {
      if (tensor == nullptr) {
        std::memset(shared, 0, size);
      } else {
        std::memcpy(shared, tensor, size);
      }
    });
    change(barrier, [&](Barrier& b) { b.bytes -= bytes(); });
  }

  void store() const {
    each_chunk([](char* tensor, const char* shared, size_t size) {
      if (tensor != nullptr) std::memcpy(tensor, shared, size);
    });
  }
};

struct Range {
  const char* begin;
  const char* end;

  template <typename T>
  static Range of(const T& registers) {
    const auto* p = reinterpret_cast<const char*>(&registers);
    return {p, p + sizeof registers};
  }

  [[nodiscard]] bool holds(const Range& other) const {
    return begin <= other.begin && other.end <= end;
  }
};

inline bool is_in(const std::vector<Range>& ranges, const Range& range) {
  return std::ranges::any_of(ranges, [&](const Range& r) { return r.holds(range); });
}

// One instruction, as one thread sees it.
struct Product {
  static constexpr int kK = 16;
  float* c;
  int n;
  bool has_a_registers;
  uint32_t a_registers[4][4];  // of the four lanes that share rows
  uint64_t a, b;
  Major major_a, major_b;
  bool accumulate;
  int group;
};

struct Pair {
  float x[2];
};

inline float element_at(uint32_t address) {
  BFloat16 bits;
  std::memcpy(&bits, at(swizzled(address)), sizeof bits);
  return to_float(bits);
}

// Two neighbours in a row.
inline Pair pair_at(uint32_t address) {
  BFloat16 bits[2];
  std::memcpy(bits, at(swizzled(address)), sizeof bits);
  return {{to_float(bits[0]), to_float(bits[1])}};
}

// A bulk addition of one thread: `value` once it has read shared memory.
struct Addition {
  float* to;
  uint32_t address;
  size_t size;
  bool is_committed = false;
  std::vector<float> value{};

  void read() {
    if (!value.empty()) return;
    value.resize(size);
    std::memcpy(value.data(), at(address), size * sizeof(float));
  }
  void finish() {
    read();
    for (size_t i = 0; i < size; ++i) to[i] += value[i];
  }
};

inline uint32_t field(uint64_t descriptor, int bit) {
  return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4;
}

// Address of row `i` (of a, or column of b) and column k (or row of b) before the swizzle.
inline uint32_t operand_address(uint64_t descriptor, Major major, int i, int k) {
  constexpr int kPattern = 8;
  const uint32_t start = field(descriptor, 0), leading = field(descriptor, 16),
                 stride = field(descriptor, 32);
  const auto step = [](int count, uint32_t bytes) { return static_cast<uint32_t>(count) * bytes; };
  if (major == Major::kK) {
    return start + step(i / kPattern, stride) + step(i % kPattern, 128) + step(k, 2);
  }
  return start + step(i / 64, leading) + step(k / kPattern, stride) + step(k % kPattern, 128) +
         step(i % 64, 2);
}

// Adds to the thread's part of c, in c's order of registers.
inline void multiply(const Product& p, std::vector<float>& c) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32;
  const int g = lane / 4, t = lane % 4, first_row = thread / 32 * 16 + g;
  float a[2][Product::kK], b[Product::kK][2];
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < Product::kK; k += 2) {
      Pair pair;
      if (p.has_a_registers) {
        const uint32_t word = p.a_registers[k % 8 / 2][half + k / 8 * 2];
        pair = {{to_float(BFloat16{static_cast<uint16_t>(word)}),
                 to_float(BFloat16{static_cast<uint16_t>(word >> 16)})}};
      } else {
        const auto element = [&](int i) {
          return element_at(operand_address(p.a, p.major_a, first_row + 8 * half, i));
        };
        pair = {{element(k), element(k + 1)}};
      }
      a[half][k] = pair.x[0];
      a[half][k + 1] = pair.x[1];
    }
  }
  if (!p.accumulate) std::ranges::fill(c, 0.0f);
  for (int j = 0; j < p.n / 8; ++j) {
    const int column = 8 * j + 2 * t;
    for (int i = 0; i < Product::kK; ++i) {
      if (p.major_b == Major::kMN) {
        const Pair pair = pair_at(operand_address(p.b, Major::kMN, column, i));
        std::copy_n(pair.x, 2, b[i]);
      } else {
        const int k = i / 2 * 2;
        const Pair pair = pair_at(operand_address(p.b, Major::kK, column + i % 2, k));
        b[k][i % 2] = pair.x[0];
        b[k + 1][i % 2] = pair.x[1];
      }
    }
    float* const sums = &c[static_cast<size_t>(4 * j)];
    for (int k = 0; k < Product::kK; ++k) {
      for (int i = 0; i < 4; ++i) sums[i] += a[i / 2][k] * b[k][i % 2];
    }
  }
}

// What one thread has under way.
struct Thread {
  struct Owned {
    float* c;
    std::vector<float> value;
  };
  int64_t block = -1;
  int num_groups = 0;
  std::vector<Product> products{};
  std::vector<Owned> owned{};
  std::vector<Range> fenced{};
  std::vector<Copy> stores{};
  std::vector<Addition> additions{};
  std::vector<uint32_t> unfenced{};  // shared memory that ordinary stores wrote

  static Thread& of(unsigned thread) {
    static std::vector<Thread> all(cuda_on_host::kMaxThreads);
    Thread& mine = all[thread];
    if (mine.block != on_host::block().serial()) mine = {.block = on_host::block().serial()};
    return mine;
  }
  static Thread& mine() { return of(threadIdx.x); }

  void issue(const Product& product) {
    const size_t size = static_cast<size_t>(product.n) / 2;
    if (std::ranges::find(owned, product.c, &Owned::c) == owned.end()) {
      const auto* p = reinterpret_cast<const char*>(product.c);
      require(is_in(fenced, {p, p + size * sizeof(float)}), "wgmma without a fence of c");
      owned.push_back({product.c, {product.c, product.c + size}});
      std::fill_n(product.c, size, std::numeric_limits<float>::quiet_NaN());
    }
    products.push_back(product);
    products.back().group = num_groups;
  }

  void finish(int pending, const std::vector<Range>& named) {
    const auto is_done = [&](const Product& p) { return p.group < num_groups - pending; };
    for (const Product& p : products) {
      if (is_done(p)) multiply(p, std::ranges::find(owned, p.c, &Owned::c)->value);
    }
    std::erase_if(products, is_done);
    std::erase_if(owned, [&](const Owned& o) {
      if (std::ranges::find(products, o.c, &Product::c) != products.end()) return false;
      require(is_in(named, {reinterpret_cast<const char*>(o.c),
                            reinterpret_cast<const char*>(o.c + o.value.size())}),
              "a wait that does not name the registers it frees");
      std::ranges::copy(o.value, o.c);
      return true;
    });
    fenced.clear();
  }
};

// What this thread's warpgroup wrote there.
inline void require_fenced(uint32_t address, uint32_t bytes, const char* what) {
  const unsigned first = threadIdx.x / kWarpgroup * kWarpgroup;
  for (unsigned i = 0; i < kWarpgroup; ++i) {
    for (const uint32_t written : Thread::of(first + i).unfenced) {
      require(written < address || written >= address + bytes, what);
    }
  }
}

struct NamedBarrier {
  int64_t block = -1;
  int arrived = 0;
  int64_t generation = 0;

  static NamedBarrier& of(int id) {
    static NamedBarrier all[16];
    require(id >= 1 && id < 16, "named barriers are 1 to 15");
    NamedBarrier& barrier = all[id];
    if (barrier.block != on_host::block().serial()) barrier = {.block = on_host::block().serial()};
    return barrier;
  }

  void arrive(int threads) {
    on_host::block().note_progress();
    if (++arrived < threads) return;
    arrived = 0;
    ++generation;
  }
};

// Loads under way in the block that runs.
struct LateLoads {
  int64_t block = -1;
  std::vector<Copy> waiting{};

  static LateLoads& now() {
    static LateLoads loads;
    if (loads.block != on_host::block().serial()) loads = {.block = on_host::block().serial()};
    return loads;
  }

  static bool finish_one() {
    std::vector<Copy>& waiting = now().waiting;
    if (waiting.empty()) return false;
    const auto next = tma_loads == Loads::kOldestFirst ? waiting.begin() : std::prev(waiting.end());
    const Copy copy = *next;
    waiting.erase(next);
    copy.load();
    return true;
  }
};

inline Copy copy_of(uint32_t address, const CUtensorMap* map, uint64_t* barrier, int c0, int c1,
                    int c2, int c3) {
  require(address % kSwizzleBytes == 0, "a TMA tile that does not begin with the swizzle pattern");
  return {*map, address, barrier, {c0, c1, c2, c3}};
}

template <int kN>
void issue(float (&c)[kN / 2], const uint32_t* a_registers, uint64_t a, uint64_t b, Major major_a,
           Major major_b, bool accumulate) {
  constexpr uint64_t kSwizzle128 = 1;
  Product p{.c = c,
            .n = kN,
            .has_a_registers = a_registers != nullptr,
            .a_registers = {},
            .a = a,
            .b = b,
            .major_a = major_a,
            .major_b = major_b,
            .accumulate = accumulate,
            .group = 0};
  require(b >> 62 == kSwizzle128 && (p.has_a_registers || a >> 62 == kSwizzle128),
          "a descriptor without the swizzle of 128 bytes");
  uint64_t mine[] = {a, b};
  const int lane = lane_on_host();
  const auto descriptors = block().exchange(mine, sizeof mine);
  require(std::memcmp(descriptors[lane], descriptors[lane ^ 1], sizeof mine) == 0,
          "descriptors that differ among lanes");
  if (p.has_a_registers) {
    const auto slots = block().exchange(a_registers, sizeof p.a_registers[0]);
    for (int t = 0; t < 4; ++t) {
      std::memcpy(p.a_registers[t], slots[lane / 4 * 4 + t], sizeof p.a_registers[t]);
    }
  }
  Thread::mine().issue(p);
}

}  // namespace on_host

inline uint32_t shared_address(const void* p) {
  return on_host::kFirstAddress +
         static_cast<uint32_t>(static_cast<const char*>(p) - on_host::block().dynamic_shared());
}

inline uint8_t* swizzle_aligned_shared() {
  auto* const p = reinterpret_cast<uint8_t*>(dynamic_shared());
  return p + (kSwizzleBytes - shared_address(p) % kSwizzleBytes) % kSwizzleBytes;
}

inline int warpgroup_index() {
  return static_cast<int>(threadIdx.x) / kWarpgroup;
}

inline void mbarrier_init(uint64_t* barrier, uint32_t count) {
  const auto n = static_cast<uint16_t>(count);
  *barrier = std::bit_cast<uint64_t>(on_host::Barrier{n, n, 0, 0});
}

inline void mbarrier_init_fence() {}

inline void mbarrier_arrive(uint64_t* barrier) {
  on_host::change(barrier, [](on_host::Barrier& b) { --b.missing; });
  on_host::block().pause();
}

inline void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  on_host::change(barrier, [&](on_host::Barrier& b) {
    --b.missing;
    b.bytes += static_cast<int32_t>(bytes);
  });
}

inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  on_host::block().wait_until(
      [&] { return std::bit_cast<on_host::Barrier>(*barrier).phase != parity; });
}

inline void tma_load(void* shared, const CUtensorMap* map, uint64_t* barrier, int c0, int c1,
                     int c2, int c3) {
  const auto copy = on_host::copy_of(shared_address(shared), map, barrier, c0, c1, c2, c3);
  if (tma_loads == Loads::kAtOnce) {
    copy.load();
  } else {
    cuda_on_host::Block::when_idle = on_host::LateLoads::finish_one;
    on_host::LateLoads::now().waiting.push_back(copy);
  }
}

inline void tma_store(const CUtensorMap* map, const void* shared, int c0, int c1, int c2, int c3) {
  const auto copy = on_host::copy_of(shared_address(shared), map, nullptr, c0, c1, c2, c3);
  on_host::require_fenced(copy.address, static_cast<uint32_t>(copy.bytes()),
                          "a TMA store of what was written without fence_async_proxy");
  on_host::Thread::mine().stores.push_back(copy);
}

inline void bulk_add(float* global, const float* shared, int bytes) {
  on_host::require_fenced(shared_address(shared), static_cast<uint32_t>(bytes),
                          "a bulk addition of what was written without fence_async_proxy");
  require_aligned(global);
  require_aligned(shared);
  on_host::require(bytes > 0 && bytes % 16 == 0, "a bulk addition of no multiple of 16 bytes");
  auto& additions = on_host::Thread::mine().additions;
  additions.push_back({.to = global,
                       .address = shared_address(shared),
                       .size = static_cast<size_t>(bytes) / sizeof(float)});
  if (tma_loads == Loads::kAtOnce) additions.back().read();
}

inline void tma_store_commit() {
  for (auto& addition : on_host::Thread::mine().additions) addition.is_committed = true;
}

inline void tma_store_wait_read() {
  for (auto& addition : on_host::Thread::mine().additions) {
    if (addition.is_committed) addition.read();
  }
}

inline void tma_store_finish() {
  auto& mine = on_host::Thread::mine();
  for (const auto& copy : mine.stores) copy.store();
  for (auto& addition : mine.additions) addition.finish();
  mine.stores.clear();
  mine.additions.clear();
}

inline void store_staged(float* shared, float x, float y, float z, float w) {
  require_aligned(shared);
  const float four[] = {x, y, z, w};
  std::memcpy(on_host::at(shared_address(shared)), four, sizeof four);
  on_host::Thread::mine().unfenced.push_back(shared_address(shared));
}

inline void fence_async_proxy() {
  on_host::Thread::mine().unfenced.clear();
}

inline void named_barrier_sync(int id, int threads) {
  auto& barrier = on_host::NamedBarrier::of(id);
  const int64_t generation = barrier.generation;
  barrier.arrive(threads);
  on_host::block().wait_until([&] { return barrier.generation != generation; });
}

inline void named_barrier_arrive(int id, int threads) {
  on_host::NamedBarrier::of(id).arrive(threads);
  on_host::block().pause();
}

template <int kRegisters>
void release_registers_to() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24);
}

template <int kRegisters>
void claim_registers_to() {
  static_assert(kRegisters % 8 == 0 && kRegisters <= 240);
}

template <typename... Registers>
void wgmma_fence(Registers&... registers) {
  (on_host::Thread::mine().fenced.push_back(on_host::Range::of(registers)), ...);
}

inline void wgmma_commit() {
  ++on_host::Thread::mine().num_groups;
}

template <int kPending, typename... Registers>
void wgmma_wait(Registers&... registers) {
  on_host::Thread::mine().finish(kPending, {on_host::Range::of(registers)...});
}

template <int kN, Major kMajorB, Major kMajorA = Major::kK>
void wgmma(float (&c)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  constexpr uint32_t kRows = kMajorA == Major::kK ? 64 : 16;
  on_host::require_fenced(on_host::field(a, 0) / kSwizzleBytes * kSwizzleBytes,
                          kRows * kPanelRowBytes,
                          "wgmma of what was written without fence_async_proxy");
  on_host::issue<kN>(c, nullptr, a, b, kMajorA, kMajorB, accumulate);
}

template <int kN, Major kMajorB>
void wgmma(float (&c)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  on_host::require(is_in(on_host::Thread::mine().fenced, on_host::Range::of(a)),
                   "wgmma without a fence of a");
  on_host::issue<kN>(c, a, 0, b, Major::kK, kMajorB, accumulate);
}

inline void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  require_aligned(row);
  const auto slots = on_host::block().exchange(r, sizeof r);
  const int lane = lane_on_host();
  for (int t = 0; t < 4; ++t) {
    std::memcpy(static_cast<char*>(row) + 4 * t, slots[lane % 8 * 4 + t] + lane / 8 * 4, 4);
  }
  on_host::Thread::mine().unfenced.push_back(shared_address(row));
}

}  // namespace nanochat::cuda
