// Drafts against a search of the whole sequence, and a gate that knows when they pay.
#include "engine/prompt_lookup.h"

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "require.h"

namespace {

using nanochat::engine::PromptLookup;
using nanochat::engine::SpeculationGate;
using Tokens = std::vector<int32_t>;

Tokens draft(const PromptLookup& lookup, size_t n) {
  Tokens out(n, -1);
  const int size = lookup.draft(out);
  REQUIRE(size == 0 || size == static_cast<int>(n));
  out.resize(static_cast<size_t>(size));
  return out;
}

Tokens draft_after(const Tokens& tokens, size_t n) {
  PromptLookup lookup;
  lookup.append(tokens);
  return draft(lookup, n);
}

// From end to end, the latest first.
Tokens reference_draft(const Tokens& tokens, size_t n) {
  size_t best_match = PromptLookup::kMinMatch - 1, best_end = 0;
  for (size_t end = tokens.size() - 1; !tokens.empty() && end > 0; --end) {
    size_t match = 0;
    while (match < std::min<size_t>(end, PromptLookup::kMaxMatch) &&
           tokens[end - 1 - match] == tokens[tokens.size() - 1 - match]) {
      ++match;
    }
    if (match <= best_match) continue;
    best_match = match;
    best_end = end;
  }
  Tokens text = tokens;
  for (size_t i = 0; best_end > 0 && i < n; ++i) text.push_back(text[best_end + i]);
  return {text.begin() + std::ssize(tokens), text.end()};
}

void test_what_followed_is_drafted() {
  REQUIRE(draft_after({}, 4).empty());
  REQUIRE(draft_after({1, 2}, 4).empty());
  REQUIRE(draft_after({1, 2, 3}, 4).empty());
  REQUIRE(draft_after({1, 2, 3, 9, 2, 3}, 4).empty());  // two agree
  REQUIRE((draft_after({1, 2, 3, 4, 5, 6, 9, 1, 2, 3}, 3) == Tokens{4, 5, 6}));
  REQUIRE(draft_after({1, 2, 3, 4, 5, 6, 9, 1, 2, 3}, 0).empty());
}

void test_longest_match_wins_then_the_latest() {
  REQUIRE((draft_after({0, 1, 2, 3, 7, 5, 1, 2, 3, 8, 0, 1, 2, 3}, 1) == Tokens{7}));
  REQUIRE((draft_after({1, 2, 3, 7, 1, 2, 3, 8, 0, 1, 2, 3}, 1) == Tokens{8}));
  // Beyond 8 tokens a longer match is no better.
  Tokens tokens = {5, 0, 1, 2, 3, 4, 5, 6, 7, 100, 6, 0, 1, 2, 3, 4, 5, 6, 7, 200};
  tokens.insert(tokens.end(), {5, 0, 1, 2, 3, 4, 5, 6, 7});
  REQUIRE((draft_after(tokens, 1) == Tokens{200}));
}

void test_loop_goes_on() {
  REQUIRE((draft_after({4, 4, 4, 4}, 5) == Tokens{4, 4, 4, 4, 4}));
  REQUIRE((draft_after({1, 2, 3, 1, 2, 3}, 7) == Tokens{1, 2, 3, 1, 2, 3, 1}));
}

void test_pieces_of_any_size_against_the_reference() {
  std::mt19937 rng(1);
  for (const uint32_t num_words : {1u, 2u, 8u, 50000u}) {
    PromptLookup lookup;
    Tokens all;
    while (all.size() < 700) {
      Tokens piece(rng() % (all.size() < 100 ? 4 : 60));
      for (int32_t& token : piece) token = static_cast<int32_t>(rng() % num_words);
      if (all.size() > 60 && rng() % 2 == 0) {  // a quotation
        const auto from = all.begin() + rng() % (all.size() - piece.size());
        std::copy_n(from, piece.size(), piece.begin());
      }
      lookup.append(piece);
      all.insert(all.end(), piece.begin(), piece.end());
      const size_t n = rng() % 12;
      const Tokens got = draft(lookup, n);
      // Of few words there are more places than are looked at.
      if (num_words != 2) REQUIRE(got == reference_draft(all, n));
      PromptLookup at_once;
      at_once.append(all);
      REQUIRE(got == draft(at_once, n));
    }
  }
}

constexpr int kManyDrafts = 16;

// Steps of a sequence of which `chance` of the drafts are accepted; how many tokens were drafted.
int num_drafted_of(SpeculationGate& gate, int num_rows, double chance, int num_steps) {
  std::mt19937 rng(1);
  int total = 0;
  for (int step = 0; step < num_steps; ++step) {
    const int drafted = gate.num_drafts(num_rows, kManyDrafts);
    int accepted = 0;
    while (accepted < drafted && rng() < chance * 4294967296.0) ++accepted;
    gate.record(drafted, accepted);
    total += drafted;
  }
  return total;
}

void test_gate_drafts_while_it_pays() {
  for (const int num_rows : {1, 2, 4, 8, 16, 32, 100}) {
    SpeculationGate gate;
    num_drafted_of(gate, num_rows, 1.0, 500);
    REQUIRE(gate.num_drafts(num_rows, kManyDrafts) == kManyDrafts);
    REQUIRE(gate.num_drafts(num_rows, 3) == 3 && gate.num_drafts(num_rows, 0) == 0);
    num_drafted_of(gate, num_rows, 0.0, 50);
    REQUIRE(gate.num_drafts(num_rows, kManyDrafts) <= 2);
    // Off, but for a few probes.
    REQUIRE(num_drafted_of(gate, num_rows, 0.0, 4096) <= 2 * (4096 / 256 + 4));
  }
}

// Half of the tokens accepted: worth it alone, not in company.
void test_break_even_depends_on_the_rows() {
  SpeculationGate gate;
  REQUIRE(gate.num_drafts(1, 3) == 3 && gate.num_drafts(1, kManyDrafts) < 8);
  REQUIRE(gate.num_drafts(32, kManyDrafts) == 0);
  int last = kManyDrafts;
  for (const int num_rows : {1, 8, 16, 32}) {
    const int drafts = gate.num_drafts(num_rows, kManyDrafts);
    REQUIRE(drafts <= last);
    last = drafts;
  }
}

// Off for long, it asks seldom; a probe accepted as a whole is followed by the next at once.
void test_gate_comes_back() {
  SpeculationGate gate;
  num_drafted_of(gate, 8, 0.0, 5000);
  int num_without = 0;
  while (gate.num_drafts(8, kManyDrafts) == 0) {
    gate.record(0, 0);
    REQUIRE(++num_without <= 256);
  }
  int num_steps = 0;
  for (; gate.num_drafts(8, kManyDrafts) < kManyDrafts; ++num_steps) {
    const int drafted = gate.num_drafts(8, kManyDrafts);
    REQUIRE(drafted > 0);
    gate.record(drafted, drafted);
  }
  REQUIRE(num_steps <= 16);
}

void test_half_accepted_probe_is_no_reason() {
  SpeculationGate gate;
  num_drafted_of(gate, 32, 0.0, 2000);
  for (int i = 0; i < 10; ++i) {
    while (gate.num_drafts(32, kManyDrafts) == 0) gate.record(0, 0);
    REQUIRE(gate.num_drafts(32, kManyDrafts) == 2);
    gate.record(2, 1);
    REQUIRE(gate.num_drafts(32, kManyDrafts) == 0);
  }
}

// Copying ends: some dear drafts in vain, then cheap ones, then none.
void test_gate_lets_go_fast() {
  SpeculationGate gate;
  num_drafted_of(gate, 1, 1.0, 100);
  int num_drafted = 0;
  while (const int drafted = gate.num_drafts(1, kManyDrafts)) {
    gate.record(drafted, 0);
    num_drafted += drafted;
  }
  REQUIRE(num_drafted < 6 * kManyDrafts);
  for (int i = 0; i < 32; ++i) {
    REQUIRE(gate.num_drafts(1, kManyDrafts) == 0);
    gate.record(0, 0);
  }
  REQUIRE(gate.num_drafts(1, kManyDrafts) == 2);  // drafts in vain are no probes in vain
}

void test_bad_luck_does_not_stop_a_gate() {
  SpeculationGate gate;
  num_drafted_of(gate, 1, 0.6, 20);
  REQUIRE(num_drafted_of(gate, 1, 0.0, 5) > 0);
  REQUIRE(gate.num_drafts(1, kManyDrafts) > 0);
}

}  // namespace

int main() {
  test_what_followed_is_drafted();
  test_longest_match_wins_then_the_latest();
  test_loop_goes_on();
  test_pieces_of_any_size_against_the_reference();
  test_gate_drafts_while_it_pays();
  test_break_even_depends_on_the_rows();
  test_gate_comes_back();
  test_half_accepted_probe_is_no_reason();
  test_gate_lets_go_fast();
  test_bad_luck_does_not_stop_a_gate();
}
