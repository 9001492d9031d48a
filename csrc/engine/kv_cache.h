// Pages of keys and values: who holds which, what can be shared, what may go. Bookkeeping only; the
// memory belongs to the model.
//
//   root -+- [system prompt, 64] - [.., 64] -+- [question A, 37 so far]   tail of an open sequence
//         |                                  +- [question B, 64] - [12]   idle: of a closed one
//         +- [another prompt, 5]
//
// Every page with content is a node of a tree: the tokens in it come after those on the way from
// the root, and keys depend on nothing else, so a prompt that begins with the same tokens can use
// the same pages. Full pages are shared; a page of which only the first tokens agree is copied
// (copy on write). An open sequence holds the pages of its way from the root, and it alone appends
// to the last. A page that nobody holds is idle and stays until its room is needed: the least
// recently used leaf goes first.
//
// Finding: the children of all nodes stand in one order, by parent and then by their tokens as in a
// dictionary. The child with the longest common beginning is the neighbour of the text that is
// looked for, on one side or the other, so a search costs O(log pages) comparisons, whatever the
// number of children; and it is exact, there is no hash that could collide.
//
// Forgetting: idle pages stand in the order of their last use. A closed sequence gives up its pages
// last one first, so every page stands behind its children, and the oldest is always a leaf.
//
// Not thread-safe: one thread owns it.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <vector>

namespace nanochat::engine {

class KvCache {
 public:
  using Sequence = int32_t;  // handle of an open sequence

  // num_pages >= 1, page_tokens >= 1.
  KvCache(int num_pages, int page_tokens);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  struct Opened {
    Sequence sequence = 0;
    int num_cached = 0;  // tokens whose keys and values are there: less than the prompt's
    // The page that the caller must copy before anything else happens to the cache, if any.
    int32_t copy_from = -1, copy_to = -1;
  };

  // Opens a sequence that begins with the prompt, at least one token; all of it but the last token,
  // which has to be computed for its logits, is taken from the cache as far as it is there. The
  // tokens from the cache are committed. Where no page is to be had for a copy, it does without.
  [[nodiscard]] Opened open(std::span<const int32_t> prompt);

  // Makes room for the sequence's first `num_tokens` tokens; false, and nothing changed, if other
  // open sequences hold the pages that it takes. What is written to the room but not committed is
  // nobody's: it may be garbage, and written again.
  [[nodiscard]] bool reserve(Sequence sequence, int num_tokens);

  // The keys and values of these tokens, next after those before, are written now, in room that was
  // reserved, and may be shared. A page that gets full gives way to one of the same tokens if there
  // is one: the sequence goes on with that, and its own is free.
  void commit(Sequence sequence, std::span<const int32_t> tokens);

  // Gives up the sequence; what was committed stays as cache, unless another page says the same.
  void close(Sequence sequence);

  // Valid until the next call on the sequence.
  [[nodiscard]] std::span<const int32_t> pages(Sequence sequence) const;
  [[nodiscard]] int num_tokens(Sequence sequence) const;  // committed

  [[nodiscard]] int num_pages() const;
  [[nodiscard]] int num_free() const;  // without content
  [[nodiscard]] int num_idle() const;  // content that no open sequence holds
  void clear();                        // forgets what no open sequence holds

  // Throws std::logic_error if the books contradict themselves. Slow, for tests.
  void verify() const;

 private:
  static constexpr int32_t kNone = -1;  // no page; as a parent, the root

  // A run of tokens below a node.
  struct Text {
    int32_t parent;
    std::span<const int32_t> tokens;
  };

  // Pages by parent, then tokens, then number.
  class Order {
   public:
    using is_transparent = void;
    explicit Order(const KvCache& cache) : cache_(&cache) {}
    bool operator()(int32_t a, int32_t b) const;
    bool operator()(int32_t page, const Text& text) const;
    bool operator()(const Text& text, int32_t page) const;

   private:
    const KvCache* cache_;
  };
  using Index = std::set<int32_t, Order>;

  struct Node {  // one for each page
    int32_t parent = kNone;
    int num_tokens = 0;            // committed; 0: free, or reserved and in no tree
    int num_holders = 0;           // open sequences
    int32_t older = 0, newer = 0;  // neighbours in the order of use, of an idle page
    Index::iterator place;         // if it has tokens
  };

  struct Path {  // of an open sequence
    bool is_open = false;
    int num_tokens = 0;
    std::vector<int32_t> pages;  // from the root; behind the tail, those reserved
  };

  struct Match {
    int32_t page = kNone;
    int num_tokens = 0;
  };

  void check_open(Sequence sequence) const;
  [[nodiscard]] Text text(int32_t page) const;

  [[nodiscard]] Match nearest(Index::const_iterator before, Index::const_iterator after,
                              const Text& text) const;
  [[nodiscard]] Match longest_match(const Text& text) const;
  [[nodiscard]] int32_t find_idle(const Text& text) const;
  [[nodiscard]] int32_t find_cover(int32_t page) const;

  void hold(int32_t page);
  void make_idle(int32_t page);
  void leave_idle(int32_t page);
  [[nodiscard]] int32_t take_page(int32_t except = kNone);
  void append(int32_t page, std::span<const int32_t> tokens);
  void free_page(int32_t page);

  int page_tokens_;
  std::vector<Node> nodes_;      // by page; the last is the end of the ring of idle pages
  std::vector<int32_t> tokens_;  // (num_pages, page_tokens)
  Index index_{Order(*this)};    // of the pages that have tokens
  std::vector<int32_t> free_;
  int num_idle_ = 0;
  std::vector<Path> paths_;        // by handle
  std::vector<Sequence> handles_;  // not in use
};

}  // namespace nanochat::engine
