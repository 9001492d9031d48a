// Bytes -> T, lengths of documents, a mask; the promises of the packer, checked from its output
// alone.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "packer/packer.h"
#include "require.h"

namespace {

using namespace nanochat::packer;

constexpr int32_t kBos = 0;  // tokens are the numbers from 1 on, so each tells its place
constexpr int64_t kSeqLens[] = {1, 2, 3, 8, 64, 100, 256, 2048};
constexpr int64_t kMaxTokens = int64_t{1} << 16;

struct Case {
  int64_t T = 1;
  std::vector<int64_t> offsets = {0};
  std::vector<uint8_t> mask_entries;  // of every token
  bool is_masked = false;

  [[nodiscard]] int64_t num_tokens() const { return offsets.back(); }
  [[nodiscard]] Mask mask() const {
    return is_masked ? Mask(std::span(mask_entries)) : std::nullopt;
  }
};

// Byte 0: T and whether there is a mask; byte 1: how many tokens of 8 are targets; each further one
// a document, of up to 127 tokens or up to 4 T in steps of T / 32.
Case read_case(std::span<const uint8_t> bytes) {
  Case it;
  if (bytes.size() < 2) return it;
  it.T = kSeqLens[bytes[0] % std::size(kSeqLens)];
  it.is_masked = bytes[0] >= 128;
  for (const uint8_t code : bytes.subspan(2)) {
    const int64_t length = code < 128 ? code : (code - 127) * it.T / 32;
    if (it.num_tokens() + length > kMaxTokens) break;
    it.offsets.push_back(it.num_tokens() + length);
  }
  uint32_t noise = bytes[1] + 1u;
  for (int64_t i = 0; i < it.num_tokens(); ++i) {
    noise = noise * 1664525u + 1013904223u;
    it.mask_entries.push_back((noise >> 16) % 8 < bytes[1] % 9u);
  }
  return it;
}

// Few values, so that many are equal.
std::vector<uint64_t> words(int64_t n) {
  std::vector<uint64_t> all(static_cast<size_t>(n));
  for (size_t i = 0; i < all.size(); ++i) all[i] = i * 7 % 5;
  return all;
}

struct Packed {
  std::vector<int32_t> ids, targets;
  std::vector<int64_t> num_padding, num_documents;
};

Packed pack(const Case& it) {
  const Plan plan = plan_rows(it.offsets, it.mask(), it.T);
  const auto N = static_cast<size_t>(plan.num_rows());
  const auto T = static_cast<size_t>(it.T);
  std::vector<uint32_t> ids(static_cast<size_t>(it.num_tokens()));
  std::iota(ids.begin(), ids.end(), 1);
  // Filled with what no row may hold, so that a place left out shows.
  Packed rows{.ids = std::vector<int32_t>(N * (T + 1), -7),
              .targets = std::vector<int32_t>(N * T, -7),
              .num_padding = std::vector<int64_t>(N, -7),
              .num_documents = std::vector<int64_t>(N, -7)};
  write_rows<uint32_t>(plan, ids, it.mask(), kBos, words(plan.num_rows()), words(plan.num_chunks()),
                       {.ids = rows.ids,
                        .targets = rows.targets,
                        .num_padding = rows.num_padding,
                        .num_documents = rows.num_documents});
  return rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Case it = read_case({data, size});
  const Packed rows = pack(it);
  const int64_t T = it.T, N = std::ssize(rows.num_padding);

  std::vector<uint8_t> begins(static_cast<size_t>(it.num_tokens()) +
                              1);  // a document, at its token
  std::vector<uint8_t> ends(begins.size());
  for (size_t i = 1; i < it.offsets.size(); ++i) {
    if (it.offsets[i - 1] == it.offsets[i]) continue;
    begins[it.offsets[i - 1] + 1] = 1;
    ends[it.offsets[i]] = 1;
  }

  std::vector<uint8_t> seen(begins.size());
  int64_t padding = 0;
  for (int64_t row = 0; row < N; ++row) {
    const std::span ids(rows.ids.data() + row * (T + 1), static_cast<size_t>(T + 1));
    const std::span targets(rows.targets.data() + row * T, static_cast<size_t>(T));
    const int64_t filled = T + 1 - rows.num_padding[row];
    int64_t num_documents = 0;
    REQUIRE(ids[0] == kBos && filled >= 2);
    for (int64_t i = 1; i < filled; ++i) {
      const int32_t id = ids[i], before = ids[i - 1];
      const int32_t target = targets[i - 1];
      REQUIRE(0 <= id && id <= it.num_tokens());
      if (id == kBos) {  // what stands before it is the true end of a document
        REQUIRE(before != kBos && ends[before]);
        REQUIRE(target == (it.is_masked ? kIgnore : kBos));
        continue;
      }
      REQUIRE(!seen[id]);
      seen[id] = 1;
      num_documents += begins[id];
      REQUIRE(before == kBos ? !it.is_masked || begins[id] : before == id - 1 && !begins[id]);
      REQUIRE(target == (it.is_masked && !it.mask_entries[id - 1] ? kIgnore : id));
    }
    REQUIRE(ids[filled - 1] != kBos);
    for (int64_t i = filled; i <= T; ++i) REQUIRE(ids[i] == kBos && targets[i - 1] == kIgnore);
    // A piece that is not the end of its document fills its row.
    REQUIRE(filled == T + 1 || ends[ids[filled - 1]]);
    REQUIRE(rows.num_documents[row] == num_documents);
    padding += rows.num_padding[row];
  }

  for (size_t i = 1; i < it.offsets.size(); ++i) {
    const int64_t begin = it.offsets[i - 1], end = it.offsets[i];
    if (!it.is_masked) {
      for (int64_t token = begin; token < end; ++token) REQUIRE(seen[token + 1]);
      continue;
    }
    const int64_t kept = std::min(end, begin + T);  // in one row, or nowhere
    const auto first = it.mask_entries.begin() + begin;
    const bool has_target = std::find(first, first + (kept - begin), 1) != first + (kept - begin);
    for (int64_t token = begin; token < end; ++token) {
      REQUIRE(seen[token + 1] == (has_target && token < kept));
    }
  }
  if (!it.is_masked) {
    const int64_t worst_gap = std::max<int64_t>(1, (T + 1) / 32);
    REQUIRE(padding <= std::max(N * (T + 1) / 100, worst_gap * N) + T);
  }
  return 0;
}
