#include "bpe/encoder.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace nanochat::bpe {
namespace {

constexpr size_t kBatch = 32;  // pieces; enough misses in flight to hide the latency of memory

}  // namespace

template <typename Id>
void IdBuffer<Id>::grow(size_t needed) {
  const size_t capacity = std::max({needed, capacity_ + capacity_ / 2, size_t{1024}});
  auto larger = allocate_huge<Id>(capacity);
  if (size_ > 0) std::memcpy(larger.get(), ids_.get(), size_ * sizeof(Id));
  ids_ = std::move(larger);
  capacity_ = capacity;
}

template <typename Id>
void IdBuffer<Id>::append(const IdBuffer& other) {
  if (other.size_ == 0) return;
  std::memcpy(reserve(other.size_), other.data(), other.size_ * sizeof(Id));
  advance(other.size_);
}

template <typename Id>
void ShortCache<Id>::insert(Line& line, const ShortKey& key, const Id* ids, size_t num_ids) {
  Entry& entry = line.entry[line.entry[0].num_ids() == 0 ? 0 : 1];
  entry.word[0] = key.word[0];
  entry.word[1] = key.word[1] | static_cast<uint64_t>(num_ids) << 60;
  std::copy_n(ids, num_ids, entry.ids);
}

template <typename Id>
void LongCache<Id>::insert(Entry& entry, std::string_view piece, const Id* ids, size_t num_ids) {
  entry.num_ids = static_cast<uint8_t>(num_ids);
  entry.size = static_cast<uint8_t>(piece.size());
  piece.copy(entry.bytes, kMaxBytes);
  std::copy_n(ids, num_ids, entry.ids);
}

template <typename Id>
size_t Encoder::encode_piece(std::string_view piece, PieceMerger& merger, Id* out) const {
  if (const uint32_t id = vocabulary_.find(piece); id != Vocabulary::kNone) {
    *out = static_cast<Id>(id);
    return 1;
  }
  const auto ids = merger.merge(vocabulary_, piece);
  for (size_t i = 0; i < ids.size(); ++i) out[i] = static_cast<Id>(ids[i]);
  return ids.size();
}

template <typename Id>
void Encoder::encode(std::string_view text, EncoderWorkspace<Id>& workspace,
                     IdBuffer<Id>& out) const {
  using Short = ShortCache<Id>;
  using Long = LongCache<Id>;
  std::array<size_t, kBatch> ends;
  std::array<ShortKey, kBatch> keys;
  std::array<void*, kBatch> places;  // in the cache of the piece
  const char* const readable_end = text.data() + text.size();
  size_t begin = 0;
  for (size_t n = kBatch; n == kBatch;) {
    n = pretokenize(splitter_, text, begin, ends);
    if (n == 0) return;
    size_t piece_begin = begin;
    for (size_t i = 0; i < n; ++i) {
      const std::string_view piece(text.data() + piece_begin, ends[i] - piece_begin);
      piece_begin = ends[i];
      if (piece.size() <= kShortBytes) {
        keys[i] = short_key(piece, readable_end);
        places[i] = &workspace.short_cache.line(keys[i].hash());
      } else if (piece.size() <= Long::kMaxBytes) {
        places[i] = &workspace.long_cache.entry(hash_bytes(piece));
      } else {
        continue;
      }
      __builtin_prefetch(places[i]);
    }
    // A byte gives one id at most; a cached piece is copied with the whole entry.
    Id* const first = out.reserve(ends[n - 1] - begin + Short::kMaxIds);
    Id* next = first;
    for (size_t i = 0; i < n; ++i) {
      const std::string_view piece(text.data() + begin, ends[i] - begin);
      begin = ends[i];
      if (piece.size() <= kShortBytes) {
        auto& line = *static_cast<typename Short::Line*>(places[i]);
        if (const auto* entry = Short::find(line, keys[i]); entry != nullptr) {
          std::memcpy(next, entry->ids, sizeof(entry->ids));
          next += entry->num_ids();
          continue;
        }
        const size_t num_ids = encode_piece(piece, workspace.merger, next);
        if (num_ids <= Short::kMaxIds) Short::insert(line, keys[i], next, num_ids);
        next += num_ids;
      } else if (piece.size() <= Long::kMaxBytes) {
        auto& entry = *static_cast<typename Long::Entry*>(places[i]);
        if (entry.holds(piece)) {
          std::memcpy(next, entry.ids, sizeof(entry.ids));
          next += entry.num_ids;
          continue;
        }
        const size_t num_ids = encode_piece(piece, workspace.merger, next);
        if (num_ids <= Long::kMaxIds) Long::insert(entry, piece, next, num_ids);
        next += num_ids;
      } else {
        next += encode_piece(piece, workspace.merger, next);
      }
    }
    out.advance(static_cast<size_t>(next - first));
  }
}

template class IdBuffer<uint16_t>;
template class IdBuffer<uint32_t>;
template void Encoder::encode(std::string_view, EncoderWorkspace<uint16_t>&,
                              IdBuffer<uint16_t>&) const;
template void Encoder::encode(std::string_view, EncoderWorkspace<uint32_t>&,
                              IdBuffer<uint32_t>&) const;

}  // namespace nanochat::bpe
