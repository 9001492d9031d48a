#include "bpe/vocabulary.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "bpe/piece_key.h"

namespace nanochat::bpe {
namespace {

// A polynomial in kBase, so that the hash of the end of a text follows from those of the whole and
// of its beginning: all ways to cut a token of n bytes in two take O(n), for tokens of any length.
constexpr uint64_t kBase = 0xD1342543DE82EF95;

uint64_t append(uint64_t hash, char byte) {
  return hash * kBase + static_cast<unsigned char>(byte) + 1;
}

uint64_t hash_of(std::string_view bytes) {
  uint64_t hash = 0;
  for (const char byte : bytes) hash = append(hash, byte);
  return hash;
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<std::string>& tokens)
    : ends_{0},
      slots_(std::bit_ceil(std::max<size_t>(tokens.size() * 2, 512))),
      byte_ids_(256, kNone),
      byte_joins_(1 << 16, kNone) {
  if (tokens.size() > kMaxTokens) {
    throw std::invalid_argument("tokenizer: at most " + std::to_string(kMaxTokens) +
                                " tokens are supported, got " + std::to_string(tokens.size()));
  }
  for (const std::string& token : tokens) {
    const auto id = static_cast<uint32_t>(size());
    if (token.empty()) {
      throw std::invalid_argument("tokenizer: tokens must not be empty, got token " +
                                  std::to_string(id));
    }
    if (const uint32_t twin = find(token); twin != kNone) {
      throw std::invalid_argument("tokenizer: tokens must be distinct, got the bytes of token " +
                                  std::to_string(twin) + " again as token " + std::to_string(id));
    }
    bytes_ += token;
    ends_.push_back(bytes_.size());
    add_token(id);
  }
  const auto missing = std::count(byte_ids_.begin(), byte_ids_.end(), kNone);
  if (missing > 0) {
    throw std::invalid_argument("tokenizer: all 256 bytes must be tokens, " +
                                std::to_string(missing) + " are missing");
  }

  std::vector<uint64_t> found;
  for (uint32_t id = 0; id < size(); ++id) add_joins_of(id, found);
  joins_ = HugeArray<uint64_t>(std::bit_ceil(found.size() * 2 + 2));
  join_shift_ = 64 - std::countr_zero(joins_.size());
  const size_t filter_bits = std::bit_ceil(found.size() * 8 + 64);
  may_join_ = HugeArray<uint64_t>(filter_bits / 64);
  filter_shift_ = 64 - std::countr_zero(filter_bits);
  for (const uint64_t join : found) {
    const uint64_t hash = (join >> kIdBits) * kMultiplier;
    may_join_[hash >> (filter_shift_ + 6)] |= uint64_t{1} << (hash >> filter_shift_ & 63);
    size_t i = hash >> join_shift_;
    while (joins_[i] != 0) i = (i + 1) & (joins_.size() - 1);
    joins_[i] = join;
  }
}

uint32_t Vocabulary::find_hashed(uint64_t hash, std::string_view bytes) const {
  const uint64_t mixed = mix(hash, bytes.size());
  const size_t mask = slots_.size() - 1;
  for (size_t i = mixed & mask; slots_[i].id_and_flag != 0; i = (i + 1) & mask) {
    const uint32_t id = slots_[i].id_and_flag & ~kUsed;
    if (slots_[i].check == mixed >> 32 && token(id) == bytes) return id;
  }
  return kNone;
}

uint32_t Vocabulary::find(std::string_view bytes) const {
  return find_hashed(hash_of(bytes), bytes);
}

void Vocabulary::add_token(uint32_t id) {
  const std::string_view bytes = token(id);
  if (bytes.size() == 1) byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
  const uint64_t mixed = mix(hash_of(bytes), bytes.size());
  const size_t mask = slots_.size() - 1;
  size_t i = mixed & mask;
  while (slots_[i].id_and_flag != 0) i = (i + 1) & mask;
  slots_[i] = {static_cast<uint32_t>(mixed >> 32), id | kUsed};
}

void Vocabulary::add_joins_of(uint32_t id, std::vector<uint64_t>& found) {
  const std::string_view bytes = token(id);
  const uint64_t whole = hash_of(bytes);
  // What the beginning of i bytes counts in the hash of the whole: kBase^(size - i) times its own.
  std::vector<uint64_t> power(bytes.size() + 1, 1);
  for (size_t i = 1; i <= bytes.size(); ++i) power[i] = power[i - 1] * kBase;
  uint64_t beginning = 0;
  for (size_t i = 1; i < bytes.size(); ++i) {
    beginning = append(beginning, bytes[i - 1]);
    const size_t rest = bytes.size() - i;
    const uint32_t left = find_hashed(beginning, bytes.substr(0, i));
    if (left == kNone) continue;
    const uint32_t right = find_hashed(whole - beginning * power[rest], bytes.substr(i));
    if (right == kNone) continue;
    found.push_back((static_cast<uint64_t>(left) << kIdBits | right) << kIdBits | id);
    if (bytes.size() == 2) {
      byte_joins_[static_cast<unsigned char>(bytes[0]) << 8 |
                  static_cast<unsigned char>(bytes[1])] = id;
    }
  }
}

}  // namespace nanochat::bpe
