// Threads, and a training that another thread stops half way.
#include "bpe/trainer.h"

#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "require.h"

namespace {

using namespace nanochat::bpe;

std::string random_letters(std::mt19937& rng, size_t size) {
  std::string text(size, ' ');
  for (char& c : text) c = "abcdefgh '"[rng() % 10];
  return text;
}

std::vector<Text> views_of(const std::vector<std::string>& texts) {
  std::vector<Text> views;
  for (const std::string& text : texts) views.push_back({text.data(), text.size()});
  return views;
}

// Whether `work` ends by Stopped when `is_time` comes true meanwhile.
template <typename Work, typename IsTime>
bool stops(Training& training, Work&& work, IsTime&& is_time) {
  std::jthread watcher([&](const std::stop_token& is_over) {
    while (!is_over.stop_requested() && !is_time()) std::this_thread::yield();
    training.stop = true;
  });
  try {
    work();
  } catch (const Stopped&) {
    return true;
  }
  return false;
}

void test_threads_and_batches_do_not_change_the_tokens() {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<std::string> texts;
    for (int i = 0; i < 20; ++i) texts.push_back(random_letters(rng, rng() % 60));
    const std::vector<Text> views = views_of(texts);
    Training training;
    Trainer one(Splitter::kNanochat, 1, training);
    Trainer three(Splitter::kNanochat, 3, training);
    one.add(views);
    three.add(std::span(views).first(7));
    three.add(std::span(views).subspan(7));
    REQUIRE(one.train(290) == three.train(290));
  }
}

void test_stop_ends_the_count() {
  std::mt19937 rng(3);
  const std::vector<std::string> texts(1, random_letters(rng, 1 << 21));
  const std::vector<Text> views(200, views_of(texts)[0]);
  for (const int num_threads : {1, 3}) {
    Training training;
    Trainer trainer(Splitter::kNanochat, num_threads, training);
    REQUIRE(stops(training, [&] { trainer.add(views); }, [&] { return training.num_bytes > 0; }));
    REQUIRE(training.num_bytes < int64_t{100} << 21);  // of 200
  }
}

void test_stop_ends_the_merges() {
  std::mt19937 rng(4);
  const std::vector<std::string> texts(1, random_letters(rng, 1 << 20));
  for (const int num_threads : {1, 3}) {
    Training training;
    Trainer trainer(Splitter::kWhole, num_threads, training);
    trainer.add(views_of(texts));
    REQUIRE(stops(
        training, [&] { static_cast<void>(trainer.train(1 << 18)); },
        [&] { return training.num_merges > 0; }));
  }
}

}  // namespace

int main() {
  test_threads_and_batches_do_not_change_the_tokens();
  test_stop_ends_the_count();
  test_stop_ends_the_merges();
}
