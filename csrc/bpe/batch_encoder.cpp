#include "bpe/batch_encoder.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "common/thread_pool.h"

namespace nanochat::bpe {
namespace {

constexpr size_t kPartBytes = size_t{256} << 10;  // of text that a thread takes at a time
constexpr size_t kBytesPerId = 4;                 // about; the first guess of a buffer's size
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

template <typename Id>
void EncodedTexts<Id>::copy_to(Id* out) const {
  for (const auto& part : parts) {
    if (part.size() > 0) std::memcpy(out, part.data(), part.size() * sizeof(Id));
    out += part.size();
  }
}

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
  EncodedTexts<Id> result{.parts = std::vector<IdBuffer<Id>>(num_parts),
                          .offsets = std::vector<int64_t>(texts.size() + 1)};

  const auto encode_part = [&](size_t part, Workspace& workspace) {
    IdBuffer<Id>& ids = result.parts[part];
    size_t num_bytes = 0;
    for (size_t i = firsts[part]; i < firsts[part + 1]; ++i) num_bytes += texts[i].num_bytes();
    static_cast<void>(ids.reserve(num_bytes / kBytesPerId));
    for (size_t i = firsts[part]; i < firsts[part + 1]; ++i) {
      const size_t before = ids.size();
      encoder_.encode(as_utf8(texts[i], Surrogates::kReplace, workspace.utf8), workspace.encoder,
                      ids);
      result.offsets[i + 1] = static_cast<int64_t>(ids.size() - before);
    }
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

template struct EncodedTexts<uint16_t>;
template struct EncodedTexts<uint32_t>;
template class BatchEncoder<uint16_t>;
template class BatchEncoder<uint32_t>;

}  // namespace nanochat::bpe
