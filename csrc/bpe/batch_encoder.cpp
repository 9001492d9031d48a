#include "bpe/batch_encoder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "common/thread_pool.h"

namespace nanochat::bpe {
namespace {

constexpr size_t kPartBytes = size_t{256} << 10;  // of text that a thread takes at a time
constexpr size_t kBytesPerId = 3;                 // about; the first guess of the room for ids
constexpr size_t kMaxUtf8 = size_t{16} << 20;     // bytes of a buffer that outlives a call
constexpr auto kPollInterval = std::chrono::milliseconds(20);

// Consecutive texts of at least kPartBytes: the first text of each part, and their number.
std::vector<size_t> cut(std::span<const Text> texts) {
  std::vector<size_t> firsts{0};
  size_t num_bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    num_bytes += texts[i].num_bytes();
    if (num_bytes >= kPartBytes && i + 1 < texts.size()) {
      firsts.push_back(i + 1);
      num_bytes = 0;
    }
  }
  firsts.push_back(texts.size());
  return firsts;
}

}  // namespace

// Joins parts in their order, however they get done, and hands their buffers out again: memory that
// has been touched before is memory without page faults.
template <typename Id>
class BatchEncoder<Id>::Joiner {
 public:
  Joiner(size_t num_parts, IdBuffer<Id>& out) : done_(num_parts), out_(out) {}

  IdBuffer<Id> take_buffer() {
    const std::scoped_lock lock(mutex_);
    if (spare_.empty()) return {};
    IdBuffer<Id> buffer = std::move(spare_.back());
    spare_.pop_back();
    return buffer;
  }

  void put(size_t part, IdBuffer<Id> ids) {
    const std::scoped_lock lock(mutex_);
    done_[part] = std::move(ids);
    for (; next_ < done_.size() && done_[next_]; ++next_) {
      out_.append(*done_[next_]);
      done_[next_]->clear();
      spare_.push_back(std::move(*done_[next_]));
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::optional<IdBuffer<Id>>> done_;
  std::vector<IdBuffer<Id>> spare_;
  size_t next_ = 0;
  IdBuffer<Id>& out_;
};

template <typename Id>
class BatchEncoder<Id>::Lease {
 public:
  explicit Lease(const BatchEncoder& owner) : owner_(owner) {
    {
      const std::scoped_lock lock(owner_.mutex_);
      if (!owner_.idle_.empty()) {
        workspace_ = std::move(owner_.idle_.back());
        owner_.idle_.pop_back();
      }
    }
    if (!workspace_) workspace_ = std::make_unique<Workspace>();
  }
  ~Lease() {
    if (workspace_->utf8.size() > kMaxUtf8) workspace_->utf8 = std::string();
    const std::scoped_lock lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(workspace_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  [[nodiscard]] Workspace& get() { return *workspace_; }

 private:
  const BatchEncoder& owner_;
  std::unique_ptr<Workspace> workspace_;
};

template <typename Id>
EncodedTexts<Id> BatchEncoder<Id>::encode(std::span<const Text> texts, int num_threads,
                                          const std::function<void()>& poll) const {
  const std::vector<size_t> firsts = cut(texts);
  const size_t num_parts = firsts.size() - 1;
  EncodedTexts<Id> result;
  result.offsets.resize(texts.size() + 1);
  size_t num_bytes = 0;
  for (const Text& text : texts) num_bytes += text.num_bytes();
  static_cast<void>(result.ids.reserve(num_bytes / kBytesPerId));
  Joiner joiner(num_parts, result.ids);

  const auto encode_part = [&](size_t part, Workspace& workspace) {
    IdBuffer<Id> ids = joiner.take_buffer();
    for (size_t i = firsts[part]; i < firsts[part + 1]; ++i) {
      const size_t before = ids.size();
      encoder_.encode(as_utf8(texts[i], Surrogates::kReplace, workspace.utf8), workspace.encoder,
                      ids);
      result.offsets[i + 1] = static_cast<int64_t>(ids.size() - before);
    }
    joiner.put(part, std::move(ids));
  };

  std::atomic<size_t> next = 0;
  const auto caller = std::this_thread::get_id();
  parallel_for(static_cast<int64_t>(num_parts), num_threads, [&](int64_t, int64_t) {
    Lease workspace(*this);
    auto last_poll = std::chrono::steady_clock::now();
    for (size_t part; (part = next.fetch_add(1)) < num_parts;) {
      encode_part(part, workspace.get());
      const auto now = std::chrono::steady_clock::now();
      if (std::this_thread::get_id() == caller && now - last_poll > kPollInterval) {
        try {
          poll();
        } catch (...) {
          next = num_parts;  // the others stop too
          throw;
        }
        last_poll = now;
      }
    }
  });
  for (size_t i = 0; i < texts.size(); ++i) result.offsets[i + 1] += result.offsets[i];
  return result;
}

template class BatchEncoder<uint16_t>;
template class BatchEncoder<uint32_t>;

}  // namespace nanochat::bpe
