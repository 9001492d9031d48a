// Scores of groups of all shapes are those of each row alone, computed whole and anew; with pages
// so few that trunks wait for each other, and a cache that has seen the rows before.
#include "engine/scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/history_model.h"
#include "require.h"

namespace {

using namespace nanochat::engine;
using Tokens = std::vector<int32_t>;

constexpr int kContext = 300;
constexpr int kMaxChunk = 96;
constexpr ScorerOptions kOptions{
    .vocab_size = HistoryModel::kVocabSize, .context = kContext, .max_chunk = kMaxChunk};
constexpr int kFewestPages = (kContext + kPageTokens - 1) / kPageTokens + 1;

std::mt19937 random_bits(7);

int uniform(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random_bits);
}

// Of two letters, so that rows of different groups begin alike too.
void append(Tokens& tokens, int n) {
  for (int i = 0; i < n; ++i) tokens.push_back(uniform(0, 1));
}

ScoredGroup random_group() {
  ScoredGroup group;
  Tokens trunk;
  append(trunk, uniform(0, 3) == 0 ? 0 : uniform(1, kContext - 60));
  const int num_rows = uniform(1, 5);
  for (int r = 0; r < num_rows; ++r) {
    ScoredRow row{.tokens = trunk};
    append(row.tokens, uniform(2, 61));
    row.first = uniform(1, static_cast<int>(row.tokens.size()) - 1);
    group.push_back(row);
  }
  return group;
}

// The definition: all positions in one forward of a model that has seen nothing.
RowScore alone(const ScoredRow& row) {
  constexpr int V = HistoryModel::kVocabSize;
  HistoryModel model({.num_pages = kFewestPages});
  std::vector<int32_t> pages(kFewestPages);
  std::iota(pages.begin(), pages.end(), 0);
  const auto n = static_cast<int32_t>(row.tokens.size());
  const Chunk chunk{.tokens = row.tokens, .pages = pages, .num_logits = n};
  model.forward({&chunk, 1});
  RowScore score;
  for (int t = row.first; t < n; ++t) {
    const std::span<const float> logits = model.logits(t - 1);
    double sum = 0;
    for (int v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[v]));
    score.nats += std::log(sum) - static_cast<double>(logits[row.tokens[t]]);
    const auto likeliest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    score.is_greedy &= row.tokens[t] == likeliest;
  }
  return score;
}

void require_same(const RowScore& a, const RowScore& b) {
  REQUIRE(std::abs(a.nats - b.nats) < 1e-5 * b.nats);  // sum_of_exp is of 2e-6
  REQUIRE(a.is_greedy == b.is_greedy);
}

void test_groups_are_scored_as_their_rows_alone() {
  std::vector<ScoredGroup> groups;
  for (int i = 0; i < 40; ++i) groups.push_back(random_group());
  groups.emplace_back();  // nothing to score is nothing wrong
  groups.push_back({groups[0][0], groups[0][0]});
  std::vector<std::vector<RowScore>> first;
  for (const int num_pages : {kFewestPages, 3 * kFewestPages, 2000}) {
    HistoryModel model({.num_pages = num_pages, .max_tokens = kMaxChunk, .context = kContext});
    KvCache cache(num_pages, kPageTokens);
    Scorer scorer(model, cache, kOptions);
    for (int round = 0; round < 2; ++round) {  // the second finds what the first left
      const auto scores = scorer.score(groups);
      cache.verify();
      REQUIRE(cache.num_free() + cache.num_idle() == num_pages);  // nobody holds any
      REQUIRE(scores.size() == groups.size());
      for (size_t g = 0; g < groups.size(); ++g) {
        REQUIRE(scores[g].size() == groups[g].size());
        for (size_t r = 0; r < groups[g].size(); ++r) {
          require_same(scores[g][r], alone(groups[g][r]));
          if (!first.empty()) REQUIRE(scores[g][r].nats == first[g][r].nats);  // to the bit
        }
      }
      if (first.empty()) first = scores;
    }
  }
}

// The words of a greedy row are the model's own choices.
void test_greedy_rows_are_known() {
  HistoryModel model({.num_pages = 20});
  KvCache cache(20, kPageTokens);
  Scorer scorer(model, cache, kOptions);
  Tokens tokens{3};
  for (int i = 0; i < 20; ++i) {
    ScoredGroup candidates;
    for (int v = 0; v < HistoryModel::kVocabSize; ++v) {
      Tokens longer = tokens;
      longer.push_back(v);
      candidates.push_back({.tokens = longer, .first = static_cast<int>(tokens.size())});
    }
    const auto scores = scorer.score({&candidates, 1});
    double sum = 0;
    int best = -1;
    for (int v = 0; v < HistoryModel::kVocabSize; ++v) {
      const RowScore& score = scores[0][static_cast<size_t>(v)];
      sum += std::exp(-score.nats);
      if (score.is_greedy) {
        REQUIRE(best < 0);
        best = v;
      }
    }
    REQUIRE(best >= 0 && std::abs(sum - 1) < 1e-5);
    tokens.push_back(best);
  }
  const ScoredGroup whole{{.tokens = tokens, .first = 1}};
  REQUIRE(scorer.score({&whole, 1})[0][0].is_greedy);
}

// Many choices behind one prompt cost one prompt.
void test_a_trunk_is_computed_once() {
  constexpr int kRows = 8;
  HistoryModel model({.num_pages = 100, .max_tokens = kMaxChunk});
  KvCache cache(100, kPageTokens);
  Scorer scorer(model, cache, kOptions);
  Tokens trunk;
  append(trunk, 2 * kMaxChunk);
  ScoredGroup group;
  for (int r = 0; r < kRows; ++r) {
    group.push_back({.tokens = trunk, .first = 2 * kMaxChunk});
    group.back().tokens.insert(group.back().tokens.end(), {r, 1, 2});
  }
  static_cast<void>(scorer.score({&group, 1}));
  REQUIRE(model.num_forwards() == 3);  // two of the trunk, one of all tails
}

void test_logits_that_are_no_numbers_give_scores_that_are_none() {
  HistoryModel model({.num_pages = 20, .fails_at = 0});
  KvCache cache(20, kPageTokens);
  Scorer scorer(model, cache, kOptions);
  const ScoredGroup group{{.tokens = {1, 2, 3}, .first = 2}};
  const RowScore score = scorer.score({&group, 1})[0][0];
  REQUIRE(std::isnan(score.nats) && !score.is_greedy);
}

template <typename Error>
bool fails(Scorer& scorer, const ScoredGroup& group) {
  try {
    static_cast<void>(scorer.score({&group, 1}));
  } catch (const Error&) {
    return true;
  }
  return false;
}

void test_errors() {
  HistoryModel model({.num_pages = kFewestPages});
  KvCache cache(kFewestPages, kPageTokens);
  Scorer scorer(model, cache, kOptions);
  using std::invalid_argument;
  REQUIRE(fails<invalid_argument>(scorer, {{.tokens = {1}, .first = 1}}));
  REQUIRE(fails<invalid_argument>(scorer, {{.tokens = {1, 2}, .first = 0}}));
  REQUIRE(fails<invalid_argument>(scorer, {{.tokens = {1, 2}, .first = 2}}));
  REQUIRE(fails<invalid_argument>(scorer, {{.tokens = {1, 99}, .first = 1}}));
  REQUIRE(fails<invalid_argument>(scorer, {{.tokens = Tokens(kContext + 2), .first = 1}}));
  const ScoredGroup longest{{.tokens = Tokens(kContext + 1), .first = 1}};
  REQUIRE(!fails<std::exception>(scorer, longest));
  const KvCache::Sequence other = cache.open(Tokens(200, 5)).sequence;
  REQUIRE(cache.reserve(other, 200));
  REQUIRE(fails<std::runtime_error>(scorer, longest));
  cache.close(other);
  REQUIRE(!fails<std::exception>(scorer, longest));
}

}  // namespace

int main() {
  test_groups_are_scored_as_their_rows_alone();
  test_greedy_rows_are_known();
  test_a_trunk_is_computed_once();
  test_logits_that_are_no_numbers_give_scores_that_are_none();
  test_errors();
}
