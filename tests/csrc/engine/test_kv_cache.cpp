// Each rule of the cache by an example, then all of them against a plain reference, at random.
#include "engine/kv_cache.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

#include "engine/kv_cache_reference.h"
#include "require.h"

namespace {

using nanochat::engine::KvCache;
using Tokens = std::vector<int32_t>;

constexpr int kPageTokens = 64;

// n tokens that no other start gives.
Tokens count(int32_t start, int n) {
  Tokens tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), start);
  return tokens;
}

Tokens join(Tokens left, const Tokens& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// A view of the first tokens, as a prompt that has one more, which is always computed.
Tokens then_any(Tokens tokens) {
  tokens.push_back(-1);
  return tokens;
}

void append(KvCache& cache, KvCache::Sequence sequence, std::span<const int32_t> tokens) {
  REQUIRE(cache.reserve(sequence, cache.num_tokens(sequence) + static_cast<int>(tokens.size())));
  cache.commit(sequence, tokens);
  cache.verify();
}

// What a request leaves: its tokens as cache.
void remember(KvCache& cache, const Tokens& tokens) {
  const auto opened = cache.open(tokens);
  append(cache, opened.sequence, std::span(tokens).subspan(opened.num_cached));
  cache.close(opened.sequence);
  cache.verify();
}

// How much of the tokens is there; asking counts as use.
int num_known(KvCache& cache, const Tokens& tokens) {
  const auto opened = cache.open(then_any(tokens));
  const int num_cached = opened.num_cached;
  cache.close(opened.sequence);
  cache.verify();
  return num_cached;
}

template <typename Call>
void require_refused(Call call) {
  bool is_refused = false;
  try {
    call();
  } catch (const std::invalid_argument&) {
    is_refused = true;
  }
  REQUIRE(is_refused);
}

void test_page_boundaries() {
  for (const int page_tokens : {1, 16, 64}) {
    for (const int n : {1, 15, 16, 17, 63, 64, 65, 128}) {
      KvCache cache(256, page_tokens);
      const Tokens tokens = count(0, n);
      const int num_pages = (n + page_tokens - 1) / page_tokens;
      const auto opened = cache.open(tokens);
      REQUIRE(opened.num_cached == 0 && opened.copy_from == -1 && opened.copy_to == -1);
      REQUIRE(cache.pages(opened.sequence).empty());
      REQUIRE(cache.reserve(opened.sequence, n));
      REQUIRE(std::ssize(cache.pages(opened.sequence)) == num_pages);
      for (const int32_t token : tokens) append(cache, opened.sequence, {&token, 1});
      REQUIRE(cache.num_tokens(opened.sequence) == n);
      REQUIRE(std::ssize(cache.pages(opened.sequence)) == num_pages);
      REQUIRE(cache.num_free() == 256 - num_pages && cache.num_idle() == 0);
      cache.close(opened.sequence);
      REQUIRE(cache.num_free() == 256 - num_pages && cache.num_idle() == num_pages);

      // All but the last token, which has to be computed.
      REQUIRE(num_known(cache, tokens) == n);
      const auto again = cache.open(tokens);
      REQUIRE(again.num_cached == n - 1);
      // Pages that agree as a whole are shared; a part of one is copied.
      REQUIRE((again.copy_from == -1) == ((n - 1) % page_tokens == 0));
      cache.close(again.sequence);
      cache.verify();
    }
  }
}

void test_open_sequences_share_full_pages() {
  KvCache cache(8, kPageTokens);
  const Tokens system = count(0, 2 * kPageTokens);
  const auto a = cache.open(join(system, {1000}));
  append(cache, a.sequence, join(system, {1000}));
  const auto b = cache.open(join(system, {2000}));
  REQUIRE(b.num_cached == 2 * kPageTokens && b.copy_from == -1);
  append(cache, b.sequence, Tokens{2000});
  const auto pages_a = cache.pages(a.sequence), pages_b = cache.pages(b.sequence);
  REQUIRE(pages_a[0] == pages_b[0] && pages_a[1] == pages_b[1] && pages_a[2] != pages_b[2]);
  REQUIRE(cache.num_free() == 4);
  cache.close(a.sequence);
  REQUIRE(cache.num_idle() == 1 && cache.num_free() == 4);  // b holds the rest
  cache.close(b.sequence);
  REQUIRE(cache.num_idle() == 4 && cache.num_free() == 4);
  cache.clear();
  cache.verify();
  REQUIRE(cache.num_idle() == 0 && cache.num_free() == 8);
}

void test_tail_of_an_open_sequence_is_copied() {
  KvCache cache(8, kPageTokens);
  const auto a = cache.open(count(0, 10));
  append(cache, a.sequence, count(0, 10));
  const auto b = cache.open(join(count(0, 7), {500, 501}));
  REQUIRE(b.num_cached == 7);
  REQUIRE(b.copy_from == cache.pages(a.sequence)[0] && b.copy_to == cache.pages(b.sequence)[0]);
  REQUIRE(b.copy_from != b.copy_to && cache.num_tokens(b.sequence) == 7);
  // Also a full page, of which less than all agrees, and of which others follow.
  append(cache, a.sequence, count(10, 2 * kPageTokens));
  const auto c = cache.open(count(0, kPageTokens));
  REQUIRE(c.num_cached == kPageTokens - 1 && c.copy_from == cache.pages(a.sequence)[0]);
  cache.verify();
}

void test_longest_of_thousands_of_children_is_found() {
  constexpr int kChildren = 3000;
  KvCache cache(kChildren + 1, 16);
  const auto child = [](int32_t i) { return Tokens{7, i / 256, i / 16 % 16, i % 16, i}; };
  for (int32_t i = 0; i < kChildren; ++i) remember(cache, child(i));
  for (int32_t i = 0; i < kChildren; i += 7) {
    Tokens prompt = child(i);
    REQUIRE(num_known(cache, prompt) == 5);
    prompt[4] = -5;
    REQUIRE(num_known(cache, prompt) == 4);
    prompt[3] = 99;
    REQUIRE(num_known(cache, prompt) == 3);
  }
}

void test_idle_tail_goes_on_where_it_ended() {
  KvCache cache(2, kPageTokens);
  remember(cache, count(0, 10));
  const auto opened = cache.open(count(0, 20));
  REQUIRE(opened.num_cached == 10 && opened.copy_from == -1);  // the next turn of a chat
  REQUIRE(cache.num_idle() == 0 && cache.num_free() == 1);
  append(cache, opened.sequence, count(10, 10));
  cache.close(opened.sequence);
  REQUIRE(num_known(cache, count(0, 20)) == 20 && cache.num_free() == 1);
}

void test_tail_that_another_page_covers_is_not_kept() {
  KvCache cache(4, kPageTokens);
  remember(cache, count(0, 20));
  for (int n : {20, 12, 1}) remember(cache, count(0, n));  // copied, computed again, dropped
  REQUIRE(cache.num_idle() == 1 && cache.num_free() == 3);
}

void test_copy_needs_a_page_besides_its_source() {
  KvCache cache(2, kPageTokens);
  remember(cache, count(0, 10));
  const auto holder = cache.open(count(100, 5));
  append(cache, holder.sequence, count(100, 5));
  const auto without = cache.open(join(count(0, 5), {500}));  // the only page to be had: the source
  REQUIRE(without.num_cached == 0 && without.copy_from == -1);
  REQUIRE(cache.pages(without.sequence).empty() && cache.num_idle() == 1);
  cache.close(without.sequence);

  const auto copy = cache.open(join(count(100, 3), {500}));  // source held: the idle page goes
  REQUIRE(copy.num_cached == 3 && copy.copy_from == cache.pages(holder.sequence)[0]);
  REQUIRE(cache.num_idle() == 0 && cache.num_free() == 0);
  const auto none = cache.open(join(count(100, 3), {600}));  // nothing to be had
  REQUIRE(none.num_cached == 0 && none.copy_from == -1 && cache.pages(none.sequence).empty());
  cache.verify();
}

void test_source_of_a_copy_outlives_it() {
  KvCache cache(2, kPageTokens);
  remember(cache, count(0, 10));  // the oldest
  remember(cache, count(100, 10));
  const auto opened = cache.open(join(count(0, 5), {500}));
  REQUIRE(opened.num_cached == 5 && opened.copy_from != opened.copy_to);
  cache.close(opened.sequence);
  REQUIRE(num_known(cache, count(0, 10)) == 10 && num_known(cache, count(100, 10)) == 0);
}

void test_least_recently_used_leaf_goes_first() {
  KvCache cache(6, 4);
  const Tokens trunk = count(0, 8);
  remember(cache, join(trunk, {100}));
  remember(cache, join(trunk, {200}));
  remember(cache, {300});
  REQUIRE(cache.num_free() == 1);
  REQUIRE(num_known(cache, join(trunk, {100})) == 9);  // used again

  const auto opened = cache.open(Tokens{400});
  const auto grow_to = [&](int num_pages) {
    REQUIRE(cache.reserve(opened.sequence, 4 * num_pages));
    cache.verify();
  };
  grow_to(1);
  REQUIRE(cache.num_idle() == 5);
  grow_to(2);  // [200] goes, the leaf last used first, though the trunk is as old
  grow_to(3);  // [300]
  REQUIRE(cache.num_idle() == 3);
  grow_to(4);  // [100], then the trunk from its end
  grow_to(5);
  REQUIRE(cache.num_idle() == 1);
  cache.close(opened.sequence);
  REQUIRE(cache.num_free() == 5 && num_known(cache, join(trunk, {100})) == 4);
}

void test_refused_reserve_changes_nothing() {
  KvCache cache(4, kPageTokens);
  remember(cache, count(0, 2 * kPageTokens));
  const auto a = cache.open(count(500, 1));
  append(cache, a.sequence, count(500, 1));
  const auto b = cache.open(count(600, 1));
  REQUIRE(cache.reserve(b.sequence, 1));
  REQUIRE(!cache.reserve(b.sequence, 4 * kPageTokens));  // a holds one
  REQUIRE(!cache.reserve(b.sequence, 3 * kPageTokens + 1));
  REQUIRE(cache.num_idle() == 2 && std::ssize(cache.pages(b.sequence)) == 1);
  REQUIRE(num_known(cache, count(0, 2 * kPageTokens)) == 2 * kPageTokens);
  REQUIRE(cache.reserve(b.sequence, 3 * kPageTokens));
  REQUIRE(cache.num_idle() == 0 && cache.num_free() == 0);
  REQUIRE(cache.reserve(b.sequence, 1) && std::ssize(cache.pages(b.sequence)) == 3);
  cache.close(b.sequence);  // nothing was committed
  cache.verify();
  REQUIRE(cache.num_idle() == 0 && cache.num_free() == 3);
}

void test_same_pages_of_two_sequences_become_one() {
  KvCache cache(8, kPageTokens);
  const Tokens tokens = count(0, 2 * kPageTokens + 5);
  const auto a = cache.open(tokens), b = cache.open(tokens);
  REQUIRE(cache.reserve(a.sequence, 133) && cache.reserve(b.sequence, 133));
  cache.commit(a.sequence, std::span(tokens).first(kPageTokens - 1));
  cache.commit(b.sequence, tokens);
  REQUIRE(cache.num_free() == 2);
  cache.commit(a.sequence, std::span(tokens).subspan(kPageTokens - 1));
  cache.verify();
  const auto pages_a = cache.pages(a.sequence), pages_b = cache.pages(b.sequence);
  REQUIRE(pages_a[0] == pages_b[0] && pages_a[1] == pages_b[1] && pages_a[2] != pages_b[2]);
  REQUIRE(cache.num_free() == 4 && cache.num_tokens(a.sequence) == 133);
  cache.close(b.sequence);
  cache.close(a.sequence);
  REQUIRE(cache.num_idle() == 3);  // one of the equal tails
  REQUIRE(num_known(cache, tokens) == 133);
}

void test_mistakes_are_refused() {
  require_refused([] { KvCache(0, 64); });
  require_refused([] { KvCache(1, 0); });
  KvCache cache(2, 4);
  require_refused([&] { (void)cache.open({}); });
  require_refused([&] { cache.close(0); });
  const auto opened = cache.open(Tokens{1});
  require_refused([&] { cache.commit(opened.sequence, Tokens{1}); });
  REQUIRE(cache.reserve(opened.sequence, 4));
  require_refused([&] { cache.commit(opened.sequence, Tokens{1, 2, 3, 4, 5}); });
  cache.commit(opened.sequence, Tokens{1, 2, 3, 4});
  cache.close(opened.sequence);
  require_refused([&] { (void)cache.pages(opened.sequence); });
  require_refused([&] { cache.close(opened.sequence); });
  cache.verify();
}

void test_against_the_reference() {
  std::mt19937 rng(1);
  const auto below = [&](size_t n) { return rng() % n; };
  for (int run = 0; run < 200; ++run) {
    int num_operations = 0;
    nanochat::engine::play_with_reference(below, [&] { return ++num_operations <= 100; });
  }
}

}  // namespace

int main() {
  test_page_boundaries();
  test_open_sequences_share_full_pages();
  test_tail_of_an_open_sequence_is_copied();
  test_longest_of_thousands_of_children_is_found();
  test_idle_tail_goes_on_where_it_ended();
  test_tail_that_another_page_covers_is_not_kept();
  test_copy_needs_a_page_besides_its_source();
  test_source_of_a_copy_outlives_it();
  test_least_recently_used_leaf_goes_first();
  test_refused_reserve_changes_nothing();
  test_same_pages_of_two_sequences_become_one();
  test_mistakes_are_refused();
  test_against_the_reference();
}
