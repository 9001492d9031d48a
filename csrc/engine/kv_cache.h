// Pages of keys and values: who holds which, what can be shared, what may go. Bookkeeping only; the
// memory belongs to the model.
//
//   root - [system prompt, 64] - [.., 64] - [question A, 37 so far]     a sequence appends to its
//   tail
//                                        \- [question B, 64] - [12]
//
// Every page is a node of a tree: the 64 tokens in it come after those on the way from the root,
// and keys depend on nothing else, so a prompt that begins with the same tokens can use the same
// pages. Full pages are shared; a page of which only the first tokens agree is copied (copy on
// write). A page that no open sequence holds stays until its room is needed: the least recently
// used leaf goes first.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace nanochat::engine {

class KvCache {
 public:
  using Sequence = int32_t;  // handle of an open sequence

  // num_pages >= 1, page_tokens >= 1.
  KvCache(int num_pages, int page_tokens);
  ~KvCache();

  struct Opened {
    Sequence sequence;
    int num_cached = 0;  // tokens whose keys and values are there: less than the prompt's
    // The page that the caller must copy before anything else happens to the cache, if any.
    int copy_from = -1, copy_to = -1;
  };

  // Opens a sequence that begins with the prompt, at least one token; all of it but what has to be
  // computed is taken from the cache. Nothing if there is no page for a copy; never for a prompt
  // without anything cached.
  [[nodiscard]] Opened open(std::span<const int32_t> prompt);

  // Makes room for the sequence's first `num_tokens` tokens; false, and nothing changed, if other
  // open sequences hold the pages that it takes.
  [[nodiscard]] bool reserve(Sequence sequence, int num_tokens);

  // The keys and values of these tokens, next after those before, are written now and may be
  // shared.
  void commit(Sequence sequence, std::span<const int32_t> tokens);

  // Gives up the sequence; what was committed stays as cache.
  void close(Sequence sequence);

  [[nodiscard]] std::span<const int32_t> pages(Sequence sequence) const;
  [[nodiscard]] int num_tokens(Sequence sequence) const;  // committed

  [[nodiscard]] int num_pages() const;
  [[nodiscard]] int num_free() const;  // without content
  [[nodiscard]] int num_idle() const;  // content that no open sequence holds
  void clear();                        // forgets what no open sequence holds
};

}  // namespace nanochat::engine
