#include "engine/cuda/cuda_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "common/cuda/device.h"
#include "engine/cuda/device_sampler.h"
#include "engine/cuda/handles.h"
#include "engine/cuda/kernels.h"
#include "engine/cuda/step_plan.h"
#include "engine/cuda/weights.h"

namespace nanochat::engine {
namespace cuda {
namespace {

// The constant in place of a running maximum must leave exp(-2 bound) far above zero in fp32.
constexpr double kMaxScoreBound = 40.0;
constexpr int kFirstMajor = 8;    // mma of bf16
constexpr int kOverlapMajor = 9;  // programmatic dependent launch
constexpr int kNumBuckets = 7;    // graphs for 1, 2, 4, .. 64 tokens
constexpr int kMaxSteps = 32;     // of one decode

void check_config(const ModelConfig& config, int num_pages, int max_tokens) {
  check(num_pages >= 1, "engine: num_pages must be at least 1, got ", num_pages);
  check(max_tokens >= 1, "engine: max_tokens must be at least 1, got ", max_tokens);
  check(config.n_layer >= 1 && config.windows.size() == static_cast<size_t>(config.n_layer) &&
            config.has_value_embedding.size() == config.windows.size(),
        "engine: windows and has_value_embedding must have an entry for each of ", config.n_layer,
        " layers");
  check(config.n_kv_head >= 1 && config.n_head % config.n_kv_head == 0,
        "engine: n_kv_head must divide n_head = ", config.n_head, ", got ", config.n_kv_head);
  check(config.backout_layer < config.n_layer,
        "engine: backout_layer must be below n_layer = ", config.n_layer, ", got ",
        config.backout_layer);
  const auto require = [](bool rule, const auto&... parts) {
    if (!rule) throw Unsupported(concat(parts...));
  };
  require(config.head_dim == 64 || config.head_dim == 128,
          "engine: head_dim must be 64 or 128 on CUDA, got ", config.head_dim);
  require(config.n_embd % kRowPadding == 0 && config.mlp_width % kRowPadding == 0,
          "engine: n_embd and mlp_width must be multiples of ", kRowPadding, " on CUDA, got ",
          config.n_embd, " and ", config.mlp_width);
  const double bound = double{config.qk_scale} * config.qk_scale * std::sqrt(config.head_dim);
  require(bound <= kMaxScoreBound, "engine: qk_scale^2 sqrt(head_dim) must be at most ",
          kMaxScoreBound, " on CUDA, got ", bound);
}

// Whether kernels may overlap on the device.
bool check_device(int device) {
  const int count = nanochat::cuda::device_count();
  check(device >= 0 && device < count, "engine: device must be below ", count, ", got ", device);
  const nanochat::cuda::Capability capability = nanochat::cuda::capability(device);
  if (capability.major < kFirstMajor) {
    throw Unsupported(concat("engine: the CUDA kernels need compute capability ", kFirstMajor,
                             ".0, got ", capability.major, ".", capability.minor));
  }
  return capability.major >= kOverlapMajor;
}

Weights first_weights(const ModelConfig& config, const Tensors& tensors) {
  Weights weights;
  load_weights(config, tensors, weights);
  return weights;
}

// What a step leaves between its kernels.
struct Activations {
  Activations(const ModelConfig& config, int capacity, int num_splits)
      : Activations(config, size_t(capacity), size_t(config.n_embd),
                    size_t(config.n_head) * config.head_dim, num_splits) {}

  DeviceArray<float> x, x0, mid, squares, final_squares;
  DeviceArray<BFloat16> multiplier, final_multiplier;
  DeviceArray<BFloat16> q, attended, hidden;
  DeviceArray<float> partial, partial_sum;
  DeviceArray<unsigned> tickets;

 private:
  Activations(const ModelConfig& config, size_t tokens, size_t channels, size_t width,
              int num_splits)
      : x(tokens * channels),
        x0(tokens * channels),
        mid(config.backout_layer >= 0 ? tokens * channels : 0),
        squares(tokens * channels / kMmaRows),
        final_squares(tokens * channels / kMmaRows),
        multiplier(tokens * channels),
        final_multiplier(tokens * channels),
        q(tokens * width),
        attended(tokens * width),
        hidden(tokens * config.mlp_width),
        partial(tokens * width * num_splits),
        partial_sum(tokens * config.n_head * num_splits),
        tickets(tokens * config.n_head) {}
};

class CudaModel final : public Model {
 public:
  CudaModel(const ModelConfig& config, const Tensors& tensors, int num_pages, int max_tokens,
            int device, bool overlap)
      : config_(config),
        device_(device),
        overlap_(overlap),
        layout_{.capacity = round_up(max_tokens, kTokenTile),
                .table_stride = (config.seq_len + kPageTokens - 1) / kPageTokens,
                .num_pages = num_pages,
                .vocab_size = config.vocab_size,
                .seq_len = config.seq_len,
                .max_tokens = max_tokens},
        kv_{config.n_layer, config.n_kv_head, config.head_dim},
        weights_(first_weights(config, tensors)),
        buffers_(config, layout_.capacity, max_splits(config.seq_len, -1)),
        pages_(static_cast<size_t>(num_pages * kv_.page_elements())),
        logits_(size_t(layout_.capacity) * weights_.head.rows),
        step_words_(static_cast<size_t>(layout_.num_words())),
        staging_(static_cast<size_t>(layout_.num_words())),
        host_logits_(
            std::make_unique_for_overwrite<float[]>(size_t(layout_.capacity) * config.vocab_size)),
        is_fetched_(layout_.capacity),
        stream_(make_stream()),
        staging_free_(make_event()),
        sampler_(layout_.capacity, std::max(layout_.capacity, kTokenTile * kMaxSteps),
                 config.vocab_size, weights_.head.rows, config.softcap, config.seq_len) {
    record_all();
  }

  ~CudaModel() override {
    cudaStreamSynchronize(stream_.get());  // before the memory goes
  }

  void forward(std::span<const Chunk> chunks) override;
  [[nodiscard]] std::span<const float> logits(int row) override;
  void sample(std::span<const Draw> draws, std::span<Drawn> drawn) override;
  void decode(std::span<const Chunk> chunks, std::span<const Draw> draws, int num_steps,
              std::span<Drawn> drawn) override;
  void copy_page(int32_t from, int32_t to) override;
  void load(const Tensors& tensors) override;

 private:
  void record_all();
  void begin_step(std::span<const Chunk> chunks, const StepPlan& plan);
  void launch_decode(int num_tokens) const;
  [[nodiscard]] GraphExec record(int num_tokens) const;
  void copy_step(int64_t num_words) const;
  void launch_step(int num_tokens, int num_rows) const;
  void launch_layer(const Launcher& where, const Step& step, int layer, int num_tokens) const;
  [[nodiscard]] Step step() const;
  [[nodiscard]] Launcher launcher() const { return {stream_.get(), overlap_}; }

  void check_row(int row) const {
    check(row >= 0 && row < num_rows_, "engine: rows of logits are 0 to ", num_rows_ - 1, ", got ",
          row);
  }

  [[nodiscard]] Residual residual() const {
    return {buffers_.x.data(), buffers_.multiplier.data(), buffers_.squares.data(), config_.n_embd,
            config_.norm_eps};
  }
  // Of the rows that the head reads.
  [[nodiscard]] Residual final_residual() const {
    return {nullptr, buffers_.final_multiplier.data(), buffers_.final_squares.data(),
            config_.n_embd, config_.norm_eps};
  }

  const ModelConfig config_;
  const int device_;
  const bool overlap_;
  const StepLayout layout_;
  const KvLayout kv_;
  Weights weights_;
  const Activations buffers_;
  const DeviceArray<BFloat16> pages_;
  const DeviceArray<float> logits_;  // (capacity, rows of the head)
  const DeviceArray<int32_t> step_words_;
  const PinnedArray<int32_t> staging_;
  const std::unique_ptr<float[]>
      host_logits_;  // (capacity, vocab_size), rows as they are asked for
  std::vector<bool> is_fetched_;
  int num_rows_ = 0;
  const Stream stream_;
  const Event staging_free_;  // the device has read `staging_`
  DeviceSampler sampler_;
  std::array<GraphExec, kNumBuckets> graphs_;
};

Step CudaModel::step() const {
  const int32_t* words = step_words_.data();
  return {.token = words + layout_.offset(StepLayout::kToken),
          .previous = words + layout_.offset(StepLayout::kPrevious),
          .position = words + layout_.offset(StepLayout::kPosition),
          .sequence = words + layout_.offset(StepLayout::kSequence),
          .slot = words + layout_.offset(StepLayout::kSlot),
          .tables = words + layout_.tables(),
          .table_stride = layout_.table_stride};
}

void CudaModel::launch_step(int num_tokens, int num_rows) const {
  const Launcher where = launcher();
  const LayerWeights& first = weights_.layers.front();
  launch_embed(where,
               {.step = step(),
                .table = weights_.embedding.data(),
                .smear_gate = weights_.smear_gate.data(),
                .smear_channels = config_.smear_gate_channels,
                .smear_lambda = weights_.smear_lambda,
                .lambda = first.lambda + first.lambda0,
                .x0 = buffers_.x0.data(),
                .out = residual()},
               num_tokens);
  for (int layer = 0; layer < config_.n_layer; ++layer) {
    launch_layer(where, step(), layer, num_tokens);
  }
  if (num_rows > 0) {
    launch_logits(where, weights_.head.times(buffers_.final_multiplier.data()),
                  {.in = final_residual(), .out = logits_.data(), .stride = weights_.head.rows},
                  num_rows);
  }
}

void CudaModel::launch_layer(const Launcher& where, const Step& step, int layer,
                             int num_tokens) const {
  const LayerWeights& weights = weights_.layers[layer];
  const int window = config_.windows[layer];
  launch_qkv(where,
             {.step = step,
              .in = residual(),
              .weights = weights.qkv.times(nullptr).weights,
              .n_head = config_.n_head,
              .qk_scale = config_.qk_scale,
              .cos = weights_.cos.data(),
              .sin = weights_.sin.data(),
              .gate = weights.gate.data(),
              .value_embedding = weights.value_embedding.data(),
              .gate_channels = config_.ve_gate_channels,
              .q = buffers_.q.data(),
              .pages = pages_.data(),
              .kv = kv_,
              .layer = layer},
             num_tokens);
  launch_attention(where,
                   {.step = step,
                    .q = buffers_.q.data(),
                    .pages = pages_.data(),
                    .kv = kv_,
                    .layer = layer,
                    .n_head = config_.n_head,
                    .window = window,
                    .num_splits = max_splits(config_.seq_len, window),
                    .qk_scale = config_.qk_scale,
                    .partial = buffers_.partial.data(),
                    .partial_sum = buffers_.partial_sum.data(),
                    .tickets = buffers_.tickets.data(),
                    .out = buffers_.attended.data()},
                   num_tokens);
  launch_add_to_stream(where, weights.attention_out.times(buffers_.attended.data()),
                       {.x = buffers_.x.data(), .out = residual()}, num_tokens);
  launch_squared_relu(where, weights.fc.times(buffers_.multiplier.data()),
                      {.in = residual(), .out = buffers_.hidden.data()}, num_tokens);

  AddToStream end{.x = buffers_.x.data(), .out = residual()};
  if (layer == config_.backout_layer) end.mid_out = buffers_.mid.data();
  if (layer + 1 == config_.n_layer) {
    end.mid = buffers_.mid.data();
    end.backout = weights_.backout_lambda;
    end.slot = step.slot;
    end.out = final_residual();
  } else if (config_.use_residual_lambdas) {
    end.x0 = buffers_.x0.data();
    end.lambda = weights_.layers[layer + 1].lambda;
    end.lambda0 = weights_.layers[layer + 1].lambda0;
  }
  launch_add_to_stream(where, weights.mlp_out.times(buffers_.hidden.data()), end, num_tokens);
}

GraphExec CudaModel::record(int num_tokens) const {
  check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
             "engine: begin of a graph");
  std::exception_ptr failure;
  try {
    launch_step(num_tokens, num_tokens);
  } catch (...) {
    failure = std::current_exception();  // the capture must end first
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream_.get(), &graph);
  if (failure) std::rethrow_exception(failure);
  check_cuda(status, "engine: end of a graph");
  const Owner<cudaGraph_t, cudaGraphDestroy> owner(graph);
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "engine: graph");
  return GraphExec(exec);
}

void CudaModel::record_all() {
  check_cuda(cudaDeviceSynchronize(), "engine: upload");  // it was not in our stream
  write_step(layout_, {}, staging_.span());
  copy_step(layout_.tables());
  for (int bucket = 0; bucket < kNumBuckets; ++bucket) {
    const int num_tokens = 1 << bucket;
    if (bucket > 0 && num_tokens / 2 >= layout_.max_tokens) break;
    launch_step(num_tokens, num_tokens);  // of padding: kernels load before they are recorded
    graphs_[bucket] = record(num_tokens);
  }
  check_cuda(cudaDeviceSynchronize(), "engine: first step");
}

// The graphs hold the scalars of the weights, so they are recorded anew.
void CudaModel::load(const Tensors& tensors) {
  const DeviceGuard guard(device_);
  check_cuda(cudaStreamSynchronize(stream_.get()), "engine: step before");
  load_weights(config_, tensors, weights_);
  record_all();
}

void CudaModel::copy_step(int64_t num_words) const {
  check_cuda(cudaMemcpyAsync(step_words_.data(), staging_.span().data(),
                             static_cast<size_t>(num_words) * sizeof(int32_t),
                             cudaMemcpyHostToDevice, stream_.get()),
             "engine: copy of the step");
  check_cuda(cudaEventRecord(staging_free_.get(), stream_.get()), "engine: event");
}

void CudaModel::forward(std::span<const Chunk> chunks) {
  const StepPlan plan = check_chunks(layout_, chunks);
  const DeviceGuard guard(device_);
  begin_step(chunks, plan);
  if (plan.is_decode && plan.num_tokens <= kTokenTile) {
    launch_decode(plan.num_tokens);
  } else {
    launch_step(plan.num_tokens, plan.num_rows);
  }
  num_rows_ = plan.num_rows;
}

// The graphs leave tokens and positions where they found them, so the same graph is the next step
// once these have advanced; the host looks when all is drawn.
void CudaModel::decode(std::span<const Chunk> chunks, std::span<const Draw> draws, int num_steps,
                       std::span<Drawn> drawn) {
  const StepPlan plan = check_chunks(layout_, chunks);
  check(plan.is_decode && num_steps >= 1,
        "engine: decode takes chunks of one token whose logits are wanted, and at least 1 step");
  if (plan.num_tokens > kTokenTile || num_steps > kMaxSteps) {
    return Model::decode(chunks, draws, num_steps, drawn);
  }
  check_decode(layout_, chunks, draws, num_steps);
  const DeviceGuard guard(device_);
  begin_step(chunks, plan);
  const size_t num_tokens = chunks.size();
  int32_t* const words = step_words_.data();
  const Launcher where = launcher();
  sampler_.send(where, draws);
  for (int k = 0; k < num_steps; ++k) {
    if (k > 0) {
      launch_advance(where,
                     {.drawn = sampler_.drawn() + (k - 1) * num_tokens,
                      .draws = sampler_.draws(),
                      .token = words + layout_.offset(StepLayout::kToken),
                      .previous = words + layout_.offset(StepLayout::kPrevious),
                      .position = words + layout_.offset(StepLayout::kPosition)},
                     static_cast<int>(num_tokens));
    }
    launch_decode(plan.num_tokens);
    sampler_.draw(where, logits_.data(), num_tokens, k * num_tokens);
  }
  const std::span<const DeviceDrawn> fetched = sampler_.fetch(where, num_steps * num_tokens);
  for (size_t i = 0; i < num_tokens; ++i) {
    for (int k = 0; k < num_steps; ++k) {
      drawn[i * num_steps + k] = sampler_.to_drawn(fetched[k * num_tokens + i], draws[i]);
    }
  }
  num_rows_ = plan.num_rows;
}

void CudaModel::begin_step(std::span<const Chunk> chunks, const StepPlan& plan) {
  num_rows_ = 0;
  std::fill(is_fetched_.begin(), is_fetched_.end(), false);
  check_cuda(cudaEventSynchronize(staging_free_.get()), "engine: step before");
  write_step(layout_, chunks, staging_.span());
  copy_step(plan.num_words);
}

void CudaModel::launch_decode(int num_tokens) const {
  int bucket = 0;
  while (1 << bucket < num_tokens) ++bucket;
  check_cuda(cudaGraphLaunch(graphs_[bucket].get(), stream_.get()), "engine: graph");
}

std::span<const float> CudaModel::logits(int row) {
  check_row(row);
  const size_t size = config_.vocab_size;
  float* host = host_logits_.get() + row * size;
  if (!is_fetched_[row]) {
    const DeviceGuard guard(device_);
    check_cuda(cudaMemcpyAsync(host, logits_.data() + int64_t{row} * weights_.head.rows,
                               size * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
               "engine: copy of logits");
    check_cuda(cudaStreamSynchronize(stream_.get()), "engine: step");
    is_fetched_[row] = true;
  }
  return {host, size};
}

void CudaModel::sample(std::span<const Draw> draws, std::span<Drawn> drawn) {
  for (const Draw& draw : draws) check_row(draw.row);
  const DeviceGuard guard(device_);
  sampler_.sample(launcher(), logits_.data(), draws, drawn);
}

void CudaModel::copy_page(int32_t from, int32_t to) {
  const auto is_page = [&](int32_t page) { return page >= 0 && page < layout_.num_pages; };
  check(is_page(from) && is_page(to), "engine: pages must be 0 to ", layout_.num_pages - 1,
        ", got ", from, " and ", to);
  const DeviceGuard guard(device_);
  const int64_t size = kv_.page_elements();
  check_cuda(cudaMemcpyAsync(pages_.data() + to * size, pages_.data() + from * size,
                             static_cast<size_t>(size) * sizeof(BFloat16), cudaMemcpyDeviceToDevice,
                             stream_.get()),
             "engine: copy of a page");
}

}  // namespace
}  // namespace cuda

std::unique_ptr<Model> make_cuda_model(const ModelConfig& config, const Tensors& tensors,
                                       int num_pages, int max_tokens, int device) {
  cuda::check_config(config, num_pages, max_tokens);
  const bool overlap = cuda::check_device(device);
  const cuda::DeviceGuard guard(device);
  return std::make_unique<cuda::CudaModel>(config, tensors, num_pages, max_tokens, device, overlap);
}

}  // namespace nanochat::engine
