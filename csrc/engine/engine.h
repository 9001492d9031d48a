// Continuous batching: one thread owns model, cache and sequences, and repeats a step.
//
//   submit --> queue --> a free slot: open in the cache, what is not there is computed in chunks
//                             |
//   step: every sequence that has one token to compute gets it, and drafts if they pay; the rest of
//         the step goes to those with more (prompts, tool results), first come, first served. Where
//         all decode, a step may be a burst of several tokens of each
//                             |
//   wait <-- events <-- drawn tokens; a sequence ends at a stop token or its length, or pauses at a
//                       token for which the caller has an answer (resume)
//
// Out of pages, the sequence that came last gives its own up and starts again later: its tokens are
// the same then, since nothing but they decides what is computed. A newcomer whose prompt begins
// like one that is being computed waits for that and shares it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/prompt_lookup.h"
#include "engine/sampler.h"
#include "engine/scorer.h"

namespace nanochat::engine {

struct Request {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  uint64_t seed = 0, sample = 0;
  int max_tokens = 1;              // to generate, those of resume() included
  std::vector<int32_t> stop_ids;   // end the sequence; they are reported
  std::vector<int32_t> pause_ids;  // make it wait for resume()
};

enum class Finish : int { kNone = 0, kStop, kLength, kCancelled, kFailed };

// What happened to a request in a step.
struct Event {
  int64_t id = 0;
  std::vector<Drawn> drawn = {};
  bool has_logprobs = false;
  bool is_paused = false;  // at the last token drawn
  Finish finish = Finish::kNone;
  int num_cached = 0;  // prompt tokens that were not computed, as far as is known
};

struct EngineOptions {
  int vocab_size = 0, context = 0;
  float softcap = 0;          // of logits()
  int num_slots = 8;          // sequences at the same time
  int num_pages = 0;          // at least what one sequence as long as the context takes, and one
  int max_chunk = 512;        // tokens of a step when no sequence decodes
  int max_chunk_beside = 64;  // beside those that do: what a prompt may delay them by
  bool shares_prefixes = true;
  int max_drafts = 8;  // of a sequence in a step; 0: no speculation
  int max_burst = 1;   // tokens that a sequence draws in a step in which all decode without drafts
  // Of the model, for the statistics: what a step reads whatever it computes, and the keys and
  // values of a token.
  int64_t weight_bytes = 0, token_bytes = 0;
};

struct Statistics {
  int64_t num_queued = 0, num_running = 0, num_pages = 0, num_free_pages = 0, num_idle_pages = 0;
  int64_t num_steps = 0, num_drawn = 0, num_computed = 0, num_cached = 0;  // tokens, but for steps
  int64_t num_drafted = 0, num_accepted = 0, num_preempted = 0;
  int64_t num_bytes = 0;    // that the steps had to read: weights, keys and values
  double step_seconds = 0;  // in steps, of all
};

class Engine {
 public:
  Engine(std::unique_ptr<Model> model, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // All may be called from any thread.

  // Throws std::invalid_argument for a prompt that is empty, too long or of unknown tokens, and
  // std::runtime_error after a failure or close().
  int64_t submit(Request request);
  // The request ends within one step, unless it has ended. Unknown ids are ignored.
  void cancel(int64_t id);
  // Lets a paused request go on, after tokens that it is given.
  void resume(int64_t id, std::vector<int32_t> tokens);
  // What has happened since the last call; waits for something to happen, at most so long. Nothing
  // comes any more once it is closed and this returned nothing.
  [[nodiscard]] std::vector<Event> wait(double seconds);
  [[nodiscard]] Statistics statistics();
  // Softcapped logits (tokens, vocab_size), computed between two steps.
  void logits(std::span<const int32_t> tokens, float* out);
  // How likely tokens are (scorer.h), computed between two steps.
  [[nodiscard]] std::vector<std::vector<RowScore>> scores(std::span<const ScoredGroup> groups);
  // Other weights in place of the model's; keys and values of those before are forgotten. What is
  // submitted meanwhile waits for the new ones. Throws std::runtime_error while there are requests,
  // and what Model::load throws.
  void load_weights(const Tensors& tensors);
  [[nodiscard]] int vocab_size() const { return options_.vocab_size; }
  // Ends all requests as cancelled, then the thread.
  void close();
  // Why all requests failed; empty if nothing did.
  [[nodiscard]] std::string failure();

 private:
  // Wants the model between two steps: the next one waits for it. A mutex alone would go to the
  // thread that had it.
  class Guest {
   public:
    explicit Guest(Engine& host);
    ~Guest();
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;

   private:
    Engine& host_;
  };
  struct Sequence {
    int64_t id = 0;
    Request request;
    std::vector<int32_t> tokens;  // prompt, drawn and given
    int num_computed = 0;         // of them, in the cache
    int num_generated = 0;
    int num_cached = 0;
    std::optional<KvCache::Sequence> cached;  // while it has a slot
    PromptLookup lookup;
    SpeculationGate gate;
    size_t num_looked_up = 0;  // of the tokens, known to the lookup
    bool is_paused = false, is_cancelled = false;
    int64_t waits_for = -1;  // the id of a running sequence with the same beginning,
    int waits_until = 0;     // until so much of it is computed

    [[nodiscard]] int num_pending() const { return static_cast<int>(tokens.size()) - num_computed; }
  };
  using Sequences = std::deque<std::unique_ptr<Sequence>>;

  struct Planned {
    Sequence* sequence;
    std::vector<int32_t> tokens;  // to compute
    int num_drafts;               // at their end
    int num_logits;
  };

  void run() noexcept;
  bool wait_for_work();
  [[nodiscard]] bool somebody_runs() const;
  void step();
  void take_commands();
  void admit();
  bool should_wait(Sequence& sequence);
  void plan();
  [[nodiscard]] int choose_burst();
  bool make_room(Sequence& sequence, int num_tokens);
  void preempt(Sequence& sequence);
  void draw(std::span<const Chunk> chunks, int burst);
  bool take(Sequence& sequence, const Drawn& drawn, Event& event);
  void end(Sequence& sequence, Finish finish, Event event);
  void publish();
  void fail(const std::string& reason);
  void leave_slot(Sequence& sequence);

  std::unique_ptr<Model> model_;
  const EngineOptions options_;

  // Of the thread, and of logits() between two steps.
  std::mutex step_mutex_;
  KvCache cache_;
  Sequences running_, waiting_;
  std::vector<Planned> plan_;
  std::vector<Drawn> drawn_;
  std::vector<Event> events_;  // of the step

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_, news_;
  std::vector<std::unique_ptr<Sequence>> submitted_;
  std::vector<int64_t> cancelled_;
  std::vector<std::pair<int64_t, std::vector<int32_t>>> resumed_;
  std::vector<Event> published_;
  Statistics statistics_;
  std::string failure_;
  int64_t next_id_ = 0;
  int num_guests_ = 0;  // that want the model between two steps
  bool is_closed_ = false, has_ended_ = false;

  std::thread thread_;
  std::once_flag joined_;  // by the first that closes
};

}  // namespace nanochat::engine
