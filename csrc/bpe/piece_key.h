// Pieces as keys of hash tables: up to 15 bytes stand in the key itself.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace nanochat::bpe {

static_assert(std::endian::native == std::endian::little, "the first byte is the lowest");

// Folds a 128-bit product: every bit of the result depends on every bit of a and of b.
inline uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using Uint128 = unsigned __int128;
  const Uint128 product = static_cast<Uint128>(a ^ 0x9E3779B97F4A7C15) * (b ^ 0xD1B54A32D192ED03);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_bytes(std::string_view piece) {
  uint64_t hash = piece.size();
  size_t i = 0;
  for (; i + 8 <= piece.size(); i += 8) {
    uint64_t x;
    std::memcpy(&x, piece.data() + i, 8);
    hash = mix(hash, x);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, piece.data() + i, piece.size() - i);
  return mix(hash, rest);
}

inline constexpr size_t kShortBytes = 15;

// A piece of 1 to kShortBytes bytes: its bytes, then zeros, then its length in the top byte.
struct ShortKey {
  uint64_t word[2];
  [[nodiscard]] uint64_t hash() const { return mix(word[0], word[1]); }
};

// `readable_end` is the end of the buffer that the piece is a part of.
inline ShortKey short_key(std::string_view piece, const char* readable_end) {
  const size_t size = piece.size();
  const auto low_bytes = [](size_t n) {
    return n >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * n)) - 1;
  };
  ShortKey key{};
  if (readable_end - piece.data() >= 16) {  // two loads and masks, not a copy of `size` bytes
    std::memcpy(key.word, piece.data(), 16);
    key.word[0] &= low_bytes(size);
    key.word[1] &= low_bytes(size - std::min<size_t>(size, 8));
  } else {
    std::memcpy(key.word, piece.data(), size);
  }
  key.word[1] |= static_cast<uint64_t>(size) << 56;
  return key;
}

}  // namespace nanochat::bpe
