// Texts to token ids, the same as tiktoken's for the same vocabulary and pattern.
//
//   text --pretokenize--> 32 pieces --> cache --found--> copy 16 bytes of ids
//                                         |--missed--> a token? else merge --> ids, into the cache
//
// Natural text repeats itself: nearly all pieces have been seen before, so the cost is one cache
// line for each. The caches hold pieces of up to 46 bytes and 16 bytes of ids, are of a fixed size
// and belong to one thread (an EncoderWorkspace); what is in them never changes a result.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/piece_key.h"
#include "bpe/piece_merger.h"
#include "bpe/pretokenize.h"
#include "bpe/vocabulary.h"
#include "common/huge_array.h"

namespace nanochat::bpe {

// Ids by appending; memory is not cleared before it is written.
template <typename Id>
class IdBuffer {
 public:
  [[nodiscard]] const Id* data() const { return ids_.get(); }
  [[nodiscard]] size_t size() const { return size_; }
  // Room for n more ids, to be written from the returned place on.
  [[nodiscard]] Id* reserve(size_t n) {
    if (size_ + n > capacity_) grow(size_ + n);
    return ids_.get() + size_;
  }
  void advance(size_t n) { size_ += n; }
  void append(const IdBuffer& other);
  void clear() { size_ = 0; }

 private:
  void grow(size_t needed);

  std::unique_ptr<Id[], FreeMemory> ids_;
  size_t size_ = 0, capacity_ = 0;
};

// Pieces of up to kShortBytes bytes that became at most kMaxIds ids.
template <typename Id>
class ShortCache {
 public:
  static constexpr size_t kMaxIds = 16 / sizeof(Id);

  // word[1] holds the length of the piece in its top byte, as in ShortKey, and above it the number
  // of ids.
  struct Entry {
    uint64_t word[2];
    Id ids[kMaxIds];
    [[nodiscard]] size_t num_ids() const { return word[1] >> 60; }
    [[nodiscard]] bool holds(const ShortKey& key) const {
      return word[0] == key.word[0] && (word[1] ^ key.word[1]) << 4 == 0;
    }
  };
  static_assert(sizeof(Entry) == 32);

  struct alignas(64) Line {  // one of the processor's; entry 0 was asked for more recently
    Entry entry[2];
  };

  [[nodiscard]] Line& line(uint64_t hash) { return lines_[hash >> (64 - kBits)]; }
  // The entry of the key, or null.
  [[nodiscard]] static const Entry* find(Line& line, const ShortKey& key) {
    if (line.entry[0].holds(key)) return &line.entry[0];
    if (!line.entry[1].holds(key)) return nullptr;
    std::swap(line.entry[0], line.entry[1]);
    return &line.entry[0];
  }
  static void insert(Line& line, const ShortKey& key, const Id* ids, size_t num_ids);

 private:
  static constexpr int kBits = 18;  // 16 MB
  HugeArray<Line> lines_{size_t{1} << kBits};
};

// The same for pieces of up to kMaxBytes, one to a line of the processor.
template <typename Id>
class LongCache {
 public:
  static constexpr size_t kMaxIds = 16 / sizeof(Id);
  static constexpr size_t kMaxBytes = 46;

  struct alignas(64) Entry {
    uint8_t num_ids;
    uint8_t size;
    char bytes[kMaxBytes];
    Id ids[kMaxIds];
    [[nodiscard]] bool holds(std::string_view piece) const {
      return std::string_view(bytes, size) == piece;
    }
  };
  static_assert(sizeof(Entry) == 64);

  [[nodiscard]] Entry& entry(uint64_t hash) { return entries_[hash >> (64 - kBits)]; }
  static void insert(Entry& entry, std::string_view piece, const Id* ids, size_t num_ids);

 private:
  static constexpr int kBits = 15;  // 2 MB
  HugeArray<Entry> entries_{size_t{1} << kBits};
};

template <typename Id>
struct EncoderWorkspace {
  ShortCache<Id> short_cache;
  LongCache<Id> long_cache;
  PieceMerger merger;
};

// Immutable; threads share it, each with a workspace of its own.
class Encoder {
 public:
  // `tokens` as Vocabulary wants them.
  Encoder(const std::vector<std::string>& tokens, Splitter splitter)
      : vocabulary_(tokens), splitter_(splitter) {}

  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }

  // Appends the ids of the text; Id must hold every one of them.
  template <typename Id>
  void encode(std::string_view text, EncoderWorkspace<Id>& workspace, IdBuffer<Id>& out) const;

 private:
  template <typename Id>
  size_t encode_piece(std::string_view piece, PieceMerger& merger, Id* out) const;

  Vocabulary vocabulary_;
  Splitter splitter_;
};

}  // namespace nanochat::bpe
