// Tokens by id, ids by bytes, and which two tokens join into a third.
//
// join() answers what the encoder asks all the time. A pair joins when the bytes of the two, end to
// end, are a token, however that token came to be: tiktoken's rule. All such pairs, a few for each
// token, stand in one table of 8-byte slots; pairs of single bytes, which begin every search, in an
// array of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/huge_array.h"

namespace nanochat::bpe {

class Vocabulary {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr int kIdBits = 21;
  static constexpr size_t kMaxTokens = (size_t{1} << kIdBits) - 1;

  // `tokens` in the order of ids: distinct, not empty, all 256 bytes among them, at most
  // kMaxTokens.
  explicit Vocabulary(const std::vector<std::string>& tokens);

  [[nodiscard]] size_t size() const { return ends_.size() - 1; }
  [[nodiscard]] std::string_view token(uint32_t id) const {
    return std::string_view(bytes_).substr(ends_[id], ends_[id + 1] - ends_[id]);
  }

  // The id of the token with these bytes, or kNone.
  [[nodiscard]] uint32_t find(std::string_view bytes) const;
  [[nodiscard]] uint32_t find(unsigned char byte) const { return byte_ids_[byte]; }

  // The id of two tokens end to end, or kNone.
  [[nodiscard]] uint32_t join(uint32_t left, uint32_t right) const {
    const uint64_t key = static_cast<uint64_t>(left) << kIdBits | right;
    const uint64_t hash = key * kMultiplier;
    if ((may_join_[hash >> (filter_shift_ + 6)] >> (hash >> filter_shift_ & 63) & 1) == 0)
      return kNone;
    for (size_t i = hash >> join_shift_;; i = (i + 1) & (joins_.size() - 1)) {
      const uint64_t join = joins_[i];
      if (join == 0) return kNone;  // free: a token that joins with itself is not the result
      if (join >> kIdBits == key) return static_cast<uint32_t>(join & kMaxTokens);
    }
  }
  [[nodiscard]] uint32_t join(unsigned char left, unsigned char right) const {
    return byte_joins_[left << 8 | right];
  }

 private:
  static constexpr uint32_t kUsed = 1u << 31;
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;

  struct Slot {
    uint32_t check;        // bits of the hash
    uint32_t id_and_flag;  // the id and kUsed; 0 is free
  };

  [[nodiscard]] uint32_t find_hashed(uint64_t hash, std::string_view bytes) const;
  void add_token(uint32_t id);
  void add_joins_of(uint32_t id, std::vector<uint64_t>& found);

  std::string bytes_;             // of all tokens, end to end
  std::vector<size_t> ends_;      // token i is bytes_[ends_[i], ends_[i + 1])
  HugeArray<Slot> slots_;         // a power of two, at most half full
  HugeArray<uint64_t> joins_;     // left, right, joined: 21 bits each; likewise
  HugeArray<uint64_t> may_join_;  // a bit for each hash, 8 for each join: most pairs do not join
  int join_shift_ = 0, filter_shift_ = 0;
  std::vector<uint32_t> byte_ids_, byte_joins_;
};

}  // namespace nanochat::bpe
