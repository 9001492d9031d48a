// How likely given tokens are: rows of tokens, in groups that begin alike, as the choices of a
// question do.
//
//   group   [ trunk: common to all rows ][ tail of row 1 ]
//                                        [ tail of row 2 ]      the last token is only predicted
//
// Each trunk is computed once; its rows take its pages from the cache, copy on write. The trunks of
// several groups share a forward, then all their tails do: a tail is a few tokens, too few for the
// weights that they would read alone. Logits are computed where a token is scored, nowhere else.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/model.h"

namespace nanochat::engine {

struct ScoredRow {
  std::vector<int32_t> tokens;
  int first = 1;  // tokens from here on are scored: 1 to tokens.size() - 1
};
using ScoredGroup = std::vector<ScoredRow>;

struct RowScore {
  double nats = 0;        // -log p of the softcapped logits, summed; NaN if a logit is NaN or +inf
  bool is_greedy = true;  // each token is the likeliest, of equals the lowest id
};

struct ScorerOptions {
  int vocab_size = 0, context = 0;
  float softcap = 0;
  int max_chunk = 512;  // tokens of a forward
};

class Scorer {
 public:
  // Model and cache are borrowed; nobody else may use them meanwhile.
  Scorer(Model& model, KvCache& cache, const ScorerOptions& options)
      : model_(model), cache_(cache), options_(options) {}

  // Scores in the order of groups and rows. Throws std::invalid_argument for a row that is too
  // long, has nothing to score or holds unknown tokens, std::runtime_error if other sequences hold
  // the pages that it takes.
  [[nodiscard]] std::vector<std::vector<RowScore>> score(std::span<const ScoredGroup> groups);

 private:
  // Tokens to compute: a trunk or a tail, and whom its logits are for.
  struct Job {
    std::span<const int32_t> tokens;  // from the beginning of the row
    int first_logits = 0;             // positions from here on have logits
    std::span<const ScoredRow> rows;
    std::span<RowScore> scores;
    KvCache::Sequence sequence = 0;
    int num_computed = 0;
  };

  void check_rows(std::span<const ScoredGroup> groups) const;
  [[nodiscard]] bool open(Job& job, int num_known);
  void compute(std::span<Job> jobs);
  void price(const Job& job, int position, int row_of_logits);
  void close(std::vector<Job>& jobs);

  Model& model_;
  KvCache& cache_;
  const ScorerOptions options_;
  std::vector<float> capped_;
};

}  // namespace nanochat::engine
