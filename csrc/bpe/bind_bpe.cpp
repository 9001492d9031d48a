// Python face of the trainer: streams documents, releases the GIL, answers Ctrl-C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe/bind_texts.h"
#include "bpe/pretokenize.h"
#include "bpe/trainer.h"
#include "common/background.h"

namespace py = pybind11;

namespace nanochat {
namespace {

// Of text in a batch; two are held at most, which bounds memory whatever the iterable does.
constexpr size_t kBatchBytes = size_t{8} << 20;
constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr auto kReportInterval = std::chrono::milliseconds(100);

bpe::Splitter known_splitter(const std::string& pattern) {
  if (pattern.empty()) return bpe::Splitter::kWhole;
  const auto splitter = bpe::splitter_for(pattern);
  if (!splitter) throw py::value_error("bpe: there is no scanner for the pattern " + pattern);
  return *splitter;
}

// Looks for Ctrl-C and tells the caller how far the training is.
class Watch {
 public:
  Watch(const bpe::Training& training, py::object progress)
      : training_(training), progress_(std::move(progress)) {}

  void poll() {  // without the GIL
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const auto now = std::chrono::steady_clock::now();
    if (now - last_report_ < kReportInterval) return;
    last_report_ = now;
    report();
  }
  void report() {
    if (!progress_.is_none()) progress_(training_.num_bytes.load(), training_.num_merges.load());
  }

 private:
  const bpe::Training& training_;
  py::object progress_;
  std::chrono::steady_clock::time_point last_report_ = std::chrono::steady_clock::now();
};

std::vector<py::bytes> train(const py::object& texts, int64_t vocab_size,
                             const std::string& pattern, int num_threads, py::object progress) {
  if (vocab_size < bpe::kMinVocabSize) {
    throw py::value_error("train_bpe: vocab_size must be at least " +
                          std::to_string(bpe::kMinVocabSize) + " (the bytes), got " +
                          std::to_string(vocab_size));
  }
  TextReader reader(texts, "train_bpe");
  bpe::Training training;
  Watch watch(training, std::move(progress));
  bpe::Trainer trainer(known_splitter(pattern), num_threads, training);
  std::vector<std::string> tokens;
  bpe::TextQueue queue;
  std::deque<TextBatch> batches;  // destroyed after the work that reads them
  size_t num_released = 0;
  Background background([&] {
    training.stop = true;
    queue.stop();
  });
  const auto wait = [&] {
    const py::gil_scoped_release release;
    background.wait([&] { watch.poll(); });
  };

  background.start([&] { trainer.count(queue); });
  // With several threads, a batch is read while others are counted.
  const size_t num_ahead = num_threads == 1 ? 0 : 1;
  for (TextBatch next; reader.read(kBatchBytes, next); next = {}) {
    queue.push(batches.emplace_back(std::move(next)).texts);
    {
      const py::gil_scoped_release release;
      while (!queue.wait_until_at_most(num_ahead, kPollInterval)) watch.poll();
    }
    for (; num_released < queue.num_finished(); ++num_released) batches.pop_front();
    if (queue.is_stopped()) break;  // the work has failed, and wait() says how
    watch.poll();
  }
  queue.close();
  wait();
  batches.clear();
  background.start([&] { tokens = trainer.train(vocab_size); });
  wait();
  watch.report();
  return {tokens.begin(), tokens.end()};
}

std::vector<py::bytes> pretokenize(const py::bytes& text, const std::string& pattern) {
  const bpe::Splitter splitter = known_splitter(pattern);
  const std::string_view view = text;
  std::vector<py::bytes> pieces;
  std::array<size_t, 64> ends;
  size_t begin = 0;
  for (size_t n = ends.size(); n == ends.size();) {
    n = bpe::pretokenize(splitter, view, begin, ends);
    for (size_t i = 0; i < n; ++i) {
      pieces.emplace_back(view.substr(begin, ends[i] - begin));
      begin = ends[i];
    }
  }
  return pieces;
}

int char_class(uint32_t code_point) {
  if (code_point > 0x10FFFF) throw py::value_error("char_class: not a code point");
  return static_cast<int>(bpe::char_class(code_point));
}

}  // namespace

void bind_bpe(py::module_& m) {
  m.attr("SPLIT_PATTERN") = std::string(bpe::kSplitPattern);
  m.attr("GPT4_PATTERN") = std::string(bpe::kGpt4Pattern);
  m.attr("GPT2_PATTERN") = std::string(bpe::kGpt2Pattern);
  m.attr("CL100K_PATTERN") = std::string(bpe::kCl100kPattern);
  m.attr("UNICODE_VERSION") = std::string(bpe::kUnicodeVersion);
  m.def("bpe_train", &train, py::arg("texts"), py::arg("vocab_size"), py::arg("pattern"),
        py::arg("num_threads"), py::arg("progress"),
        "Tokens in the order of ids: the 256 bytes, then the merges.");
  m.def("bpe_pretokenize", &pretokenize, py::arg("text"), py::arg("pattern"),
        "The pieces that merges never cross.");
  m.def("bpe_char_class", &char_class, py::arg("code_point"),
        "0 other, 1 letter, 2 number, 3 white space, 4 CR or LF.");
}

}  // namespace nanochat
