#include "bpe/text_queue.h"

#include <algorithm>
#include <cassert>

namespace nanochat::bpe {
namespace {

constexpr size_t kRunBytes = size_t{64} << 10;  // of text that a counter takes at a time
constexpr size_t kMaxRun = 64;                  // texts

}  // namespace

void TextQueue::push(std::span<const Text> texts) {
  assert(!texts.empty());  // nobody would finish it
  const std::scoped_lock lock(mutex_);
  batches_.push_back({.texts = texts, .first_text = num_texts_});
  num_texts_ += texts.size();
  has_texts_.notify_all();
}

void TextQueue::close() {
  const std::scoped_lock lock(mutex_);
  is_closed_ = true;
  has_texts_.notify_all();
}

void TextQueue::stop() {
  const std::scoped_lock lock(mutex_);
  is_stopped_ = true;
  has_texts_.notify_all();
  has_room_.notify_all();
}

bool TextQueue::wait_until_at_most(size_t num_batches, std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return has_room_.wait_for(lock, time,
                            [&] { return is_stopped_ || batches_.size() <= num_batches; });
}

size_t TextQueue::num_finished() {
  const std::scoped_lock lock(mutex_);
  return num_finished_;
}

bool TextQueue::is_stopped() {
  const std::scoped_lock lock(mutex_);
  return is_stopped_;
}

std::optional<TextQueue::Run> TextQueue::take_locked() {
  for (size_t i = 0; i < batches_.size(); ++i) {
    Batch& batch = batches_[i];
    if (batch.num_taken == batch.texts.size()) continue;
    const auto rest = batch.texts.subspan(batch.num_taken);
    size_t n = 0, num_bytes = 0;
    while (n < std::min(rest.size(), kMaxRun) && num_bytes < kRunBytes) {
      num_bytes += rest[n++].num_bytes();
    }
    const size_t first_text = batch.first_text + batch.num_taken;
    batch.num_taken += n;
    return Run{.texts = rest.first(n), .first_text = first_text, .batch = num_finished_ + i};
  }
  return std::nullopt;
}

std::optional<TextQueue::Run> TextQueue::take() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (is_stopped_) return std::nullopt;
    if (const auto run = take_locked()) return run;
    if (is_closed_) return std::nullopt;
    has_texts_.wait(lock);
  }
}

void TextQueue::finish(const Run& run) {
  const std::scoped_lock lock(mutex_);
  batches_[run.batch - num_finished_].num_finished += run.texts.size();
  while (!batches_.empty() && batches_.front().num_finished == batches_.front().texts.size()) {
    batches_.pop_front();
    ++num_finished_;
  }
  has_room_.notify_all();
}

}  // namespace nanochat::bpe
