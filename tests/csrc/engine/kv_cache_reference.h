// The cache beside a plain account of the same: for each page what it stands for and when it was
// last used, searched from end to end. And beside a memory, in which a page says what was written
// to it, so that a page shared or copied wrongly shows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/kv_cache.h"
#include "require.h"

namespace nanochat::engine {

class CheckedCache {
 public:
  using Tokens = std::vector<int32_t>;

  CheckedCache(int num_pages, int page_tokens)
      : cache_(num_pages, page_tokens),
        page_tokens_(static_cast<size_t>(page_tokens)),
        memory_(static_cast<size_t>(num_pages), Tokens(page_tokens_)) {}

  // Opened sequences have the numbers from 0 on; a closed one leaves its place to the last.
  [[nodiscard]] size_t num_open() const { return open_.size(); }
  [[nodiscard]] const Tokens& tokens(size_t i) const { return open_[i].tokens; }

  void open(const Tokens& prompt) {
    const std::span known = std::span(prompt).first(prompt.size() - 1);
    // Whole pages, then the longest beginning of another.
    size_t whole = 0;
    std::vector<int32_t> path;
    const auto next_page = [&] {
      return std::ranges::find_if(pages_, [&](const auto& page) {
        return page.second.text.size() == whole + page_tokens_ &&
               num_common(page.second.text, known) == whole + page_tokens_;
      });
    };
    for (auto page = next_page(); page != pages_.end(); page = next_page()) {
      path.push_back(page->first);
      whole += page_tokens_;
    }
    std::vector<int32_t> sources;  // all that have the longest
    size_t cached = whole;
    for (const auto& [page, of] : pages_) {
      const size_t common = num_common(of.text, known);
      if (common <= whole || first_of(of.text) != whole || common < cached) continue;
      if (common > cached) sources.clear();
      cached = common;
      sources.push_back(page);
    }
    const bool has_idle_tail = std::ranges::any_of(sources, [&](int32_t page) {
      return !is_held(page) && pages_[page].text.size() == cached;
    });

    const int num_free = cache_.num_free();
    const KvCache::Opened opened = cache_.open(prompt);
    const auto got = cache_.pages(opened.sequence);
    for (const int32_t page : path) REQUIRE(std::ranges::find(got, page) != got.end());
    open_.push_back({.handle = opened.sequence, .tokens = {}});
    Open& it = open_.back();
    it.tokens.assign(prompt.begin(), prompt.begin() + opened.num_cached);
    const auto is_source = [&](int32_t page) {
      return std::ranges::find(sources, page) != sources.end();
    };
    if (has_idle_tail) {
      REQUIRE(opened.num_cached == static_cast<int>(cached) && opened.copy_from == -1);
      REQUIRE(is_source(got.back()) && pages_[got.back()].text.size() == cached);
    } else if (opened.copy_from >= 0) {
      REQUIRE(opened.num_cached == static_cast<int>(cached) && cached > whole);
      REQUIRE(is_source(opened.copy_from) && opened.copy_to == got.back());
      REQUIRE(opened.copy_to != opened.copy_from);
      it.pages = path;  // held, while a page is looked for
      if (!is_held(opened.copy_from)) pages_[opened.copy_from].last_use = ++clock_;
      expect_taken({&opened.copy_to, 1}, num_free);
      memory_[opened.copy_to] = memory_[opened.copy_from];
    } else {
      REQUIRE(opened.num_cached == static_cast<int>(whole));
      if (cached > whole) {  // no page was to be had, but perhaps the source
        it.pages = path;
        const auto idle = idle_pages();
        REQUIRE(num_free == 0 && (idle.empty() || (idle.size() == 1 && is_source(idle.front()))));
      }
    }
    REQUIRE(got.size() == pages_of(it.tokens.size()));
    it.pages.assign(got.begin(), got.end());
    settle(it);
    check();
  }

  void reserve(size_t i, size_t num_tokens) {
    Open& it = open_[i];
    const size_t wanted = pages_of(num_tokens);
    const size_t missing = wanted - std::min(wanted, it.pages.size());
    const int num_free = cache_.num_free();
    const size_t available = static_cast<size_t>(num_free) + idle_pages().size();
    REQUIRE(cache_.reserve(it.handle, static_cast<int>(num_tokens)) == (missing <= available));
    const auto got = cache_.pages(it.handle);
    REQUIRE(got.size() == it.pages.size() + (missing <= available ? missing : 0));
    REQUIRE(std::ranges::equal(it.pages, got.first(it.pages.size())));
    expect_taken(got.subspan(it.pages.size()), num_free);
    it.pages.assign(got.begin(), got.end());
    check();
  }

  [[nodiscard]] size_t room(size_t i) const {
    return open_[i].pages.size() * page_tokens_ - open_[i].tokens.size();
  }

  // As drafts that are refused do.
  void write_garbage(size_t i) {
    Open& it = open_[i];
    for (size_t at = it.tokens.size(); at < it.pages.size() * page_tokens_; ++at) {
      memory_[it.pages[at / page_tokens_]][at % page_tokens_] = ++garbage_;
    }
  }

  void commit(size_t i, std::span<const int32_t> tokens) {
    Open& it = open_[i];
    const size_t before = it.tokens.size() / page_tokens_;
    for (const int32_t token : tokens) {
      const size_t at = it.tokens.size();
      it.tokens.push_back(token);
      memory_[it.pages[at / page_tokens_]][at % page_tokens_] = token;
    }
    for (size_t k = before; k < it.tokens.size() / page_tokens_; ++k) {
      const Tokens text(it.tokens.begin(),
                        it.tokens.begin() + static_cast<int64_t>((k + 1) * page_tokens_));
      const auto twin =
          std::ranges::find_if(pages_, [&](const auto& page) { return page.second.text == text; });
      if (twin == pages_.end()) continue;
      pages_.erase(it.pages[k]);
      it.pages[k] = twin->first;
    }
    cache_.commit(it.handle, tokens);
    REQUIRE(std::ranges::equal(it.pages, cache_.pages(it.handle)));
    settle(it);
    check();
  }

  void close(size_t i) {
    const Open closed = std::exchange(open_[i], open_.back());
    open_.pop_back();
    cache_.close(closed.handle);
    for (size_t k = pages_of(closed.tokens.size()); k-- > 0;) {
      const int32_t page = closed.pages[k];
      if (is_held(page)) continue;
      const Tokens& text = pages_[page].text;
      const bool is_covered = std::ranges::any_of(pages_, [&](const auto& other) {
        return other.first != page && first_of(other.second.text) == first_of(text) &&
               num_common(other.second.text, text) == text.size();
      });
      if (is_covered) {
        pages_.erase(page);
      } else {
        pages_[page].last_use = ++clock_;
      }
    }
    check();
  }

  void clear() {
    cache_.clear();
    for (const int32_t page : idle_pages()) pages_.erase(page);
    check();
  }

 private:
  struct Page {
    Tokens text;  // all from the first to the page's last
    int64_t last_use = 0;
  };
  struct Open {
    KvCache::Sequence handle;
    Tokens tokens;
    std::vector<int32_t> pages = {};
  };

  static size_t num_common(std::span<const int32_t> a, std::span<const int32_t> b) {
    return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
  }
  [[nodiscard]] size_t pages_of(size_t num_tokens) const {
    return (num_tokens + page_tokens_ - 1) / page_tokens_;
  }
  // The place in the text of its page's first token.
  [[nodiscard]] size_t first_of(const Tokens& text) const {
    return (text.size() - 1) / page_tokens_ * page_tokens_;
  }
  [[nodiscard]] bool is_held(int32_t page) const {
    return std::ranges::any_of(
        open_, [&](const Open& it) { return std::ranges::find(it.pages, page) != it.pages.end(); });
  }
  [[nodiscard]] std::vector<int32_t> idle_pages() const {
    std::vector<int32_t> idle;
    for (const auto& [page, of] : pages_) {
      if (!is_held(page)) idle.push_back(page);
    }
    return idle;
  }

  // Free pages first; then of the idle ones that no other continues, the one last used first.
  void expect_taken(std::span<const int32_t> taken, int num_free) {
    for (size_t n = taken.size(); n > static_cast<size_t>(num_free); --n) {
      int32_t oldest = -1;
      for (const int32_t page : idle_pages()) {
        const Tokens& text = pages_[page].text;
        const bool is_leaf = std::ranges::none_of(pages_, [&](const auto& other) {
          return other.second.text.size() > text.size() && text.size() % page_tokens_ == 0 &&
                 num_common(other.second.text, text) == text.size();
        });
        if (is_leaf && (oldest < 0 || pages_[page].last_use < pages_[oldest].last_use)) {
          oldest = page;
        }
      }
      REQUIRE(std::ranges::find(taken, oldest) != taken.end());
      pages_.erase(oldest);
    }
    for (const int32_t page : taken) REQUIRE(!pages_.contains(page));
  }

  // What the sequence's pages stand for.
  void settle(const Open& it) {
    for (size_t k = 0; k < pages_of(it.tokens.size()); ++k) {
      const size_t end = std::min((k + 1) * page_tokens_, it.tokens.size());
      pages_[it.pages[k]].text.assign(it.tokens.begin(),
                                      it.tokens.begin() + static_cast<int64_t>(end));
    }
  }

  void check() const {
    cache_.verify();
    size_t num_held = 0;
    for (int32_t page = 0; page < cache_.num_pages(); ++page) num_held += is_held(page);
    const size_t num_idle = idle_pages().size();
    REQUIRE(cache_.num_idle() == static_cast<int>(num_idle));
    REQUIRE(cache_.num_free() == cache_.num_pages() - static_cast<int>(num_idle + num_held));
    for (const Open& it : open_) {
      REQUIRE(cache_.num_tokens(it.handle) == static_cast<int>(it.tokens.size()));
      for (size_t k = 0; k < it.pages.size(); ++k) {
        const auto page = pages_.find(it.pages[k]);
        const size_t begin = std::min(k * page_tokens_, it.tokens.size());
        const size_t end = std::min(begin + page_tokens_, it.tokens.size());
        if (begin == end) {
          REQUIRE(page == pages_.end());
          continue;
        }
        // Of another sequence only if full and the same, since the text is that of both.
        REQUIRE(page != pages_.end() && page->second.text.size() == end);
        REQUIRE(num_common(page->second.text, it.tokens) == end);
      }
    }
    for (const auto& [page, of] : pages_) {
      const std::span own = std::span(of.text).subspan(first_of(of.text));
      REQUIRE(num_common(memory_[page], own) == own.size());
    }
  }

  KvCache cache_;
  size_t page_tokens_;
  std::vector<Tokens> memory_;     // by page: what was written last
  std::map<int32_t, Page> pages_;  // those with content
  std::vector<Open> open_;
  int64_t clock_ = 0;
  int32_t garbage_ = 1000;
};

// Operations as `below` says, a number less than its argument, while `goes_on` says so.
template <typename Below, typename GoesOn>
void play_with_reference(Below below, GoesOn goes_on) {
  constexpr int kPageTokens[] = {1, 2, 3, 4, 8};
  constexpr size_t kMaxOpen = 6, kMaxTokens = 40;
  CheckedCache cache(1 + static_cast<int>(below(24)), kPageTokens[below(std::size(kPageTokens))]);
  const size_t num_words = 1 + below(3);
  std::vector<std::vector<int32_t>> texts = {{}};  // that prompts begin with
  const auto extend = [&](std::vector<int32_t>& text, size_t n) {
    for (; n > 0; --n) text.push_back(static_cast<int32_t>(below(num_words)));
  };
  while (goes_on()) {
    const size_t operation = below(16);
    if (operation == 0) {
      cache.clear();
    } else if (cache.num_open() == 0 || (operation < 4 && cache.num_open() < kMaxOpen)) {
      std::vector<int32_t> prompt = texts[below(texts.size())];
      prompt.resize(std::min(prompt.size(), below(kMaxTokens)));
      extend(prompt, 1 + below(6));
      cache.open(prompt);
    } else {
      const size_t sequence = below(cache.num_open());
      const size_t length = cache.tokens(sequence).size();
      if (operation < 6 || length > kMaxTokens) {
        texts.push_back(cache.tokens(sequence));
        cache.close(sequence);
      } else if (operation < 10) {
        cache.reserve(sequence, length + below(12));
      } else if (operation == 10) {
        cache.write_garbage(sequence);
      } else {
        std::vector<int32_t> tokens;
        extend(tokens, below(cache.room(sequence) + 1));
        cache.commit(sequence, tokens);
      }
    }
  }
}

}  // namespace nanochat::engine
