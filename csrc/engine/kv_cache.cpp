#include "engine/kv_cache.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "common/check.h"

namespace nanochat::engine {
namespace {

int num_common(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [in_a, in_b] = std::ranges::mismatch(a, b);
  return static_cast<int>(in_a - a.begin());
}

}  // namespace

bool KvCache::Order::operator()(int32_t page, const Text& text) const {
  const Text own = cache_->text(page);
  return own.parent != text.parent ? own.parent < text.parent
                                   : std::ranges::lexicographical_compare(own.tokens, text.tokens);
}

bool KvCache::Order::operator()(const Text& text, int32_t page) const {
  const Text own = cache_->text(page);
  return own.parent != text.parent ? text.parent < own.parent
                                   : std::ranges::lexicographical_compare(text.tokens, own.tokens);
}

bool KvCache::Order::operator()(int32_t a, int32_t b) const {
  const Text left = cache_->text(a), right = cache_->text(b);
  if (left.parent != right.parent) return left.parent < right.parent;
  const size_t common = static_cast<size_t>(num_common(left.tokens, right.tokens));
  if (common < std::min(left.tokens.size(), right.tokens.size())) {
    return left.tokens[common] < right.tokens[common];
  }
  return std::pair(left.tokens.size(), a) < std::pair(right.tokens.size(), b);
}

KvCache::KvCache(int num_pages, int page_tokens) : page_tokens_(page_tokens) {
  check(num_pages >= 1, "kv_cache: num_pages must be at least 1, got ", num_pages);
  check(page_tokens >= 1, "kv_cache: page_tokens must be at least 1, got ", page_tokens);
  nodes_.resize(static_cast<size_t>(num_pages) + 1);
  nodes_[num_pages].older = nodes_[num_pages].newer = num_pages;  // an empty ring
  tokens_.resize(static_cast<size_t>(num_pages) * static_cast<size_t>(page_tokens));
  free_.reserve(static_cast<size_t>(num_pages));
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
}

KvCache::Opened KvCache::open(std::span<const int32_t> prompt) {
  check(!prompt.empty(), "kv_cache: a prompt must have at least one token, got none");
  if (handles_.empty()) {
    handles_.push_back(static_cast<Sequence>(paths_.size()));
    paths_.emplace_back();
  }
  Opened opened{.sequence = handles_.back()};
  handles_.pop_back();
  Path& path = paths_[opened.sequence];
  path.is_open = true;

  const auto page_tokens = static_cast<size_t>(page_tokens_);
  Text rest{.parent = kNone, .tokens = prompt.first(prompt.size() - 1)};
  const auto first_page = [&] {
    return Text{rest.parent, rest.tokens.first(std::min(page_tokens, rest.tokens.size()))};
  };
  Match match = longest_match(first_page());
  while (match.num_tokens == page_tokens_) {
    hold(match.page);
    path.pages.push_back(match.page);
    path.num_tokens += page_tokens_;
    rest = {.parent = match.page, .tokens = rest.tokens.subspan(page_tokens)};
    match = longest_match(first_page());
  }

  if (match.num_tokens > 0) {
    const Text tail{rest.parent, rest.tokens.first(static_cast<size_t>(match.num_tokens))};
    int32_t page = find_idle(tail);
    if (page != kNone) {  // nobody's, and all of it agrees: the sequence goes on where it ended
      hold(page);
    } else {
      if (nodes_[match.page].num_holders == 0) {  // used now; also the last page to be taken
        leave_idle(match.page);
        make_idle(match.page);
      }
      page = take_page(match.page);
      if (page != kNone) {
        opened.copy_from = match.page;
        opened.copy_to = page;
        nodes_[page].parent = tail.parent;
        nodes_[page].num_holders = 1;
        append(page, tail.tokens);
      }
    }
    if (page != kNone) {
      path.pages.push_back(page);
      path.num_tokens += match.num_tokens;
    }
  }
  opened.num_cached = path.num_tokens;
  return opened;
}

bool KvCache::reserve(Sequence sequence, int num_tokens) {
  check_open(sequence);
  Path& own = paths_[sequence];
  const int64_t wanted = (int64_t{num_tokens} + page_tokens_ - 1) / page_tokens_;
  const int64_t missing = wanted - std::ssize(own.pages);
  // Whoever holds a page holds those before it, so all idle ones can be had, leaf after leaf.
  if (missing > num_free() + num_idle()) return false;
  for (int64_t i = 0; i < missing; ++i) {
    own.pages.push_back(take_page());
    nodes_[own.pages.back()].num_holders = 1;
  }
  return true;
}

void KvCache::commit(Sequence sequence, std::span<const int32_t> tokens) {
  check_open(sequence);
  Path& own = paths_[sequence];
  const int64_t room = std::ssize(own.pages) * page_tokens_ - own.num_tokens;
  check(std::ssize(tokens) <= room, "kv_cache: commit needs room for ", tokens.size(),
        " tokens, got ", room, "; reserve it first");
  while (!tokens.empty()) {
    const int index = own.num_tokens / page_tokens_;
    const int filled = own.num_tokens % page_tokens_;
    int32_t& page = own.pages[index];
    if (filled == 0) nodes_[page].parent = index == 0 ? kNone : own.pages[index - 1];
    const size_t size = std::min(tokens.size(), static_cast<size_t>(page_tokens_ - filled));
    append(page, tokens.first(size));
    tokens = tokens.subspan(size);
    own.num_tokens += static_cast<int>(size);
    if (nodes_[page].num_tokens < page_tokens_) return;
    if (const int32_t twin = find_cover(page); twin != kNone) {
      hold(twin);
      free_page(std::exchange(page, twin));
    }
  }
}

void KvCache::close(Sequence sequence) {
  check_open(sequence);
  Path& own = paths_[sequence];
  while (!own.pages.empty()) {  // last one first: the oldest idle page is a leaf
    const int32_t page = own.pages.back();
    own.pages.pop_back();
    Node& node = nodes_[page];
    if (node.num_holders > 1) {
      --node.num_holders;
    } else if (node.num_tokens == 0 ||
               (node.num_tokens < page_tokens_ && find_cover(page) != kNone)) {
      free_page(page);
    } else {
      node.num_holders = 0;
      make_idle(page);
    }
  }
  own.num_tokens = 0;
  own.is_open = false;
  handles_.push_back(sequence);
}

std::span<const int32_t> KvCache::pages(Sequence sequence) const {
  check_open(sequence);
  return paths_[sequence].pages;
}

int KvCache::num_tokens(Sequence sequence) const {
  check_open(sequence);
  return paths_[sequence].num_tokens;
}

int KvCache::num_pages() const {
  return static_cast<int>(nodes_.size()) - 1;
}

int KvCache::num_free() const {
  return static_cast<int>(free_.size());
}

int KvCache::num_idle() const {
  return num_idle_;
}

void KvCache::clear() {
  const Node& end = nodes_.back();
  while (num_idle_ > 0) {
    const int32_t oldest = end.newer;
    leave_idle(oldest);
    free_page(oldest);
  }
}

void KvCache::check_open(Sequence sequence) const {
  check(sequence >= 0 && sequence < std::ssize(paths_) && paths_[sequence].is_open,
        "kv_cache: sequence must be an open one, got ", sequence);
}

// The page's own.
KvCache::Text KvCache::text(int32_t page) const {
  const Node& node = nodes_[page];
  const int32_t* const tokens = tokens_.data() + int64_t{page} * page_tokens_;
  return {.parent = node.parent, .tokens = {tokens, static_cast<size_t>(node.num_tokens)}};
}

// Of the page in front of `before` and the one at `after`, the one that has more of the text's
// first tokens, in the order of pages the nearest to it.
KvCache::Match KvCache::nearest(Index::const_iterator before, Index::const_iterator after,
                                const Text& wanted) const {
  Match best;
  const auto consider = [&](int32_t page) {
    const Text own = text(page);
    const int length = own.parent == wanted.parent ? num_common(own.tokens, wanted.tokens) : 0;
    if (length > best.num_tokens) best = {.page = page, .num_tokens = length};
  };
  if (before != index_.begin()) consider(*std::prev(before));
  if (after != index_.end()) consider(*after);
  return best;
}

KvCache::Match KvCache::longest_match(const Text& wanted) const {
  if (wanted.tokens.empty()) return {};
  const auto place = index_.lower_bound(wanted);
  return nearest(place, place, wanted);
}

// An idle page with these tokens and no more, if it has room for another.
int32_t KvCache::find_idle(const Text& wanted) const {
  for (auto it = index_.lower_bound(wanted); it != index_.end(); ++it) {
    const Text own = text(*it);
    if (own.parent != wanted.parent || !std::ranges::equal(own.tokens, wanted.tokens)) break;
    if (nodes_[*it].num_holders == 0) return *it;
  }
  return kNone;
}

// Another page that begins with all the tokens of this one; if this is full, it has the same.
int32_t KvCache::find_cover(int32_t page) const {
  const Node& node = nodes_[page];
  const Match match = nearest(node.place, std::next(node.place), text(page));
  return match.num_tokens == node.num_tokens ? match.page : kNone;
}

void KvCache::hold(int32_t page) {
  if (nodes_[page].num_holders++ == 0) leave_idle(page);
}

// At the newest end of the ring.
void KvCache::make_idle(int32_t page) {
  Node &node = nodes_[page], &end = nodes_.back();
  node.older = std::exchange(end.older, page);
  node.newer = num_pages();
  nodes_[node.older].newer = page;
  ++num_idle_;
}

void KvCache::leave_idle(int32_t page) {
  const Node& node = nodes_[page];
  nodes_[node.older].newer = node.newer;
  nodes_[node.newer].older = node.older;
  --num_idle_;
}

// A free page, for which the oldest idle one may have to go; kNone if there is none but `except`,
// which is the newest if it is idle.
int32_t KvCache::take_page(int32_t except) {
  if (free_.empty()) {
    const int32_t oldest = nodes_.back().newer;
    if (num_idle_ == 0 || oldest == except) return kNone;
    leave_idle(oldest);
    free_page(oldest);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void KvCache::append(int32_t page, std::span<const int32_t> tokens) {
  Node& node = nodes_[page];
  const bool is_new = node.num_tokens == 0;
  std::ranges::copy(tokens, tokens_.begin() + int64_t{page} * page_tokens_ + node.num_tokens);
  node.num_tokens += static_cast<int>(tokens.size());
  if (is_new) {
    node.place = index_.insert(page).first;
    return;
  }
  // More tokens can only move it back in the order; mostly they do not.
  const auto next = std::next(node.place);
  if (next != index_.end() && index_.key_comp()(*next, page)) {
    node.place = index_.insert(index_.extract(node.place)).position;
  }
}

void KvCache::free_page(int32_t page) {
  Node& node = nodes_[page];
  if (node.num_tokens > 0) index_.erase(node.place);
  node.num_tokens = node.num_holders = 0;
  free_.push_back(page);
}

void KvCache::verify() const {
  const auto require = [](bool rule, const char* what) {
    if (!rule) throw std::logic_error(concat("kv_cache: ", what));
  };
  enum class State { kUnknown, kFree, kHeld, kIdle };
  std::vector<State> states(static_cast<size_t>(num_pages()), State::kUnknown);
  const auto enter = [&](int32_t page, State state) {
    require(states[page] == State::kUnknown || states[page] == state, "a page has two states");
    states[page] = state;
  };

  for (const int32_t page : free_) {
    require(states[page] == State::kUnknown, "a page is free twice");
    enter(page, State::kFree);
    require(nodes_[page].num_tokens == 0 && nodes_[page].num_holders == 0, "a free page is used");
  }

  std::vector<int> num_holders(states.size());
  for (const Path& own : paths_) {
    require(own.is_open || (own.pages.empty() && own.num_tokens == 0), "a closed path has pages");
    int num_tokens = 0;
    for (size_t i = 0; i < own.pages.size(); ++i) {
      const int32_t page = own.pages[i];
      const Node& node = nodes_[page];
      enter(page, State::kHeld);
      ++num_holders[page];
      require(node.num_tokens == std::min(page_tokens_, own.num_tokens - num_tokens),
              "tokens are not in the first pages");
      num_tokens += node.num_tokens;
      require(node.num_tokens == page_tokens_ || node.num_holders == 1, "two hold a tail");
      require(node.num_tokens == 0 || node.parent == (i == 0 ? kNone : own.pages[i - 1]),
              "a path leaves the tree");
    }
    require(num_tokens == own.num_tokens, "a path has no room for its tokens");
  }

  std::vector<int> age(states.size());  // 1 for the oldest; 0 for those not idle
  int num_idle = 0;
  for (int32_t page = nodes_.back().newer; page != num_pages(); page = nodes_[page].newer) {
    enter(page, State::kIdle);
    require(age[page] == 0 && nodes_[nodes_[page].newer].older == page, "the ring is broken");
    age[page] = ++num_idle;
    require(nodes_[page].num_tokens > 0, "an idle page is empty");
  }
  require(num_idle == num_idle_, "idle pages are miscounted");

  size_t num_nodes = 0;
  for (int32_t page = 0; page < num_pages(); ++page) {
    const Node& node = nodes_[page];
    require(states[page] != State::kUnknown, "a page is lost");
    require(node.num_holders == num_holders[page], "holders are miscounted");
    if (node.num_tokens == 0) continue;
    ++num_nodes;
    require(*node.place == page, "a page is not where the index has it");
    if (node.parent == kNone) continue;
    require(nodes_[node.parent].num_tokens == page_tokens_, "a page follows one that is not full");
    require(num_holders[node.parent] >= num_holders[page], "a page is held, the one before is not");
    require(age[node.parent] == 0 || age[node.parent] > age[page], "a page goes before its child");
  }
  require(num_nodes == index_.size(), "a page is not in the index");
  for (auto it = index_.begin(); it != index_.end() && std::next(it) != index_.end(); ++it) {
    require(index_.key_comp()(*it, *std::next(it)), "the index is out of order");
    require(nodes_[*it].num_tokens < page_tokens_ || find_cover(*it) == kNone,
            "two full pages are the same");
  }
}

}  // namespace nanochat::engine
