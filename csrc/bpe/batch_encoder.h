// Many texts at once, over threads, into one run of ids.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "bpe/encoder.h"
#include "bpe/text.h"

namespace nanochat::bpe {

template <typename Id>
struct EncodedTexts {
  IdBuffer<Id> ids;
  std::vector<int64_t> offsets;  // text i is ids [offsets[i], offsets[i + 1])
};

// Calls from several threads may run at once.
template <typename Id>
class BatchEncoder {
 public:
  BatchEncoder(const std::vector<std::string>& tokens, Splitter splitter)
      : encoder_(tokens, splitter) {}

  [[nodiscard]] const Vocabulary& vocabulary() const { return encoder_.vocabulary(); }

  // `poll` is called on the calling thread every few milliseconds and may throw.
  [[nodiscard]] EncodedTexts<Id> encode(std::span<const Text> texts, int num_threads,
                                        const std::function<void()>& poll) const;

 private:
  struct Workspace {
    EncoderWorkspace<Id> encoder;
    std::string utf8;
  };
  class Joiner;
  // A workspace of nobody else, with the cache that earlier calls have filled.
  class Lease;

  Encoder encoder_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace nanochat::bpe
