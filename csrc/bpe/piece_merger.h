// Byte pair encoding of one piece: join the pair whose token has the lowest id, the leftmost of
// equals, until no pair joins. As tiktoken does it, for any vocabulary.
//
// Pieces of up to 64 bytes keep every possible join in an array that is searched for its minimum:
// O(n^2) work, but a few vector instructions for each merge. Longer ones queue the places of each
// join by its id and cost O(n) queue operations and O(n) memory, whatever they hold: 10 MB of one
// letter are no special case.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "bpe/vocabulary.h"

namespace nanochat::bpe {

class PieceMerger {  // the workspace of one thread
 public:
  // Ids of the piece; the view holds until the next call.
  [[nodiscard]] std::span<const uint32_t> merge(const Vocabulary& vocabulary,
                                                std::string_view piece);

 private:
  struct Places {
    std::vector<uint32_t> at;
    size_t next = 0;  // those before it are done
    bool is_sorted = true;
    [[nodiscard]] bool empty() const { return next == at.size(); }
    void add(uint32_t place) {
      is_sorted = is_sorted && (empty() || at.back() < place);
      at.push_back(place);
    }
    void sort();
    void clear() {
      at.clear();
      next = 0;
    }
  };

  template <int kLanes>
  std::span<const uint32_t> merge_short(const Vocabulary& vocabulary, std::string_view piece);
  std::span<const uint32_t> merge_long(const Vocabulary& vocabulary, std::string_view piece);

  std::vector<uint32_t> ids_, joins_;
  std::vector<Places> places_;   // by id of the join
  std::vector<uint32_t> queue_;  // a heap of ids whose places_ are not empty
};

}  // namespace nanochat::bpe
