// Rows of T + 1 tokens out of documents, with next to no padding; README.md has the rule.
//
// Two steps, since the order of rows is drawn outside: a plan says which runs of which documents
// share a row; then the caller hands over as many random words as the plan has rows and chunks, and
// the rows are written. Same documents, same words: same rows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace nanochat::packer {

inline constexpr int32_t kIgnore = -1;  // target of a position from which nothing is learnt

// Of each token: nonzero where it is a target. None: documents are texts, and may be cut.
using Mask = std::optional<std::span<const uint8_t>>;

// BOS and a run of a document's tokens.
struct Chunk {
  int64_t size;   // tokens, BOS included
  int64_t start;  // of the run in the documents' tokens
  bool is_first;  // of its document
  bool is_open;   // the document goes on elsewhere; the chunk fills its row up to the end
};

struct Plan {
  int64_t seq_len;
  int64_t num_tokens;                // of the documents
  std::vector<Chunk> chunks;         // row after row
  std::vector<int64_t> first_chunk;  // of each row, and the end: (num_rows + 1,)

  [[nodiscard]] int64_t num_rows() const { return std::ssize(first_chunk) - 1; }
  [[nodiscard]] int64_t num_chunks() const { return std::ssize(chunks); }
};

// Document i is tokens [offsets[i], offsets[i + 1]), without a BOS.
[[nodiscard]] Plan plan_rows(std::span<const int64_t> offsets, const Mask& mask, int64_t seq_len);

// N rows, in memory of the caller.
struct Rows {
  std::span<int32_t> ids;            // (N, T + 1), padding is BOS
  std::span<int32_t> targets;        // (N, T): ids shifted by one, or kIgnore
  std::span<int64_t> num_padding;    // (N,)
  std::span<int64_t> num_documents;  // (N,): that begin in the row
};

// Id is uint16_t, uint32_t or int32_t. Rows, and the chunks in a row, are ordered by their words.
template <typename Id>
void write_rows(const Plan& plan, std::span<const Id> ids, const Mask& mask, int32_t bos,
                std::span<const uint64_t> row_words, std::span<const uint64_t> chunk_words,
                const Rows& out);

}  // namespace nanochat::packer
