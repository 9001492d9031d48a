#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "common/check.h"

namespace nanochat::engine {
namespace {

constexpr int kWorthWaitingFor = 16;  // tokens in common with a prompt that is being computed
constexpr int kMaxLogitRows = 128;    // at once, when the logits of all tokens are asked for

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<int>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(n), b.begin()).first - a.begin());
}

bool contains(std::span<const int32_t> ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Engine::Engine(std::unique_ptr<Model> model, const EngineOptions& options)
    : model_(std::move(model)), options_(options), cache_(options.num_pages, kPageTokens) {
  check(options.num_slots >= 1, "engine: slots must be at least 1, got ", options.num_slots);
  check(options.max_chunk >= 1 && options.max_chunk_beside >= 1,
        "engine: chunks must have at least 1 token, got ", options.max_chunk, " and ",
        options.max_chunk_beside);
  check(options.max_drafts >= 0, "engine: drafts must not be negative, got ", options.max_drafts);
  check(options.max_burst >= 1, "engine: a burst must have at least 1 token, got ",
        options.max_burst);
  const int needed = (options.context + kPageTokens - 1) / kPageTokens + 1;
  check(options.num_pages >= needed, "engine: a context of ", options.context, " tokens takes ",
        needed, " pages of ", kPageTokens, ", got ", options.num_pages);
  statistics_.num_pages = statistics_.num_free_pages = options.num_pages;
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  close();
}

int64_t Engine::submit(Request request) {
  const auto n = static_cast<int>(request.prompt.size());
  check(n > 0, "engine: the prompt must have at least one token, got none");
  check(n < options_.context, "engine: the prompt must be shorter than the context of ",
        options_.context, " tokens, got ", n);
  for (const int32_t token : request.prompt) {
    check(token >= 0 && token < options_.vocab_size, "engine: token ids must be 0 to ",
          options_.vocab_size - 1, ", got ", token);
  }
  check(request.max_tokens >= 1, "engine: max_tokens must be at least 1, got ", request.max_tokens);
  check_params(request.sampling);
  auto sequence = std::make_unique<Sequence>();
  request.max_tokens = std::min(request.max_tokens, options_.context - n);
  sequence->tokens = request.prompt;
  sequence->request = std::move(request);
  const std::scoped_lock lock(mutex_);
  if (!failure_.empty())
    throw std::runtime_error("engine: stopped by an earlier error: " + failure_);
  if (is_closed_) throw std::runtime_error("engine: closed");
  sequence->id = next_id_++;
  submitted_.push_back(std::move(sequence));
  ++statistics_.num_queued;
  work_.notify_one();
  return next_id_ - 1;
}

void Engine::cancel(int64_t id) {
  const std::scoped_lock lock(mutex_);
  cancelled_.push_back(id);
  work_.notify_one();
}

void Engine::resume(int64_t id, std::vector<int32_t> tokens) {
  for (const int32_t token : tokens) {
    check(token >= 0 && token < options_.vocab_size, "engine: token ids must be 0 to ",
          options_.vocab_size - 1, ", got ", token);
  }
  const std::scoped_lock lock(mutex_);
  resumed_.emplace_back(id, std::move(tokens));
  work_.notify_one();
}

std::vector<Event> Engine::wait(double seconds) {
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, std::chrono::duration<double>(seconds),
                 [this] { return !published_.empty() || has_ended_; });
  return std::exchange(published_, {});
}

Statistics Engine::statistics() {
  const std::scoped_lock lock(mutex_);
  return statistics_;
}

std::string Engine::failure() {
  const std::scoped_lock lock(mutex_);
  return failure_;
}

void Engine::close() {
  {
    const std::scoped_lock lock(mutex_);
    is_closed_ = true;
    work_.notify_one();
  }
  std::call_once(joined_, [this] { thread_.join(); });
}

Engine::Guest::Guest(Engine& host) : host_(host) {
  const std::scoped_lock lock(host_.mutex_);
  ++host_.num_guests_;
}

Engine::Guest::~Guest() {
  const std::scoped_lock lock(host_.mutex_);
  --host_.num_guests_;
  host_.work_.notify_one();
}

void Engine::load_weights(const Tensors& tensors) {
  const Guest guest(*this);
  const std::scoped_lock lock(step_mutex_);
  events_.clear();
  take_commands();  // a request that was cancelled ends here
  const size_t num_requests = running_.size() + waiting_.size();
  if (num_requests == 0) cache_.clear();
  publish();
  if (num_requests > 0) {
    throw std::runtime_error(concat("engine: weights can be replaced when nothing runs, got ",
                                    num_requests, " requests; wait for them or cancel them"));
  }
  model_->load(tensors);
}

void Engine::logits(std::span<const int32_t> tokens, float* out) {
  check(!tokens.empty() && static_cast<int>(tokens.size()) <= options_.context,
        "engine: logits take 1 to ", options_.context, " tokens, got ", tokens.size());
  const Guest guest(*this);
  const std::scoped_lock lock(step_mutex_);
  // Opened with its first token alone, it finds nothing in the cache: every position is computed.
  const KvCache::Sequence sequence = cache_.open(tokens.first(1)).sequence;
  const auto give_up = [&] { cache_.close(sequence); };
  try {
    if (!cache_.reserve(sequence, static_cast<int>(tokens.size()))) {
      throw std::runtime_error("engine: no pages are free for logits; try again later");
    }
    const auto V = static_cast<size_t>(options_.vocab_size);
    for (size_t i = 0; i < tokens.size();) {
      const size_t n = std::min(tokens.size() - i,
                                static_cast<size_t>(std::min(options_.max_chunk, kMaxLogitRows)));
      const Chunk chunk{.tokens = tokens.subspan(i, n),
                        .position = static_cast<int32_t>(i),
                        .previous = i == 0 ? -1 : tokens[i - 1],
                        .pages = cache_.pages(sequence),
                        .num_logits = static_cast<int32_t>(n)};
      model_->forward({&chunk, 1});
      cache_.commit(sequence, chunk.tokens);
      for (size_t row = 0; row < n; ++row, ++i) {
        const std::span<const float> logits = model_->logits(static_cast<int>(row));
        for (size_t v = 0; v < V; ++v) {
          const float softcap = options_.softcap;
          out[i * V + v] = softcap > 0 ? softcap * std::tanh(logits[v] / softcap) : logits[v];
        }
      }
    }
  } catch (...) {
    give_up();
    throw;
  }
  give_up();
}

std::vector<std::vector<RowScore>> Engine::scores(std::span<const ScoredGroup> groups) {
  const Guest guest(*this);
  const std::scoped_lock lock(step_mutex_);
  Scorer scorer(*model_, cache_,
                {.vocab_size = options_.vocab_size,
                 .context = options_.context,
                 .softcap = options_.softcap,
                 .max_chunk = options_.max_chunk});
  return scorer.score(groups);
}

// What follows runs on the engine's thread.

void Engine::run() noexcept {
  try {
    while (wait_for_work()) {
      const std::scoped_lock lock(step_mutex_);
      step();
    }
  } catch (const std::exception& error) {
    fail(error.what());
  }
  const std::scoped_lock lock(mutex_);
  const Finish finish = failure_.empty() ? Finish::kCancelled : Finish::kFailed;
  for (auto& sequence : submitted_) waiting_.push_back(std::move(sequence));
  submitted_.clear();
  // What ended in a step that failed has ended.
  std::move(events_.begin(), events_.end(), std::back_inserter(published_));
  for (Sequences* sequences : {&running_, &waiting_}) {
    for (const auto& sequence : *sequences) {
      published_.push_back({.id = sequence->id, .drawn = {}, .finish = finish});
    }
    sequences->clear();
  }
  statistics_.num_queued = statistics_.num_running = 0;
  has_ended_ = true;
  news_.notify_all();
}

void Engine::fail(const std::string& reason) {
  const std::scoped_lock lock(mutex_);
  failure_ = reason.empty() ? "unknown" : reason;
}

bool Engine::somebody_runs() const {
  return std::any_of(running_.begin(), running_.end(), [](const auto& s) { return !s->is_paused; });
}

bool Engine::wait_for_work() {
  const bool can_run = somebody_runs();
  const bool can_admit =
      running_.size() < static_cast<size_t>(options_.num_slots) &&
      std::any_of(waiting_.begin(), waiting_.end(), [](const auto& s) { return !s->is_paused; });
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] {
    return num_guests_ == 0 && (is_closed_ || can_run || can_admit || !submitted_.empty() ||
                                !cancelled_.empty() || !resumed_.empty());
  });
  return !is_closed_;
}

void Engine::step() {
  const double started = seconds_now();
  events_.clear();
  take_commands();
  admit();
  plan();
  int64_t num_computed = 0, num_bytes = 0;
  const int burst = choose_burst();
  if (!plan_.empty()) {
    std::vector<Chunk> chunks;
    for (const Planned& planned : plan_) {
      const Sequence& sequence = *planned.sequence;
      const auto first = static_cast<size_t>(sequence.num_computed);
      chunks.push_back({.tokens = planned.tokens,
                        .position = sequence.num_computed,
                        .previous = first == 0 ? -1 : sequence.tokens[first - 1],
                        .pages = cache_.pages(*sequence.cached),
                        .num_logits = planned.num_logits});
      const auto num_tokens = static_cast<int64_t>(planned.tokens.size());
      for (int k = 0; k < burst; ++k) {
        num_computed += num_tokens;
        num_bytes += (sequence.num_computed + num_tokens + k) * options_.token_bytes;
      }
    }
    num_bytes += options_.weight_bytes * burst;
    draw(chunks, burst);
  }
  {
    const std::scoped_lock lock(mutex_);
    statistics_.num_computed += num_computed;
    statistics_.num_bytes += num_bytes;
    if (num_computed > 0) {
      statistics_.num_steps += burst;
      statistics_.step_seconds += seconds_now() - started;
    }
  }
  publish();
}

// Counts what there is, and passes the events of the step on.
void Engine::publish() {
  const std::scoped_lock lock(mutex_);
  statistics_.num_queued = static_cast<int64_t>(waiting_.size() + submitted_.size());
  statistics_.num_running = static_cast<int64_t>(running_.size());
  statistics_.num_pages = cache_.num_pages();
  statistics_.num_free_pages = cache_.num_free();
  statistics_.num_idle_pages = cache_.num_idle();
  if (events_.empty()) return;
  std::move(events_.begin(), events_.end(), std::back_inserter(published_));
  events_.clear();
  news_.notify_all();
}

void Engine::take_commands() {
  std::vector<int64_t> cancelled;
  std::vector<std::pair<int64_t, std::vector<int32_t>>> resumed;
  {
    const std::scoped_lock lock(mutex_);
    for (auto& sequence : submitted_) waiting_.push_back(std::move(sequence));
    submitted_.clear();
    cancelled.swap(cancelled_);
    resumed.swap(resumed_);
  }
  const auto find = [&](int64_t id) -> Sequence* {
    for (const Sequences* sequences : {&running_, &waiting_}) {
      for (const auto& sequence : *sequences) {
        if (sequence->id == id) return sequence.get();
      }
    }
    return nullptr;
  };
  for (auto& [id, tokens] : resumed) {
    Sequence* const sequence = find(id);
    if (sequence == nullptr || !sequence->is_paused) continue;
    sequence->is_paused = false;
    sequence->num_generated += static_cast<int>(tokens.size());
    sequence->tokens.insert(sequence->tokens.end(), tokens.begin(), tokens.end());
    if (sequence->num_generated >= sequence->request.max_tokens) {
      end(*sequence, Finish::kLength, {.id = id});
    }
  }
  for (const int64_t id : cancelled) {
    if (Sequence* const sequence = find(id); sequence != nullptr) {
      end(*sequence, Finish::kCancelled, {.id = id});
    }
  }
}

// Sequences get slots in the order in which they came, but for those that wait for a prefix.
void Engine::admit() {
  for (size_t i = 0;
       i < waiting_.size() && running_.size() < static_cast<size_t>(options_.num_slots);) {
    Sequence& sequence = *waiting_[i];
    if (sequence.is_paused || (options_.shares_prefixes && should_wait(sequence))) {
      ++i;
      continue;
    }
    const std::span<const int32_t> known(sequence.tokens);
    const int num_pages = (static_cast<int>(known.size()) + kPageTokens) / kPageTokens;
    if (somebody_runs() && cache_.num_free() + cache_.num_idle() < num_pages) break;
    const KvCache::Opened opened = cache_.open(options_.shares_prefixes ? known : known.first(1));
    if (opened.copy_to >= 0) model_->copy_page(opened.copy_from, opened.copy_to);
    sequence.cached = opened.sequence;
    sequence.num_computed = opened.num_cached;
    if (sequence.num_generated == 0) sequence.num_cached = opened.num_cached;
    {
      const std::scoped_lock lock(mutex_);
      statistics_.num_cached += opened.num_cached;
    }
    running_.push_back(std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
  }
}

// Whether a running sequence is computing tokens with which this one begins too.
bool Engine::should_wait(Sequence& sequence) {
  const auto running = [&](int64_t id) -> const Sequence* {
    for (const auto& other : running_) {
      if (other->id == id) return other.get();
    }
    return nullptr;
  };
  if (sequence.waits_for >= 0) {
    const Sequence* const other = running(sequence.waits_for);
    if (other != nullptr && !other->is_paused && other->num_computed < sequence.waits_until) {
      return true;
    }
    sequence.waits_for = -1;
  }
  for (const auto& other : running_) {
    if (other->is_paused || other->num_pending() <= 1) continue;
    const int common = std::min({common_prefix(other->tokens, sequence.tokens),
                                 static_cast<int>(sequence.tokens.size()) - 1,
                                 static_cast<int>(other->tokens.size()) - 1});
    if (common - other->num_computed < kWorthWaitingFor) continue;
    sequence.waits_for = other->id;
    sequence.waits_until = common;
    return true;
  }
  return false;
}

// Chooses the tokens of the step, those that decode first.
void Engine::plan() {
  plan_.clear();
  int num_decoding = 0, num_filling = 0;
  for (const auto& sequence : running_) {
    if (sequence->is_paused) continue;
    const int pending = sequence->num_pending();
    (pending == 1 ? num_decoding : num_filling) += pending;
  }
  int left = num_decoding > 0 ? options_.max_chunk_beside : options_.max_chunk;
  const int num_rows = num_decoding + std::min(num_filling, left);
  // By index, and over a copy: making room may take slots away.
  std::vector<Sequence*> sequences;
  for (const auto& sequence : running_) sequences.push_back(sequence.get());
  for (const bool decodes : {true, false}) {
    for (Sequence* const sequence : sequences) {
      if (!sequence->cached || sequence->is_paused || (sequence->num_pending() == 1) != decodes) {
        continue;
      }
      const int pending = decodes ? 1 : std::min(sequence->num_pending(), left);
      if (pending == 0) break;
      const auto first = sequence->tokens.begin() + sequence->num_computed;
      Planned planned{.sequence = sequence,
                      .tokens = {first, first + pending},
                      .num_drafts = 0,
                      .num_logits = pending == sequence->num_pending() ? 1 : 0};
      if (decodes) {
        const int room = std::min(sequence->request.max_tokens - sequence->num_generated - 1,
                                  options_.max_drafts);
        const int num_drafts = sequence->gate.num_drafts(num_rows, std::max(room, 0));
        if (num_drafts > 0) {
          sequence->lookup.append(std::span(sequence->tokens).subspan(sequence->num_looked_up));
          sequence->num_looked_up = sequence->tokens.size();
          planned.tokens.resize(static_cast<size_t>(1 + num_drafts));
          planned.num_drafts = sequence->lookup.draft(std::span(planned.tokens).subspan(1));
          planned.tokens.resize(static_cast<size_t>(1 + planned.num_drafts));
          planned.num_logits += planned.num_drafts;
        }
      } else {
        left -= pending;
      }
      const int needed = sequence->num_computed + static_cast<int>(planned.tokens.size());
      if (!make_room(*sequence, needed)) continue;
      plan_.push_back(std::move(planned));
    }
  }
  std::erase_if(plan_, [](const Planned& planned) { return !planned.sequence->cached; });
}

// A burst ends for all at once. What a sequence draws beyond its end is dropped, like a draft that
// was refused; it is no longer than what somebody still wants, and takes no page from anybody.
int Engine::choose_burst() {
  int wanted = 1, room = options_.max_burst;
  for (const Planned& planned : plan_) {
    const Request& request = planned.sequence->request;
    if (planned.tokens.size() > 1 || planned.num_logits == 0 ||
        request.sampling.repetition_penalty != 1.0) {
      return 1;
    }
    wanted = std::max(wanted, request.max_tokens - planned.sequence->num_generated);
    room = std::min(room, options_.context - planned.sequence->num_computed);
  }
  const int burst = std::min(wanted, room);
  const bool has_pages = std::all_of(plan_.begin(), plan_.end(), [&](const Planned& planned) {
    const Sequence& sequence = *planned.sequence;
    return cache_.reserve(*sequence.cached, sequence.num_computed + burst);
  });
  return has_pages ? burst : 1;
}

// Pages for the first tokens of the sequence, at the cost of those that are paused, then of those
// that came after it.
bool Engine::make_room(Sequence& sequence, int num_tokens) {
  while (!cache_.reserve(*sequence.cached, num_tokens)) {
    const auto victim =
        std::max_element(running_.begin(), running_.end(), [](const auto& a, const auto& b) {
          return std::pair(a->is_paused, a->id) < std::pair(b->is_paused, b->id);
        });
    const bool is_itself = victim->get() == &sequence;
    preempt(**victim);
    if (is_itself) return false;
  }
  return true;
}

void Engine::preempt(Sequence& sequence) {
  leave_slot(sequence);
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& s) { return s.get() == &sequence; });
  waiting_.push_front(std::move(*at));
  running_.erase(at);
  const std::scoped_lock lock(mutex_);
  ++statistics_.num_preempted;
}

void Engine::leave_slot(Sequence& sequence) {
  if (!sequence.cached) return;
  cache_.close(*sequence.cached);
  if (!options_.shares_prefixes) cache_.clear();
  sequence.cached.reset();
  sequence.num_computed = 0;
}

// Computes the step and settles tokens. A draft holds as long as it is what is drawn.
void Engine::draw(std::span<const Chunk> chunks, int burst) {
  std::vector<Draw> draws;
  std::vector<std::vector<int32_t>> seen;  // tokens and drafts, for the penalty
  int row = 0;
  for (const Planned& planned : plan_) {
    const Sequence& sequence = *planned.sequence;
    if (planned.num_logits == 0) continue;
    std::span<const int32_t> before = sequence.tokens;
    if (planned.num_drafts > 0 && sequence.request.sampling.repetition_penalty != 1.0) {
      seen.push_back(sequence.tokens);
      seen.back().insert(seen.back().end(), planned.tokens.begin() + 1, planned.tokens.end());
      before = seen.back();
    }
    for (int i = 0; i < planned.num_logits; ++i, ++row) {
      const auto position = static_cast<int64_t>(sequence.tokens.size()) + i;
      draws.push_back(
          {.row = row,
           .params = &sequence.request.sampling,
           .seed = sequence.request.seed,
           .sample = sequence.request.sample,
           .position = position,
           .seen = before.first(std::min(before.size(), static_cast<size_t>(position)))});
    }
  }
  drawn_.resize(draws.size() * static_cast<size_t>(burst));
  if (burst > 1) {
    model_->decode(chunks, draws, burst, drawn_);
  } else {
    model_->forward(chunks);
    model_->sample(draws, drawn_);
  }

  int64_t num_drawn = 0, num_drafted = 0, num_accepted = 0;
  row = 0;
  for (const Planned& planned : plan_) {
    Sequence& sequence = *planned.sequence;
    const int num_pending = static_cast<int>(planned.tokens.size()) - planned.num_drafts;
    Event event{.id = sequence.id,
                .has_logprobs = sequence.request.sampling.num_logprobs >= 0,
                .num_cached = sequence.num_cached};
    const int num_settled = planned.num_logits * burst;
    int num_taken = 0;
    bool goes_on = true;
    while (goes_on && num_taken < num_settled) {
      const Drawn& drawn = drawn_[static_cast<size_t>(row + num_taken++)];
      goes_on = take(sequence, drawn, event) && num_taken < num_settled &&
                (burst > 1 ||
                 drawn.token == planned.tokens[static_cast<size_t>(num_pending + num_taken - 1)]);
    }
    row += num_settled;
    const int num_kept = num_pending + std::max(0, num_taken - 1);
    cache_.commit(*sequence.cached, std::span(sequence.tokens)
                                        .subspan(static_cast<size_t>(sequence.num_computed),
                                                 static_cast<size_t>(num_kept)));
    sequence.num_computed += num_kept;
    if (planned.num_drafts > 0) {
      sequence.gate.record(planned.num_drafts, std::max(0, num_taken - 1));
      num_drafted += planned.num_drafts;
      num_accepted += std::max(0, num_taken - 1);
    } else {
      for (int k = 0; k < num_taken; ++k) sequence.gate.record(0, 0);
    }
    num_drawn += num_taken;
    if (event.finish != Finish::kNone) {
      end(sequence, event.finish, std::move(event));
    } else if (num_taken > 0) {
      events_.push_back(std::move(event));
    }
  }
  const std::scoped_lock lock(mutex_);
  statistics_.num_drawn += num_drawn;
  statistics_.num_drafted += num_drafted;
  statistics_.num_accepted += num_accepted;
}

// Appends a token; false if the sequence ends or waits there.
bool Engine::take(Sequence& sequence, const Drawn& drawn, Event& event) {
  const Request& request = sequence.request;
  event.drawn.push_back(drawn);
  sequence.tokens.push_back(drawn.token);
  ++sequence.num_generated;
  if (contains(request.stop_ids, drawn.token)) {
    event.finish = Finish::kStop;
  } else if (sequence.num_generated >= request.max_tokens) {
    event.finish = Finish::kLength;
  } else if (contains(request.pause_ids, drawn.token)) {
    sequence.is_paused = event.is_paused = true;
  } else {
    return true;
  }
  return false;
}

void Engine::end(Sequence& sequence, Finish finish, Event event) {
  event.finish = finish;
  events_.push_back(std::move(event));
  leave_slot(sequence);
  for (Sequences* sequences : {&running_, &waiting_}) {
    std::erase_if(*sequences, [&](const auto& s) { return s.get() == &sequence; });
  }
}

}  // namespace nanochat::engine
