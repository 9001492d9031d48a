// Thousands of requests of all kinds at once end as each of them does alone; and each promise of
// the engine by an example.
#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <deque>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#ifdef __linux__
#include <unistd.h>
#endif

#include "engine/cpu/cpu_model.h"
#include "engine/history_model.h"
#include "engine/plain_gpt.h"
#include "engine/tiny_model.h"
#include "require.h"

namespace {

using namespace nanochat;
using namespace nanochat::engine;
using Tokens = std::vector<int32_t>;

#if defined(__SANITIZE_THREAD__)
constexpr bool kIsSanitized = true;
constexpr int kNumRequests = 500;
#elif defined(__SANITIZE_ADDRESS__)
constexpr bool kIsSanitized = true;
constexpr int kNumRequests = 2000;
#else
constexpr bool kIsSanitized = false;
constexpr int kNumRequests = 10000;
#endif

constexpr int kContext = 200;
constexpr double kForever = 60;  // seconds in which something has to happen

// What became of a request.
struct Outcome {
  std::vector<Drawn> drawn;
  int num_pauses = 0;
  Finish finish = Finish::kNone;
};

bool is_same(const Drawn& a, const Drawn& b) {
  const auto same_top = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  return a.token == b.token && a.logprob == b.logprob && std::ranges::equal(a.top, b.top, same_top);
}

bool is_beginning(const Outcome& part, const Outcome& whole) {
  return part.drawn.size() <= whole.drawn.size() && part.num_pauses <= whole.num_pauses &&
         std::equal(part.drawn.begin(), part.drawn.end(), whole.drawn.begin(), is_same);
}

bool is_same(const Outcome& a, const Outcome& b) {
  return a.finish == b.finish && a.drawn.size() == b.drawn.size() && a.num_pauses == b.num_pauses &&
         is_beginning(a, b);
}

void note(const Event& event, Outcome& outcome) {
  REQUIRE(outcome.finish == Finish::kNone);  // nothing comes after the end
  outcome.drawn.insert(outcome.drawn.end(), event.drawn.begin(), event.drawn.end());
  outcome.num_pauses += event.is_paused ? 1 : 0;
  outcome.finish = event.finish;
}

// What a paused sequence is given; nothing at times, and more than may still come.
Tokens answer(const Outcome& outcome, int vocab_size) {
  const int32_t token = outcome.drawn.back().token;
  Tokens tokens(token % 7 == 0 ? 30 : (token + outcome.num_pauses) % 4);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = (token + static_cast<int32_t>(i)) % vocab_size;
  }
  return tokens;
}

template <size_t n, typename T>
T one_of(const T (&values)[n], std::mt19937& rng) {
  return values[rng() % n];
}

// Prompts share beginnings of all lengths around the edges of pages.
std::vector<Request> random_requests(int n, int vocab_size, std::mt19937& rng) {
  std::vector<Tokens> texts;
  for (int i = 0; i < 5; ++i) texts.push_back(random_tokens(kContext - 1, vocab_size, rng));
  const auto ids = [&](unsigned one_in) {
    return rng() % one_in == 0 ? random_tokens(1 + rng() % 2, vocab_size, rng) : Tokens();
  };
  std::vector<Request> requests;
  for (int i = 0; i < n; ++i) {
    Tokens prompt = texts[rng() % texts.size()];
    prompt.resize(one_of({1, 5, 63, 64, 65, 90, 130, 199}, rng));
    const Tokens end = random_tokens(one_of({0, 0, 1, 3, 20}, rng), vocab_size, rng);
    prompt.insert(prompt.end(), end.begin(), end.end());
    prompt.resize(std::min(std::ssize(prompt), std::ptrdiff_t{kContext - 1}));
    requests.push_back({.prompt = prompt,
                        .sampling = {.temperature = one_of({0.0, 0.7, 1.0, 2.0}, rng),
                                     .top_k = one_of({0, 0, 1, 5, 1000}, rng),
                                     .top_p = one_of({1.0, 0.9, 0.3}, rng),
                                     .min_p = one_of({0.0, 0.0, 0.1}, rng),
                                     .repetition_penalty = one_of({1.0, 1.0, 1.3, 0.8}, rng),
                                     .num_logprobs = one_of({-1, -1, 0, 3}, rng)},
                        .seed = rng() % 3,
                        .sample = rng() % 2,
                        .max_tokens = one_of({1, 3, 20, 60, 1000}, rng),
                        .stop_ids = ids(3),
                        .pause_ids = ids(4)});
  }
  return requests;
}

// Its outcome where nothing is shared, guessed or computed beside it.
Outcome outcome_alone(Engine& engine, const Request& request) {
  const int64_t id = engine.submit(request);
  Outcome outcome;
  while (outcome.finish == Finish::kNone) {
    const std::vector<Event> events = engine.wait(kForever);
    REQUIRE(!events.empty());
    for (const Event& event : events) {
      REQUIRE(event.id == id);
      note(event, outcome);
      if (event.is_paused) engine.resume(id, answer(outcome, engine.vocab_size()));
    }
  }
  return outcome;
}

std::vector<Outcome> outcomes_alone(std::unique_ptr<Model> model, EngineOptions options,
                                    const std::vector<Request>& requests) {
  options.num_slots = 1;
  options.shares_prefixes = false;
  options.max_drafts = 0;
  Engine engine(std::move(model), options);
  std::vector<Outcome> outcomes;
  for (const Request& request : requests) outcomes.push_back(outcome_alone(engine, request));
  return outcomes;
}

void require_at_rest(Engine& engine) {
  const Statistics now = engine.statistics();
  REQUIRE(now.num_queued == 0 && now.num_running == 0);
  REQUIRE(now.num_free_pages + now.num_idle_pages == now.num_pages && now.num_pages > 0);
}

// Submits from four threads, cancels and resumes, and holds what comes against what it should be.
class Crowd {
 public:
  Crowd(Engine& engine, const std::vector<Request>& requests, const std::vector<Outcome>& wanted)
      : engine_(engine), requests_(requests), wanted_(wanted) {}

  void run(int num_requests, bool cancels, unsigned seed) {
    const int64_t drawn_before = engine_.statistics().num_drawn;
    std::vector<std::jthread> callers;
    for (int caller = 0; caller < kNumCallers; ++caller) {
      const int share =
          num_requests * (caller + 1) / kNumCallers - num_requests * caller / kNumCallers;
      callers.emplace_back([this, share, cancels, seed, caller] {
        call(share, cancels, seed * kNumCallers + static_cast<unsigned>(caller));
      });
    }
    int num_settled = 0;
    num_drawn_ = 0;
    while (num_settled < num_requests) num_settled += listen();
    REQUIRE(open_.empty());
    REQUIRE(engine_.statistics().num_drawn - drawn_before == num_drawn_);
    require_at_rest(engine_);
  }

  [[nodiscard]] int num_cancelled() const { return num_cancelled_; }

 private:
  static constexpr int kNumCallers = 4, kMaxOpen = 40;
  static constexpr size_t kMaxPaused = 3;

  struct Open {
    int request = -1;  // not yet known
    bool is_cancelled = false;
    Outcome outcome;
  };

  void call(int num_requests, bool cancels, unsigned seed) {
    std::mt19937 rng(seed);
    for (int i = 0; i < num_requests; ++i) {
      room_.acquire();
      const int request = static_cast<int>(rng() % requests_.size());
      const int64_t id = engine_.submit(requests_[request]);
      const bool is_cancelled = cancels && rng() % 4 == 0;
      {
        const std::scoped_lock lock(mutex_);
        open_[id].request = request;
        open_[id].is_cancelled = is_cancelled;
      }
      if (is_cancelled) {
        while (rng() % 2 == 0) std::this_thread::yield();
        engine_.cancel(id);
      }
      if (rng() % 8 == 0) engine_.resume(id - static_cast<int64_t>(rng() % 50) - 1000000, {1});
      if (cancels && rng() % 8 == 0) engine_.cancel(id + 1000000);
    }
  }

  // How many requests ended.
  int listen() {
    const std::vector<Event> events = engine_.wait(paused_.empty() ? 0.01 : 0.0);
    const std::scoped_lock lock(mutex_);
    REQUIRE(engine_.failure().empty());
    for (const Event& event : events) {
      Open& open = open_[event.id];
      note(event, open.outcome);
      num_drawn_ += std::ssize(event.drawn);
      if (event.is_paused) paused_.push_back(event.id);
      if (event.finish != Finish::kNone) ended_.push_back(event.id);
    }
    if (paused_.size() > kMaxPaused || (events.empty() && !paused_.empty())) {
      if (const auto open = open_.find(paused_.front()); open != open_.end()) {
        engine_.resume(open->first, answer(open->second.outcome, engine_.vocab_size()));
      }
      paused_.pop_front();
    }
    return settle();
  }

  // Of those that ended and whose caller has said what they are.
  int settle() {
    return static_cast<int>(std::erase_if(ended_, [&](int64_t id) {
      const auto [request, is_cancelled, outcome] = open_.at(id);
      if (request < 0) return false;
      const Outcome& want = wanted_[request];
      if (outcome.finish == Finish::kCancelled) {
        REQUIRE(is_cancelled && is_beginning(outcome, want));
        ++num_cancelled_;
      } else {
        REQUIRE(is_same(outcome, want));
      }
      open_.erase(id);
      room_.release();
      return true;
    }));
  }

  Engine& engine_;
  const std::vector<Request>& requests_;
  const std::vector<Outcome>& wanted_;
  std::counting_semaphore<kMaxOpen> room_{kMaxOpen};
  std::mutex mutex_;  // guards what follows
  std::unordered_map<int64_t, Open> open_;
  // Of the thread that listens.
  std::vector<int64_t> ended_;
  std::deque<int64_t> paused_;
  int num_cancelled_ = 0;
  int64_t num_drawn_ = 0;
};

// What the engine may ask of a model in a step.
int max_step_tokens(const EngineOptions& options) {
  return std::max(options.max_chunk,
                  options.num_slots * (1 + options.max_drafts) + options.max_chunk_beside);
}

EngineOptions history_options(int num_slots, int num_pages) {
  return {.vocab_size = HistoryModel::kVocabSize,
          .context = kContext,
          .num_slots = num_slots,
          .num_pages = num_pages};
}

// An engine and its model, which stands still at a step until it is released.
class HistoryEngine {
 public:
  explicit HistoryEngine(const EngineOptions& options, HistoryModel::Options model_options = {},
                         int held_step = -1) {
    model_options.num_pages = options.num_pages;
    model_options.max_tokens = max_step_tokens(options);
    model_options.context = options.context;
    model_options.before_forward = [this, held_step](int step) {
      if (step == held_step) released_.wait();
      if (step == held_step + 1) at_next_step_();
    };
    auto model = std::make_unique<HistoryModel>(model_options);
    engine_ = std::make_unique<Engine>(std::move(model), options);
  }

  Engine* operator->() const { return engine_.get(); }
  Engine& operator*() const { return *engine_; }

  // `at_next_step` is called in the step after that.
  void release(const std::function<void()>& at_next_step = [] {}) {
    at_next_step_ = at_next_step;
    released_.count_down();
  }

 private:
  std::latch released_{1};
  std::function<void()> at_next_step_ = [] {};
  std::unique_ptr<Engine> engine_;
};

int64_t resident_bytes() {
#ifdef __linux__
  int64_t num_all = 0, num_resident = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  REQUIRE(file != nullptr && std::fscanf(file, "%ld %ld", &num_all, &num_resident) == 2);
  std::fclose(file);
  return num_resident * sysconf(_SC_PAGESIZE);
#else
  return 0;
#endif
}

void test_crowd() {
  std::mt19937 rng(1);
  const auto requests = random_requests(400, HistoryModel::kVocabSize, rng);
  const EngineOptions alone = history_options(1, 5);
  const auto wanted = outcomes_alone(
      std::make_unique<HistoryModel>(HistoryModel::Options{.num_pages = 5}), alone, requests);

  const HistoryEngine tiny(history_options(8, 6));
  Crowd crowd(*tiny, requests, wanted);
  crowd.run(kNumRequests * 3 / 10, true, 1);
  const int64_t bytes = resident_bytes();
  crowd.run(kNumRequests * 7 / 10, true, 2);
  if (!kIsSanitized) REQUIRE(resident_bytes() - bytes < 2'000'000);
  const Statistics now = tiny->statistics();
  REQUIRE(crowd.num_cancelled() > 0 && now.num_preempted > 0 && now.num_cached > 0);
  REQUIRE(now.num_accepted > 0 && now.num_accepted < now.num_drafted);

  std::vector<EngineOptions> others(8, history_options(8, 12));
  others[0].num_slots = 1;
  others[1].num_slots = 33;
  others[2].max_chunk = 7;
  others[2].max_chunk_beside = 3;
  others[3].max_chunk = others[3].max_chunk_beside = 1;
  others[4].shares_prefixes = false;
  others[4].num_pages = 5;
  others[5].max_drafts = 0;
  others[5].num_pages = 64;
  others[6].max_burst = 8;
  others[7].max_burst = 70;
  others[7].max_drafts = 0;
  others[7].num_pages = 5;
  for (size_t i = 0; i < others.size(); ++i) {
    const HistoryEngine engine(others[i]);
    Crowd(*engine, requests, wanted).run(kNumRequests / 20, i % 2 == 0, static_cast<unsigned>(i));
    REQUIRE(others[i].shares_prefixes == (engine->statistics().num_cached > 0));
    REQUIRE((others[i].max_drafts > 0) == (engine->statistics().num_drafted > 0));
  }
}

void test_crowd_on_the_processor() {
  std::mt19937 rng(2);
  const ModelConfig config = tiny_modern();
  const RandomCheckpoint checkpoint(config, 1);
  const auto requests = random_requests(40, config.vocab_size, rng);
  EngineOptions options{.vocab_size = config.vocab_size,
                        .context = config.seq_len,
                        .softcap = config.softcap,
                        .num_pages = 6};
  const auto model = [&](int num_threads) {
    return std::make_unique<CpuModel>(
        config, checkpoint.tensors(),
        CpuOptions{.num_threads = num_threads, .num_pages = options.num_pages});
  };
  const auto wanted = outcomes_alone(model(1), options, requests);
  options.max_chunk = 100;
  options.max_burst = 3;
  Engine engine(model(2), options);
  Crowd(engine, requests, wanted).run(kNumRequests / 50, true, 3);
}

// All events until the engine has ended, by request.
std::map<int64_t, Outcome> outcomes_at_the_end(Engine& engine) {
  std::map<int64_t, Outcome> outcomes;
  for (;;) {
    const std::vector<Event> events = engine.wait(kForever);
    if (events.empty()) return outcomes;
    for (const Event& event : events) note(event, outcomes[event.id]);
  }
}

// Events of so many requests, until all of them ended.
std::map<int64_t, Outcome> outcomes_of(Engine& engine, size_t num_requests) {
  std::map<int64_t, Outcome> outcomes;
  for (size_t num_ended = 0; num_ended < num_requests;) {
    const std::vector<Event> events = engine.wait(kForever);
    REQUIRE(!events.empty());
    for (const Event& event : events) {
      note(event, outcomes[event.id]);
      num_ended += event.finish == Finish::kNone ? 0 : 1;
    }
  }
  return outcomes;
}

Tokens count_to(int n) {
  Tokens tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(i * i % HistoryModel::kVocabSize);
  return tokens;
}

Tokens all_tokens() {
  Tokens tokens;
  for (int32_t i = 0; i < HistoryModel::kVocabSize; ++i) tokens.push_back(i);
  return tokens;
}

Request request_of(Tokens prompt, int max_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

// Pauses at its first token.
Request pausing(int prompt_size) {
  Request request = request_of(count_to(prompt_size), kContext);
  request.pause_ids = all_tokens();
  return request;
}

// Runs, pauses and queues requests, and returns how many.
int64_t occupy(HistoryEngine& engine) {
  engine->submit(pausing(100));
  REQUIRE(engine->wait(kForever).at(0).is_paused);
  int64_t last = 0;
  for (int i = 0; i < 5; ++i) last = engine->submit(request_of({i}, kContext));
  engine.release();
  return last + 1;
}

template <typename Error, typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void test_close_ends_all() {
  HistoryEngine engine(history_options(2, 5), {}, 1);
  const int64_t num_requests = occupy(engine);
  std::vector<std::jthread> others;
  for (int i = 0; i < 2; ++i) others.emplace_back([&] { engine->close(); });
  engine->close();
  const auto outcomes = outcomes_at_the_end(*engine);
  REQUIRE(std::ssize(outcomes) == num_requests);
  int num_cancelled = 0;
  for (const auto& [id, outcome] : outcomes) {
    num_cancelled += outcome.finish == Finish::kCancelled ? 1 : 0;
    REQUIRE(outcome.finish == Finish::kCancelled || outcome.finish == Finish::kLength);
  }
  REQUIRE(num_cancelled > 0 && outcomes.at(0).finish == Finish::kCancelled);
  REQUIRE(engine->failure().empty() && engine->wait(0).empty());
  const auto submit = [&] { engine->submit(request_of({1}, 1)); };
  REQUIRE(message_of<std::runtime_error>(submit) == "engine: closed");
  engine->close();
}

void test_destruction_needs_no_close() {
  {
    const HistoryEngine idle(history_options(2, 5));
  }
  HistoryEngine busy(history_options(2, 5), {}, 1);
  occupy(busy);
}

void test_failure_ends_all() {
  HistoryEngine engine(history_options(2, 5), {.fails_at = 20}, 1);
  const int64_t num_requests = occupy(engine);
  const auto outcomes = outcomes_at_the_end(*engine);
  REQUIRE(std::ssize(outcomes) == num_requests);
  for (const auto& [id, outcome] : outcomes) REQUIRE(outcome.finish == Finish::kFailed);
  REQUIRE(engine->failure().find("NaN") != std::string::npos);
  const auto submit = [&] { engine->submit(request_of({1}, 1)); };
  REQUIRE(message_of<std::runtime_error>(submit).find(engine->failure()) != std::string::npos);
}

// What ends in the step that fails ends as what it is.
void test_nothing_is_lost_in_the_step_that_fails() {
  HistoryEngine engine(history_options(2, 5), {.fails_at = 2}, 0);
  for (int i = 0; i < 3; ++i) engine->submit(request_of({i}, 100));
  engine.release([&] { engine->cancel(1); });
  const auto outcomes = outcomes_at_the_end(*engine);
  REQUIRE(outcomes.size() == 3 && outcomes.at(1).finish == Finish::kCancelled);
  REQUIRE(outcomes.at(0).finish == Finish::kFailed && outcomes.at(2).finish == Finish::kFailed);
}

void test_unknown_and_ended_ids_are_ignored() {
  const HistoryEngine engine(history_options(2, 5));
  for (const int64_t id : {-1, 1000}) {
    engine->cancel(id);
    engine->resume(id, {1, 2});
  }
  const int64_t id = engine->submit(request_of({1}, 5));
  REQUIRE(outcomes_of(*engine, 1).at(id).finish == Finish::kLength);
  engine->cancel(id);
  engine->resume(id, {1, 2});
  const int64_t next = engine->submit(request_of({1}, 5));
  const auto outcomes = outcomes_of(*engine, 1);
  REQUIRE(outcomes.size() == 1 && outcomes.at(next).drawn.size() == 5);
  REQUIRE(engine->wait(0.01).empty());
}

void test_resume_of_what_is_not_paused_changes_nothing() {
  const Request request = request_of({1}, 150);
  const HistoryEngine alone(history_options(1, 5)), engine(history_options(1, 5));
  const Outcome want = outcome_alone(*alone, request);
  const int64_t id = engine->submit(request);
  for (int i = 0; i < 20; ++i) engine->resume(id, {3});
  REQUIRE(is_same(outcomes_of(*engine, 1).at(id), want));
}

void test_lengths() {
  const HistoryEngine engine(history_options(2, 5));
  const int64_t longest = engine->submit(request_of(count_to(kContext - 1), kContext));
  const int64_t shortest = engine->submit(request_of({1}, kContext));
  const auto outcomes = outcomes_of(*engine, 2);
  REQUIRE(outcomes.at(longest).drawn.size() == 1);
  REQUIRE(outcomes.at(shortest).drawn.size() == kContext - 1);
  for (const auto& [id, outcome] : outcomes) REQUIRE(outcome.finish == Finish::kLength);
  require_at_rest(*engine);

  const auto refused = [&](const Request& request) {
    return !message_of<std::invalid_argument>([&] { engine->submit(request); }).empty();
  };
  REQUIRE(refused(request_of({}, 1)));
  REQUIRE(refused(request_of(count_to(kContext), 1)));
  REQUIRE(refused(request_of({0, HistoryModel::kVocabSize}, 1)) && refused(request_of({0, -1}, 1)));
  REQUIRE(refused(request_of({1}, 0)));
  const auto resume = [&] { engine->resume(longest, {HistoryModel::kVocabSize}); };
  REQUIRE(!message_of<std::invalid_argument>(resume).empty());
}

void test_unfit_options_are_refused() {
  const auto refused = [](const EngineOptions& options) {
    return !message_of<std::invalid_argument>([&] { HistoryEngine{options}; }).empty();
  };
  REQUIRE(refused(history_options(0, 5)) && refused(history_options(1, 4)));
  for (int EngineOptions::* const option :
       {&EngineOptions::max_chunk, &EngineOptions::max_chunk_beside, &EngineOptions::max_drafts,
        &EngineOptions::max_burst}) {
    EngineOptions options = history_options(1, 5);
    options.*option = -1;
    REQUIRE(refused(options));
  }
}

// A prompt of 56 steps beside a sequence that decodes: that misses none of them.
void test_long_prompt_stops_nobody() {
  EngineOptions options = history_options(3, 40);
  options.context = 1000;
  options.max_chunk = options.max_chunk_beside = 16;
  options.max_drafts = 0;
  HistoryEngine engine(options, {}, 0);
  const int64_t decoding = engine->submit(request_of({1}, 300));
  const int64_t prompt = engine->submit(request_of(count_to(900), 1));
  engine.release();
  std::vector<int64_t> ended;
  while (ended.size() < 2) {
    for (const Event& event : engine->wait(kForever)) {
      if (event.id == decoding) REQUIRE(event.drawn.size() == 1);
      if (event.finish != Finish::kNone) ended.push_back(event.id);
    }
  }
  REQUIRE((ended == std::vector<int64_t>{prompt, decoding}));
  REQUIRE(engine->statistics().num_steps == 300);
}

// Bursts come where all decode, and are as long as somebody still wants tokens.
void test_bursts() {
  EngineOptions options = history_options(2, 10);
  options.max_drafts = 0;
  options.max_burst = 8;
  const auto sizes_of = [&](const std::vector<Request>& requests) {
    HistoryEngine engine(options, {}, 0);
    const int64_t before = engine->submit(request_of({30, 31}, 2));  // ends in the second step,
    engine.release([&] {                                             // when all others come at once
      for (const Request& request : requests) engine->submit(request);
    });
    std::vector<std::vector<size_t>> sizes(requests.size());
    for (size_t num_ended = 0; num_ended < requests.size();) {
      for (const Event& event : engine->wait(kForever)) {
        if (event.id == before) continue;
        sizes[static_cast<size_t>(event.id - before - 1)].push_back(event.drawn.size());
        num_ended += event.finish == Finish::kNone ? 0 : 1;
      }
    }
    return sizes;
  };
  using Sizes = std::vector<std::vector<size_t>>;
  REQUIRE((sizes_of({request_of({1, 2}, 20)}) == Sizes{{1, 8, 8, 3}}));
  REQUIRE((sizes_of({request_of({1}, 4), request_of({2, 3}, 20)}) == Sizes{{1, 3}, {1, 8, 8, 3}}));
  // To the end of the first context, not beyond.
  REQUIRE((sizes_of({request_of(count_to(kContext - 3), 9), request_of({1, 2}, 20)}) ==
           Sizes{{1, 2}, {1, 3, 8, 8}}));
  Request penalized = request_of({1, 2}, 3);
  penalized.sampling.repetition_penalty = 1.1;
  REQUIRE((sizes_of({penalized}) == Sizes{{1, 1, 1}}));
}

void test_slots_are_given_in_order() {
  const HistoryEngine engine(history_options(1, 5));
  for (int i = 0; i < 10; ++i) engine->submit(request_of(count_to(19 * (10 - i)), 2));
  std::vector<int64_t> ended;
  while (ended.size() < 10) {
    for (const Event& event : engine->wait(kForever)) {
      if (event.finish != Finish::kNone) ended.push_back(event.id);
    }
  }
  REQUIRE(std::ranges::is_sorted(ended));
}

// The second comes when the first has begun with the same prompt, which is then computed once.
void test_newcomer_waits_for_its_prefix() {
  const Request request = request_of(count_to(150), 1);
  EngineOptions options = history_options(2, 10);
  options.max_chunk = 16;
  HistoryEngine engine(options, {}, 0);
  engine->submit(request);
  engine.release([&] { engine->submit(request); });
  REQUIRE(outcomes_of(*engine, 2).size() == 2);
  const Statistics now = engine->statistics();
  REQUIRE(now.num_computed == 150 + 1 && now.num_cached == 149);
}

// A paused sequence that gave its pages up computes nothing, so nobody waits for it.
void test_nobody_waits_for_the_paused() {
  HistoryEngine engine(history_options(3, 5), {}, 0);
  const int64_t greedy = engine->submit(request_of({1}, kContext));
  const int64_t paused = engine->submit(pausing(130));
  engine.release();
  REQUIRE(outcomes_of(*engine, 1).at(greedy).drawn.size() == kContext - 1);
  REQUIRE(engine->statistics().num_preempted > 0);
  const int64_t third = engine->submit(request_of(count_to(130), 1));
  const std::vector<Event> events = engine->wait(kForever);
  REQUIRE(events.size() == 1 && events[0].id == third && events[0].finish == Finish::kLength);
  engine->resume(paused, Tokens(kContext, 1));
  REQUIRE(outcomes_of(*engine, 1).at(paused).finish == Finish::kLength);
  require_at_rest(*engine);
}

double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

// Its pages go to who needs them, and while nothing else is to be done no time is spent.
void test_paused_takes_no_pages_and_no_time() {
  const HistoryEngine engine(history_options(2, 5));
  const int64_t paused = engine->submit(pausing(130));
  REQUIRE(engine->wait(kForever).at(0).is_paused);
  const int64_t second = engine->submit(request_of(Tokens(190, 3), 1));
  REQUIRE(outcomes_of(*engine, 1).at(second).finish == Finish::kLength);
  const double before = cpu_seconds();
  REQUIRE(engine->wait(0.3).empty() && cpu_seconds() - before < 0.1);
  engine->resume(paused, Tokens(kContext, 1));
  REQUIRE(outcomes_of(*engine, 1).at(paused).finish == Finish::kLength);
}

void test_one_bad_request_harms_no_other() {
  const HistoryEngine engine(history_options(2, 5));
  const int64_t good = engine->submit(request_of({1}, 100));
  const auto refused = [&](const SamplingParams& params) {
    Request request = request_of({1}, 1);
    request.sampling = params;
    const auto submit = [&] { engine->submit(request); };
    return !message_of<std::invalid_argument>(submit).empty();
  };
  REQUIRE(refused({.temperature = -1}) && refused({.top_p = 0}) && refused({.min_p = 2}));
  REQUIRE(refused({.repetition_penalty = 0}));
  REQUIRE(outcomes_of(*engine, 1).at(good).finish == Finish::kLength);
}

// Between two steps, however much there is to do.
void test_logits_beside_work() {
  const Tokens tokens = count_to(kContext);
  const size_t size = tokens.size() * HistoryModel::kVocabSize;
  std::vector<float> want(size), got(size);
  const HistoryEngine idle(history_options(1, 5));
  idle->logits(tokens, want.data());

  HistoryModel::Options options{.num_pages = 20};
  options.before_forward = [](int) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  auto owned = std::make_unique<HistoryModel>(options);
  const HistoryModel& model = *owned;
  Engine busy(std::move(owned), history_options(4, 20));
  for (int i = 0; i < 8; ++i) busy.submit(request_of({i}, kContext));
  static_cast<void>(busy.wait(kForever));
  const int before = model.num_forwards();
  busy.logits(tokens, got.data());  // two chunks
  REQUIRE(got == want && model.num_forwards() - before <= 2 + 3);
  const auto none = [&] { busy.logits({}, got.data()); };
  REQUIRE(!message_of<std::invalid_argument>(none).empty());
}

void test_statistics_of_an_idle_engine() {
  const HistoryEngine engine(history_options(1, 5));
  require_at_rest(*engine);
}

}  // namespace

int main() {
  test_lengths();
  test_unfit_options_are_refused();
  test_statistics_of_an_idle_engine();
  test_one_bad_request_harms_no_other();
  test_unknown_and_ended_ids_are_ignored();
  test_resume_of_what_is_not_paused_changes_nothing();
  test_slots_are_given_in_order();
  test_long_prompt_stops_nobody();
  test_bursts();
  test_newcomer_waits_for_its_prefix();
  test_nobody_waits_for_the_paused();
  test_paused_takes_no_pages_and_no_time();
  test_logits_beside_work();
  test_close_ends_all();
  test_destruction_needs_no_close();
  test_failure_ends_all();
  test_nothing_is_lost_in_the_step_that_fails();
  test_crowd();
  test_crowd_on_the_processor();
}
