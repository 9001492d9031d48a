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
  auto larger = std::make_unique_for_overwrite<Id[]>(capacity);
  if (size_ > 0) std::memcpy(larger.get(), ids_.get(), size_ * sizeof(Id));
  ids_ = std::move(larger);
  capacity_ = capacity;
}

template <typename Id>
void PieceCache<Id>::insert(Line& line, const ShortKey& key, const Id* ids, size_t num_ids) {
  Entry& entry = line.entry[line.entry[0].num_ids() == 0 ? 0 : 1];
  entry.word[0] = key.word[0];
  entry.word[1] = key.word[1] | static_cast<uint64_t>(num_ids) << 60;
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
  using Cache = PieceCache<Id>;
  std::array<size_t, kBatch> ends;
  std::array<ShortKey, kBatch> keys;
  std::array<typename Cache::Line*, kBatch> lines;
  const char* const readable_end = text.data() + text.size();
  size_t begin = 0;
  for (size_t n = kBatch; n == kBatch;) {
    n = pretokenize(splitter_, text, begin, ends);
    if (n == 0) return;
    size_t piece_begin = begin;
    for (size_t i = 0; i < n; ++i) {
      const size_t size = ends[i] - piece_begin;
      if (size <= kShortBytes) {
        keys[i] = short_key({text.data() + piece_begin, size}, readable_end);
        lines[i] = &workspace.cache.line(keys[i].hash());
        __builtin_prefetch(lines[i]);
      }
      piece_begin = ends[i];
    }
    // A byte gives one id at most; a cached piece is copied with the whole entry.
    Id* const first = out.reserve(ends[n - 1] - begin + Cache::kMaxIds);
    Id* next = first;
    for (size_t i = 0; i < n; ++i) {
      const std::string_view piece(text.data() + begin, ends[i] - begin);
      begin = ends[i];
      if (piece.size() > kShortBytes) {
        next += encode_piece(piece, workspace.merger, next);
        continue;
      }
      if (const auto* entry = Cache::find(*lines[i], keys[i]); entry != nullptr) {
        std::memcpy(next, entry->ids, sizeof(entry->ids));
        next += entry->num_ids();
        continue;
      }
      const size_t num_ids = encode_piece(piece, workspace.merger, next);
      if (num_ids <= Cache::kMaxIds) Cache::insert(*lines[i], keys[i], next, num_ids);
      next += num_ids;
    }
    out.advance(static_cast<size_t>(next - first));
  }
}

template class IdBuffer<uint16_t>;
template class IdBuffer<uint32_t>;
template class PieceCache<uint16_t>;
template class PieceCache<uint32_t>;
template void Encoder::encode(std::string_view, EncoderWorkspace<uint16_t>&,
                              IdBuffer<uint16_t>&) const;
template void Encoder::encode(std::string_view, EncoderWorkspace<uint32_t>&,
                              IdBuffer<uint32_t>&) const;

}  // namespace nanochat::bpe
