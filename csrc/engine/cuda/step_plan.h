// What a step says to the device, checked and laid out in one array of 32-bit words, so that it
// goes there in one copy. C++ alone.
//
//   | token | previous | position | sequence | slot |  page table of chunk 0 | of chunk 1 | ..
//     capacity words each                              table_stride words each
#pragma once

#include <cstdint>
#include <span>

#include "engine/model.h"

namespace nanochat::engine::cuda {

struct StepLayout {
  int capacity;      // tokens, a multiple of kTokenTile
  int table_stride;  // pages of the longest sequence
  int num_pages, vocab_size, seq_len, max_tokens;

  enum Field : int { kToken, kPrevious, kPosition, kSequence, kSlot, kNumFields };

  [[nodiscard]] int64_t offset(Field field) const { return int64_t{field} * capacity; }
  [[nodiscard]] int64_t tables() const { return offset(kNumFields); }
  [[nodiscard]] int64_t num_words() const { return tables() + int64_t{max_tokens} * table_stride; }
};

struct StepPlan {
  int num_tokens = 0;
  int num_rows = 0;        // of logits
  bool is_decode = false;  // every chunk is one token whose logits are wanted
  int64_t num_words = 0;   // that the device needs
};

// Throws std::invalid_argument for chunks that break a rule.
[[nodiscard]] StepPlan check_chunks(const StepLayout& layout, std::span<const Chunk> chunks);

// The same for what a decode of several steps adds to check_chunks.
void check_decode(const StepLayout& layout, std::span<const Chunk> chunks,
                  std::span<const Draw> draws, int num_steps);

// `words` has layout.num_words().
void write_step(const StepLayout& layout, std::span<const Chunk> chunks, std::span<int32_t> words);

}  // namespace nanochat::engine::cuda
