// Drafts for speculative decoding, out of the sequence itself: where its last tokens stood before,
// what followed then is likely to follow now. Copying, quoting and code are full of it. A draft is
// a guess: the engine compares it with what it samples anyway, so none can change the result.
//
//   prompt: ... def total ( items ) : return ...       output: ... print ( total ( items
//                   ^^^^^^^^^^^^^ matches the end   -> draft: ) : return ...
//
// Source: prompt lookup decoding, A. Saxena, 2023; the chains are those of LZ77 compressors.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nanochat::engine {

// The tokens of one sequence, and where each three of them stood last.
class PromptLookup {
 public:
  static constexpr int kMinMatch = 3, kMaxMatch = 8;  // tokens that agree

  // O(1) for each token, amortised.
  void append(std::span<const int32_t> tokens);

  // Fills `out` with what followed the earlier place that agrees with the longest end of the
  // sequence, the latest of equals, and returns its size; 0 if less than kMinMatch tokens agree.
  // Where the sequence ends before the draft does, the draft goes on in itself: a loop stays one.
  int draft(std::span<int32_t> out) const;

 private:
  [[nodiscard]] size_t bucket(int32_t last) const;
  void insert(int32_t last);

  std::vector<int32_t> tokens_;
  std::vector<int32_t> previous_;  // by position of a last token: the one before in its bucket
  std::vector<int32_t> latest_;    // by bucket; a power of two of them
};

// How many tokens a sequence should draft, from what became of its drafts before. It changes how
// much is computed, never what comes out.
//
// A token drafted costs a row more in the step. With R rows in the step as it is, n drafts pay when
// they bring more than R (cost(R + n) / cost(R) - 1) tokens: 0.1 for three drafts of a sequence
// alone, 1.2 if eight share the step. They are expected to bring p + p^2 + .. + p^n, with a moving
// average p of the share of tokens accepted, up to the first refused of each draft. Where no number
// pays, a short draft now and then finds out whether times have changed.
class SpeculationGate {
 public:
  // For a step that computes `num_rows` tokens anyway, one of them this sequence's; 0: do not.
  [[nodiscard]] int num_drafts(int num_rows, int max_drafts) const;

  // After every step, also one without a draft.
  void record(int num_drafted, int num_accepted);

 private:
  static constexpr int kMinProbeAfter = 32, kMaxProbeAfter = 256;  // steps without a draft

  double chance_ = 0.5;  // of a token to be accepted
  int num_since_draft_ = 0;
  int probe_after_ = kMinProbeAfter;
};

}  // namespace nanochat::engine
