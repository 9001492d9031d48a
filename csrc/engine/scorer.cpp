#include "engine/scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "common/check.h"
#include "engine/sampler_loops.h"

namespace nanochat::engine {
namespace {

constexpr int kMaxLogitRows = 128;   // of a forward: 32 MiB at a vocabulary of 65,536
constexpr int kTokensAtOnce = 4096;  // of trunks whose tails then share forwards

int num_pages(int num_tokens) {
  return (num_tokens + kPageTokens - 1) / kPageTokens;
}

// With how many equal tokens all rows begin, of those that are computed.
int length_of_trunk(const ScoredGroup& group) {
  const std::vector<int32_t>& first = group.front().tokens;
  auto length = static_cast<ptrdiff_t>(first.size()) - 1;
  for (const ScoredRow& row : group) {
    length = std::min(length, static_cast<ptrdiff_t>(row.tokens.size()) - 1);
    length = std::mismatch(first.begin(), first.begin() + length, row.tokens.begin()).first -
             first.begin();
  }
  return static_cast<int>(length);
}

void check_room(bool is_there) {
  if (!is_there) throw std::runtime_error("engine: no pages are free for scores; try again later");
}

}  // namespace

std::vector<std::vector<RowScore>> Scorer::score(std::span<const ScoredGroup> groups) {
  check_rows(groups);
  std::vector<std::vector<RowScore>> scores;
  for (const ScoredGroup& group : groups) scores.emplace_back(group.size());
  const int reserve = num_pages(options_.context) + 1;  // for tails of any length, one by one
  std::vector<Job> trunks, tails;
  try {
    for (size_t begin = 0, end = 0; begin < groups.size(); begin = end) {
      std::vector<int> lengths;
      int num_tokens = 0;
      for (; end < groups.size() && num_tokens < kTokensAtOnce; ++end) {
        const ScoredGroup& group = groups[end];
        const int length = group.empty() ? 0 : length_of_trunk(group);
        const int room = cache_.num_free() + cache_.num_idle();
        if (end > begin && room < num_pages(length) + reserve) break;
        lengths.push_back(length);
        if (length == 0) continue;
        int first_logits = length;
        for (const ScoredRow& row : group) first_logits = std::min(first_logits, row.first - 1);
        trunks.push_back({.tokens = std::span(group.front().tokens).first(size_t(length)),
                          .first_logits = first_logits,
                          .rows = group,
                          .scores = scores[end]});
        if (!open(trunks.back(), first_logits)) {
          trunks.pop_back();
          lengths.pop_back();
          check_room(end > begin);
          break;
        }
        num_tokens += length;
      }
      compute(trunks);
      for (size_t g = begin; g < end; ++g) {
        const int trunk = lengths[g - begin];
        for (size_t r = 0; r < groups[g].size(); ++r) {
          const ScoredRow& row = groups[g][r];
          const auto length = static_cast<int>(row.tokens.size()) - 1;
          if (length == trunk) continue;
          Job tail{.tokens = std::span(row.tokens).first(size_t(length)),
                   .first_logits = std::max(row.first - 1, trunk),
                   .rows = std::span(groups[g]).subspan(r, 1),
                   .scores = std::span(scores[g]).subspan(r, 1)};
          if (!open(tail, trunk)) {
            compute(tails);
            close(tails);
            check_room(open(tail, trunk));
          }
          tails.push_back(tail);
        }
      }
      compute(tails);
      close(tails);
      close(trunks);
    }
  } catch (...) {
    close(tails);
    close(trunks);
    throw;
  }
  return scores;
}

void Scorer::check_rows(std::span<const ScoredGroup> groups) const {
  for (const ScoredGroup& group : groups) {
    for (const ScoredRow& row : group) {
      const auto size = static_cast<int>(row.tokens.size());
      check(size >= 2 && size <= options_.context + 1, "engine: a scored row must have 2 to ",
            options_.context + 1, " tokens, got ", size);
      check(row.first >= 1 && row.first < size, "engine: the first scored token must be 1 to ",
            size - 1, ", got ", row.first);
      for (const int32_t token : row.tokens) {
        check(token >= 0 && token < options_.vocab_size, "engine: token ids must be 0 to ",
              options_.vocab_size - 1, ", got ", token);
      }
    }
  }
}

// Takes from the cache what is there of the first `num_known` tokens, and room for the others.
bool Scorer::open(Job& job, int num_known) {
  const size_t most = std::min(job.tokens.size(), static_cast<size_t>(num_known) + 1);
  const KvCache::Opened opened = cache_.open(job.tokens.first(most));
  if (opened.copy_to >= 0) model_.copy_page(opened.copy_from, opened.copy_to);
  job.sequence = opened.sequence;
  job.num_computed = opened.num_cached;
  if (cache_.reserve(job.sequence, static_cast<int>(job.tokens.size()))) return true;
  cache_.close(job.sequence);
  return false;
}

void Scorer::close(std::vector<Job>& jobs) {
  for (const Job& job : jobs) cache_.close(job.sequence);
  jobs.clear();
}

// Computes what is left of the jobs, first come, first served.
void Scorer::compute(std::span<Job> jobs) {
  std::vector<Chunk> chunks;
  std::vector<Job*> owners;
  const auto is_done = [](const Job& job) {
    return job.num_computed == static_cast<int>(job.tokens.size());
  };
  for (;;) {
    chunks.clear();
    owners.clear();
    int room = options_.max_chunk, room_of_logits = kMaxLogitRows;
    while (!jobs.empty() && is_done(jobs.front())) jobs = jobs.subspan(1);
    if (jobs.empty()) return;
    for (Job& job : jobs) {
      if (is_done(job)) continue;
      const int begin = job.num_computed, first = std::max(begin, job.first_logits);
      const int end =
          std::min({static_cast<int>(job.tokens.size()), begin + room, first + room_of_logits});
      if (end == begin) break;
      const int num_logits = std::max(0, end - first);
      const auto at = static_cast<size_t>(begin);
      chunks.push_back({.tokens = job.tokens.subspan(at, static_cast<size_t>(end - begin)),
                        .position = begin,
                        .previous = begin == 0 ? -1 : job.tokens[at - 1],
                        .pages = cache_.pages(job.sequence),
                        .num_logits = num_logits});
      owners.push_back(&job);
      room -= end - begin;
      room_of_logits -= num_logits;
    }
    model_.forward(chunks);
    int row = 0;
    for (size_t c = 0; c < chunks.size(); ++c) {
      Job& job = *owners[c];
      cache_.commit(job.sequence, chunks[c].tokens);
      job.num_computed += static_cast<int>(chunks[c].tokens.size());
      for (int k = chunks[c].num_logits; k > 0; --k) price(job, job.num_computed - k, row++);
    }
  }
}

// Adds what the token after `position` costs to the rows of the job that have it scored.
void Scorer::price(const Job& job, int position, int row_of_logits) {
  const CpuLevel level = best_cpu_level();
  const std::span<const float> raw = model_.logits(row_of_logits);
  const Largest largest = max_of(level, raw);
  std::span<const float> logits = raw;
  if (options_.softcap > 0) {
    capped_.resize(raw.size());
    softcap(level, raw, options_.softcap, capped_.data());
    logits = capped_;
  }
  int32_t likeliest = -1;
  double log_sum = std::numeric_limits<double>::quiet_NaN();
  if (largest.is_sound) {
    likeliest = index_of_max(level, raw, largest.value);
    const float max = logits[static_cast<size_t>(likeliest)];
    log_sum = static_cast<double>(max) + std::log(sum_of_exp(level, logits, max));
  }
  for (size_t r = 0; r < job.rows.size(); ++r) {
    const ScoredRow& row = job.rows[r];
    if (position + 1 < row.first) continue;
    const int32_t token = row.tokens[static_cast<size_t>(position) + 1];
    job.scores[r].nats += log_sum - static_cast<double>(logits[static_cast<size_t>(token)]);
    job.scores[r].is_greedy &= token == likeliest;
  }
}

}  // namespace nanochat::engine
