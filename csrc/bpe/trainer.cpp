#include "bpe/trainer.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "common/thread_pool.h"

namespace nanochat::bpe {

Trainer::Trainer(Splitter splitter, int num_threads, Training& training) : training_(training) {
  if (num_threads < 1) {
    throw std::invalid_argument("train_bpe: num_threads must be at least 1, got " +
                                std::to_string(num_threads));
  }
  for (int thread = 0; thread < num_threads; ++thread) {
    counters_.emplace_back(splitter, static_cast<size_t>(num_threads));
  }
  utf8_.resize(counters_.size());
}

void Trainer::for_each_thread(const std::function<void(size_t thread)>& body) const {
  const auto n = static_cast<int64_t>(counters_.size());
  parallel_for(n, static_cast<int>(n), [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) body(static_cast<size_t>(thread));
  });
}

void Trainer::count(TextQueue& queue) {
  // Runs are taken in order, and a run that was taken is counted to its end or to its first bad
  // text: so the smallest of the threads' bad texts is the first of all, whoever was faster.
  constexpr size_t kNone = std::numeric_limits<size_t>::max();
  std::vector<size_t> bad_text(counters_.size(), kNone);
  for_each_thread([&](size_t thread) {
    try {
      while (const auto run = queue.take()) {
        for (size_t i = 0; i < run->texts.size(); ++i) {
          if (count_text(run->texts[i], thread)) continue;
          bad_text[thread] = run->first_text + i;
          queue.stop();
          return;
        }
        queue.finish(*run);
      }
    } catch (...) {
      queue.stop();
      throw;
    }
  });
  const size_t first = *std::ranges::min_element(bad_text);
  if (first == kNone) return;
  throw std::invalid_argument("train_bpe: document " + std::to_string(first) +
                              " has a lone surrogate, which is not text; drop it or replace it "
                              "by text.encode('utf-8', 'replace')");
}

void Trainer::add(std::span<const Text> texts) {
  TextQueue queue;
  if (!texts.empty()) queue.push(texts);
  queue.close();
  count(queue);
}

bool Trainer::count_text(const Text& text, size_t thread) {
  std::string_view utf8;
  try {
    utf8 = as_utf8(text, Surrogates::kRefuse, utf8_[thread]);
  } catch (const SurrogateError&) {
    return false;
  }
  counters_[thread].add_text(utf8, training_);
  return true;
}

std::vector<WeightedPiece> Trainer::combine_counters() {
  const size_t num_parts = counters_.size();
  std::vector<std::vector<WeightedPiece>> pieces_of(num_parts);
  for_each_thread([&](size_t part) {
    PieceTable& sum = counters_[0].part(part);
    std::vector<WeightedPiece>& pieces = pieces_of[part];
    const auto list = [&](std::string_view piece, int64_t count) {
      pieces.push_back({piece, count});
    };
    for (size_t other = 1; other < counters_.size(); ++other) {
      PieceTable& theirs = counters_[other].part(part);
      if (other + 1 == counters_.size()) {
        pieces.reserve(sum.size() + theirs.size());
        sum.add_counts_of(theirs, training_, list);
      } else {
        sum.add_all_of(theirs, training_);
        theirs = PieceTable();
      }
    }
    pieces.reserve(pieces.size() + sum.size());
    sum.for_each(list);
  });
  std::vector<WeightedPiece> pieces = std::move(pieces_of[0]);
  for (size_t part = 1; part < num_parts; ++part) {
    pieces.insert(pieces.end(), pieces_of[part].begin(), pieces_of[part].end());
    pieces_of[part] = {};
  }
  return pieces;
}

std::vector<std::string> Trainer::train(int64_t vocab_size) {
  const auto num_threads = static_cast<int>(counters_.size());
  const auto num_merges = static_cast<size_t>(vocab_size - kMinVocabSize);
  const std::vector<Merge> merges = learn_merges(combine_counters(), num_merges, num_threads,
                                                 training_, [this] { counters_.clear(); });

  std::vector<std::string> tokens;
  tokens.reserve(static_cast<size_t>(kMinVocabSize) + merges.size());
  for (int byte = 0; byte < kMinVocabSize; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const auto& [left, right] : merges) tokens.push_back(tokens[left] + tokens[right]);
  return tokens;
}

}  // namespace nanochat::bpe
