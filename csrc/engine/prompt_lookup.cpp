#include "engine/prompt_lookup.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <iterator>

namespace nanochat::engine {
namespace {

constexpr int32_t kNone = -1;
constexpr int kMaxCandidates = 32;   // looked at for a draft, the latest ones
constexpr size_t kMinBuckets = 256;  // and at least one for each token

// Time of a step by its rows: all matrices of d12 in bf16 on one core (Zen 5), where bandwidth
// decides up to about 12 rows, arithmetic from there on.
struct StepCost {
  int num_rows;
  double cost;  // in steps of one row
};
constexpr StepCost kStepCosts[] = {{1, 1.0},  {2, 1.07},  {4, 1.10},
                                   {8, 1.30}, {16, 1.84}, {32, 2.9}};

// Between the steps measured, and beyond the last, along straight lines.
double step_cost(int num_rows) {
  const StepCost* high = std::begin(kStepCosts) + 1;
  while (high != std::end(kStepCosts) - 1 && high->num_rows < num_rows) ++high;
  const StepCost* const low = high - 1;
  return low->cost +
         (high->cost - low->cost) * (num_rows - low->num_rows) / (high->num_rows - low->num_rows);
}

constexpr double kRate = 0.125;  // weight of a token in the moving average
constexpr int kProbeDrafts = 2;  // tokens

}  // namespace

void PromptLookup::append(std::span<const int32_t> tokens) {
  auto next = std::ssize(tokens_);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  previous_.resize(tokens_.size(), kNone);
  if (tokens_.size() > latest_.size()) {
    latest_.assign(std::max(kMinBuckets, std::bit_ceil(2 * tokens_.size())), kNone);
    next = 0;
  }
  for (; next < std::ssize(tokens_); ++next) insert(static_cast<int32_t>(next));
}

int PromptLookup::draft(std::span<int32_t> out) const {
  const auto end = static_cast<int32_t>(tokens_.size());
  if (end < kMinMatch || out.empty()) return 0;
  int best_match = kMinMatch - 1;
  int32_t best_end = kNone;  // of the earlier place
  int32_t candidate = previous_[end - 1];
  for (int n = 0; n < kMaxCandidates && candidate != kNone && best_match < kMaxMatch; ++n) {
    const int longest = std::min(kMaxMatch, candidate + 1);
    int match = 0;
    while (match < longest && tokens_[candidate - match] == tokens_[end - 1 - match]) ++match;
    if (match > best_match) {
      best_match = match;
      best_end = candidate + 1;
    }
    candidate = previous_[candidate];
  }
  if (best_end == kNone) return 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t from = static_cast<size_t>(best_end) + i;
    out[i] = from < tokens_.size() ? tokens_[from] : out[from - tokens_.size()];
  }
  return static_cast<int>(out.size());
}

// Of the three tokens up to `last`.
size_t PromptLookup::bucket(int32_t last) const {
  uint64_t hash = 0;
  for (int i = kMinMatch - 1; i >= 0; --i) {
    hash = (hash ^ static_cast<uint32_t>(tokens_[last - i])) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  }
  return hash & (latest_.size() - 1);
}

void PromptLookup::insert(int32_t last) {
  if (last < kMinMatch - 1) return;
  int32_t& latest = latest_[bucket(last)];
  previous_[last] = latest;
  latest = last;
}

int SpeculationGate::num_drafts(int num_rows, int max_drafts) const {
  assert(num_rows >= 1 && max_drafts >= 0);
  const double rate = num_rows / step_cost(num_rows);  // tokens in the time of a step of one
  int best = 0;
  double best_gain = 0, accepted = 0;
  for (int n = 1; n <= max_drafts; ++n) {
    accepted = (1 + accepted) * chance_;
    const double gain = accepted - rate * (step_cost(num_rows + n) - step_cost(num_rows));
    if (gain > best_gain) {
      best = n;
      best_gain = gain;
    }
  }
  if (best == 0 && num_since_draft_ >= probe_after_) return std::min(kProbeDrafts, max_drafts);
  return best;
}

void SpeculationGate::record(int num_drafted, int num_accepted) {
  assert(0 <= num_accepted && num_accepted <= num_drafted);
  if (num_drafted == 0) {
    ++num_since_draft_;
    return;
  }
  for (int i = 0; i < num_accepted; ++i) chance_ += kRate * (1 - chance_);
  if (num_accepted < num_drafted) chance_ -= kRate * chance_;
  if (num_accepted == num_drafted) {
    probe_after_ = 0;  // and another at once
  } else if (num_since_draft_ >= probe_after_) {
    probe_after_ = std::clamp(2 * probe_after_, kMinProbeAfter, kMaxProbeAfter);
  }
  num_since_draft_ = 0;
}

}  // namespace nanochat::engine
