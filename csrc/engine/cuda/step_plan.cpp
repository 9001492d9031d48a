#include "engine/cuda/step_plan.h"

#include <algorithm>

#include "common/check.h"
#include "engine/cuda/layout.h"

namespace nanochat::engine::cuda {

StepPlan check_chunks(const StepLayout& layout, std::span<const Chunk> chunks) {
  StepPlan plan{.is_decode = true};
  for (const Chunk& chunk : chunks) {
    const int size = static_cast<int>(chunk.tokens.size());
    check(size >= 1, "engine: a chunk must have a token");
    check(chunk.position >= 0 && chunk.position + size <= layout.seq_len,
          "engine: positions must be 0 to ", layout.seq_len - 1, ", got ", chunk.position, " to ",
          chunk.position + size - 1);
    check((chunk.previous < 0) == (chunk.position == 0),
          "engine: there is a previous token but at position 0, got ", chunk.previous,
          " at position ", chunk.position);
    const auto is_token = [&](int32_t id) { return id >= 0 && id < layout.vocab_size; };
    check(std::all_of(chunk.tokens.begin(), chunk.tokens.end(), is_token) &&
              chunk.previous < layout.vocab_size,
          "engine: tokens must be 0 to ", layout.vocab_size - 1);
    const size_t pages_needed = (chunk.position + size - 1) / kPageTokens + 1;
    check(chunk.pages.size() >= pages_needed, "engine: ", chunk.position + size, " tokens need ",
          pages_needed, " pages, got ", chunk.pages.size());
    for (size_t i = 0; i < pages_needed; ++i) {
      check(chunk.pages[i] >= 0 && chunk.pages[i] < layout.num_pages, "engine: pages must be 0 to ",
            layout.num_pages - 1, ", got ", chunk.pages[i]);
    }
    check(chunk.num_logits >= 0 && chunk.num_logits <= size, "engine: num_logits must be 0 to ",
          size, ", got ", chunk.num_logits);
    plan.num_tokens += size;
    plan.num_rows += chunk.num_logits;
    plan.is_decode = plan.is_decode && size == 1 && chunk.num_logits == 1;
  }
  check(plan.num_tokens >= 1 && plan.num_tokens <= layout.max_tokens,
        "engine: a step must have 1 to ", layout.max_tokens, " tokens, got ", plan.num_tokens);
  plan.num_words = layout.tables() + static_cast<int64_t>(chunks.size()) * layout.table_stride;
  return plan;
}

void check_decode(const StepLayout& layout, std::span<const Chunk> chunks,
                  std::span<const Draw> draws, int num_steps) {
  check(draws.size() == chunks.size(), "engine: decode takes a draw for each of ", chunks.size(),
        " chunks, got ", draws.size());
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[i];
    check(draws[i].row == static_cast<int>(i) && draws[i].params->repetition_penalty == 1,
          "engine: draw ", i, " of a decode must be of row ", i, ", without a penalty");
    const int end = chunk.position + num_steps;
    check(end <= layout.seq_len && chunk.pages.size() * kPageTokens >= static_cast<size_t>(end),
          "engine: a decode to position ", end, " must end in ", layout.seq_len, " tokens and ",
          chunk.pages.size(), " pages");
    for (size_t page = 0; page * kPageTokens < static_cast<size_t>(end); ++page) {
      check(chunk.pages[page] >= 0 && chunk.pages[page] < layout.num_pages,
            "engine: pages must be 0 to ", layout.num_pages - 1, ", got ", chunk.pages[page]);
    }
  }
}

void write_step(const StepLayout& layout, std::span<const Chunk> chunks, std::span<int32_t> words) {
  const auto field = [&](StepLayout::Field f) {
    return words.subspan(layout.offset(f), layout.capacity);
  };
  const auto token = field(StepLayout::kToken), previous = field(StepLayout::kPrevious),
             position = field(StepLayout::kPosition), sequence = field(StepLayout::kSequence),
             slot = field(StepLayout::kSlot);
  int t = 0, row = 0, s = 0;
  for (const Chunk& chunk : chunks) {
    const int size = static_cast<int>(chunk.tokens.size());
    for (int i = 0; i < size; ++i, ++t) {
      token[t] = chunk.tokens[i];
      previous[t] = i == 0 ? chunk.previous : chunk.tokens[i - 1];
      position[t] = chunk.position + i;
      sequence[t] = s;
      slot[t] = i >= size - chunk.num_logits ? row++ : -1;
    }
    const size_t num_pages = std::min<size_t>(chunk.pages.size(), layout.table_stride);
    std::copy_n(chunk.pages.begin(), num_pages,
                words.begin() + layout.tables() + int64_t{s} * layout.table_stride);
    ++s;
  }
  for (; t < layout.capacity; ++t) {
    token[t] = sequence[t] = 0;
    previous[t] = position[t] = slot[t] = -1;
  }
}

}  // namespace nanochat::engine::cuda
