#include "engine/cpu/cpu_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "common/check.h"

namespace nanochat::engine {
namespace {

// A checkpoint's tensors, asked for by name and shape.
class Source {
 public:
  explicit Source(const Tensors& tensors) : tensors_(tensors) {}

  TensorView matrix(const std::string& name, int64_t num_rows, int64_t num_columns) const {
    const TensorView& view = find(name);
    check(view.rank == 2 && view.sizes[0] == num_rows && view.sizes[1] == num_columns,
          "engine: weight ", name, " must have shape (", num_rows, ", ", num_columns, "), got ",
          view.shape());
    return view;
  }
  // A row for each token, of a matrix that may be padded to more.
  TensorView table(const std::string& name, int64_t num_tokens, int64_t num_columns) const {
    TensorView view = find(name);
    check(view.rank == 2 && view.sizes[0] >= num_tokens && view.sizes[1] == num_columns,
          "engine: weight ", name, " must have at least ", num_tokens, " rows of ", num_columns,
          ", got shape ", view.shape());
    view.sizes[0] = num_tokens;
    return view;
  }
  std::vector<float> numbers(const std::string& name, int64_t n) const {
    const TensorView& view = find(name);
    int64_t size = 1;
    for (int i = 0; i < view.rank; ++i) size *= view.sizes[i];
    check(size == n, "engine: weight ", name, " must have ", n, " elements, got ", view.shape());
    std::vector<float> values(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      values[static_cast<size_t>(i)] =
          view.dtype == DType::kBFloat16 ? to_float(view.as<BFloat16>()[i]) : view.as<float>()[i];
    }
    return values;
  }

 private:
  const TensorView& find(const std::string& name) const {
    const auto found = tensors_.find(name);
    check(found != tensors_.end(), "engine: weight ", name, " is missing");
    const DType dtype = found->second.dtype;
    check(dtype == DType::kFloat32 || dtype == DType::kBFloat16, "engine: weight ", name,
          " must be float32 or bfloat16, got ", nanochat::name(dtype));
    return found->second;
  }

  const Tensors& tensors_;
};

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

float inv_rms(const float* x, int64_t n, float eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  return 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
}

template <typename T>
void make_room(std::vector<T>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
}

}  // namespace

CpuModel::CpuModel(const ModelConfig& config, const Tensors& tensors, const CpuOptions& options)
    : config_(config),
      precision_(options.precision),
      kernels_(kernels(options.isa, options.precision)),
      team_(options.num_threads) {
  const int64_t C = config.n_embd, D = config.head_dim;
  if (C % kBlockColumns != 0 || config.mlp_width % kBlockColumns != 0) {
    throw Unsupported(concat("engine: widths must be multiples of ", kBlockColumns, ", got n_embd ",
                             C, " and mlp ", config.mlp_width, "; take the torch backend"));
  }
  layers_.resize(static_cast<size_t>(config.n_layer));
  load(tensors);

  const int64_t half = D / 2;
  for (int64_t position = 0; position < config.seq_len; ++position) {
    for (int64_t j = 0; j < half; ++j) {
      const double angle =
          static_cast<double>(position) *
          std::pow(config.rope_base, -static_cast<double>(2 * j) / static_cast<double>(D));
      cos_.push_back(static_cast<float>(std::cos(angle)));
      sin_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  page_bytes_ = 2 * config.n_layer * config.n_kv_head * D * kPageTokens * kernels_.cache_bytes;
  pages_ = HugeArray<char>(static_cast<size_t>(options.num_pages * page_bytes_));
}

void CpuModel::copy_rows(const TensorView& rows, Precision precision, Table& to) {
  const int64_t n = rows.sizes[0] * rows.sizes[1];
  const int64_t num_bytes = n * (precision == Precision::kFloat32 ? 4 : 2);
  if (to.width == 0) to = {HugeArray<char>(static_cast<size_t>(num_bytes)), rows.sizes[1]};
  for (int64_t i = 0; i < n; ++i) {
    const float x =
        rows.dtype == DType::kBFloat16 ? to_float(rows.as<BFloat16>()[i]) : rows.as<float>()[i];
    if (precision == Precision::kFloat32) {
      reinterpret_cast<float*>(&to.data[0])[i] = x;
    } else {
      reinterpret_cast<BFloat16*>(&to.data[0])[i] = to_bfloat16(x);
    }
  }
}

// Every tensor is found and compared before the first byte is written.
void CpuModel::load(const Tensors& tensors) {
  const Source source(tensors);
  const int64_t C = config_.n_embd, D = config_.head_dim, V = config_.vocab_size;
  const int64_t q_width = config_.n_head * D, kv_width = config_.n_kv_head * D;
  std::vector<std::function<void()>> writes;
  const auto pack = [&](PackedMatrix& to, std::vector<TensorView> from) {
    writes.push_back([&to, from = std::move(from), precision = precision_] {
      to.depth() == 0 ? void(to = PackedMatrix(from, precision)) : to.write(from);
    });
  };
  const auto copy = [&](Table& to, const std::string& name, int64_t width) {
    writes.push_back([&to, from = source.table(name, V, width), precision = precision_] {
      copy_rows(from, precision, to);
    });
  };
  const auto take = [&](std::vector<float>& to, const std::string& name, int64_t n) {
    writes.push_back([&to, from = source.numbers(name, n)] { to = from; });
  };

  copy(embedding_, "transformer.wte.weight", C);
  pack(lm_head_, {source.table("lm_head.weight", V, C)});
  for (size_t l = 0; l < layers_.size(); ++l) {
    const std::string prefix = "transformer.h." + std::to_string(l) + ".";
    const std::string attn = prefix + "attn.";
    Layer& layer = layers_[l];
    pack(layer.qkv, {source.matrix(attn + "c_q.weight", q_width, C),
                     source.matrix(attn + "c_k.weight", kv_width, C),
                     source.matrix(attn + "c_v.weight", kv_width, C)});
    pack(layer.proj, {source.matrix(attn + "c_proj.weight", C, q_width)});
    pack(layer.fc, {source.matrix(prefix + "mlp.c_fc.weight", config_.mlp_width, C)});
    pack(layer.down, {source.matrix(prefix + "mlp.c_proj.weight", C, config_.mlp_width)});
    if (config_.has_value_embedding[l]) {
      copy(layer.value_embedding, "value_embeds." + std::to_string(l) + ".weight", kv_width);
      take(layer.value_gate, attn + "ve_gate.weight",
           int64_t{config_.n_kv_head} * config_.ve_gate_channels);
    }
  }
  if (config_.use_residual_lambdas) {
    take(resid_lambdas_, "resid_lambdas", config_.n_layer);
    take(x0_lambdas_, "x0_lambdas", config_.n_layer);
  }
  if (config_.smear_gate_channels > 0) {
    take(smear_gate_, "smear_gate.weight", config_.smear_gate_channels);
    take(smear_lambda_, "smear_lambda", 1);
  }
  if (config_.backout_layer >= 0) take(backout_lambda_, "backout_lambda", 1);

  for_each(std::ssize(writes), 1, [&](int64_t i) { writes[static_cast<size_t>(i)](); });
}

int64_t CpuModel::weight_bytes() const {
  int64_t sum = lm_head_.num_bytes();
  for (const Layer& layer : layers_) {
    sum += layer.qkv.num_bytes() + layer.proj.num_bytes() + layer.fc.num_bytes() +
           layer.down.num_bytes();
  }
  return sum;
}

template <typename Body>
void CpuModel::for_each(int64_t n, int64_t at_once, const Body& body) {
  const auto most = static_cast<int64_t>(team_.size()) == 1 ? 1 : int64_t{Team::kMaxTasks};
  const int64_t num_tasks = std::min((n + at_once - 1) / at_once, most);
  const auto range = [&](int64_t task) {
    for (int64_t i = n * task / num_tasks; i < n * (task + 1) / num_tasks; ++i) body(i);
  };
  if (num_tasks <= 1) return n > 0 ? range(0) : void();
  team_.run(static_cast<size_t>(num_tasks),
            [&](size_t task) { range(static_cast<int64_t>(task)); });
}

void CpuModel::read_row(const Table& table, int32_t token, float* out) const {
  const int64_t at = token * table.width;
  for (int64_t i = 0; i < table.width; ++i) {
    out[i] = precision_ == Precision::kFloat32
                 ? reinterpret_cast<const float*>(&table.data[0])[at + i]
                 : to_float(reinterpret_cast<const BFloat16*>(&table.data[0])[at + i]);
  }
}

void CpuModel::normed_embedding(int32_t token, float* out) const {
  read_row(embedding_, token, out);
  const float factor = inv_rms(out, config_.n_embd, config_.norm_eps);
  for (int64_t i = 0; i < config_.n_embd; ++i) out[i] *= factor;
}

void CpuModel::embed(const Chunk& chunk, int64_t first_row) {
  const int64_t C = config_.n_embd;
  std::vector<float> before(static_cast<size_t>(C));
  bool has_before = chunk.previous >= 0;
  if (has_before) normed_embedding(chunk.previous, before.data());
  for (size_t t = 0; t < chunk.tokens.size(); ++t) {
    float* const x = &x_[static_cast<size_t>((first_row + static_cast<int64_t>(t)) * C)];
    normed_embedding(chunk.tokens[t], x);
    if (smear_gate_.empty()) continue;
    float logit = 0;
    for (size_t c = 0; c < smear_gate_.size(); ++c) logit += smear_gate_[c] * x[c];
    const float weight = has_before ? smear_lambda_[0] * sigmoid(logit) : 0.0f;
    for (int64_t c = 0; c < C; ++c) {
      const float own = x[c];
      x[c] += weight * before[static_cast<size_t>(c)];
      before[static_cast<size_t>(c)] = own;
    }
    has_before = true;
  }
}

void CpuModel::forward(std::span<const Chunk> chunks) {
  const int64_t C = config_.n_embd, q_width = int64_t{config_.n_head} * config_.head_dim;
  const int64_t in = kernels_.input_bytes;
  runs_.clear();
  page_addresses_.resize(std::max(page_addresses_.size(), chunks.size()));
  num_rows_ = 0;
  for (const Chunk& chunk : chunks) {
    auto& addresses = page_addresses_[runs_.size()];
    addresses.clear();
    for (const int32_t page : chunk.pages) addresses.push_back(&pages_[0] + page * page_bytes_);
    const auto num_rows = static_cast<int64_t>(chunk.tokens.size());
    runs_.push_back({&chunk, num_rows_, num_rows, chunk.position});
    num_rows_ += num_rows;
  }
  make_room(x_, num_rows_ * C);
  make_room(qkv_, num_rows_ * layers_[0].qkv.num_blocks() * kBlockColumns);
  make_room(inv_rms_, num_rows_);
  make_room(normed_, num_rows_ * C * in);
  make_room(queries_, num_rows_ * q_width * in);
  make_room(attended_, num_rows_ * q_width * in);
  make_room(hidden_, num_rows_ * layers_[0].fc.num_blocks() * kBlockColumns * in);
  run_of_row_.clear();
  for (const Run& run : runs_) {
    run_of_row_.insert(run_of_row_.end(), static_cast<size_t>(run.num_rows), &run);
  }

  for_each(static_cast<int64_t>(runs_.size()), 1, [&](int64_t i) {
    const Run& run = runs_[static_cast<size_t>(i)];
    embed(*run.chunk, run.first_row);
  });
  if (config_.use_residual_lambdas) x0_.assign(x_.begin(), x_.begin() + num_rows_ * C);
  for (size_t l = 0; l < layers_.size(); ++l) run_layer(l);
  if (num_rows_ == 0) return;

  if (config_.backout_layer >= 0) {
    for (int64_t i = 0; i < num_rows_ * C; ++i) {
      x_[static_cast<size_t>(i)] -= backout_lambda_[0] * x_mid_[static_cast<size_t>(i)];
    }
  }
  norm_rows();
  const int64_t stride = lm_head_.num_blocks() * kBlockColumns;
  make_room(logits_, num_rows_ * stride);
  multiply(lm_head_, normed_.data(), Epilogue::kStore, logits_.data(), stride);
}

void CpuModel::norm_rows() {
  const int64_t C = config_.n_embd;
  for_each(num_rows_, 8, [&](int64_t row) {
    inv_rms_[static_cast<size_t>(row)] =
        kernels_.norm(&x_[static_cast<size_t>(row * C)], C, config_.norm_eps,
                      &normed_[static_cast<size_t>(row * C * kernels_.input_bytes)]);
  });
}

void CpuModel::run_layer(size_t l) {
  const Layer& layer = layers_[l];
  const int64_t C = config_.n_embd;
  if (config_.use_residual_lambdas) {
    const float own = resid_lambdas_[l], first = x0_lambdas_[l];
    for_each(num_rows_, 8, [&](int64_t row) {
      for (int64_t i = row * C; i < (row + 1) * C; ++i) {
        const auto at = static_cast<size_t>(i);
        x_[at] = own * x_[at] + first * x0_[at];
      }
    });
  }
  norm_rows();
  multiply(layer.qkv, normed_.data(), Epilogue::kStore, qkv_.data(),
           layer.qkv.num_blocks() * kBlockColumns);
  for_each(num_rows_, 4, [&](int64_t row) { prepare_heads(l, row); });
  if (l + 1 == layers_.size()) {
    keep_wanted_rows();
    if (num_rows_ == 0) return;
  }
  attend(l);
  multiply(layer.proj, attended_.data(), Epilogue::kAdd, x_.data(), C);
  norm_rows();
  multiply(layer.fc, normed_.data(), Epilogue::kReluSquare, hidden_.data(), config_.mlp_width);
  multiply(layer.down, hidden_.data(), Epilogue::kAdd, x_.data(), C);
  if (static_cast<int>(l) == config_.backout_layer) {
    x_mid_.assign(x_.begin(), x_.begin() + num_rows_ * C);
  }
}

// Rotates and norms queries and keys of one token, gates its values; keys and values go to the
// page.
void CpuModel::prepare_heads(size_t l, int64_t row) {
  const Layer& layer = layers_[l];
  const Run& run = *run_of_row_[static_cast<size_t>(row)];
  const int64_t D = config_.head_dim, H = config_.n_head, Hkv = config_.n_kv_head;
  const int64_t position = run.position + row - run.first_row;
  const float* const cos = &cos_[static_cast<size_t>(position * D / 2)];
  const float* const sin = &sin_[static_cast<size_t>(position * D / 2)];
  float* const q = &qkv_[static_cast<size_t>(row * layer.qkv.num_blocks() * kBlockColumns)];
  float* const k = q + H * D;
  float* const v = k + Hkv * D;
  for (int64_t h = 0; h < H + Hkv; ++h) {
    kernels_.rope_norm(q + h * D, D, cos, sin, config_.norm_eps, config_.qk_scale);
  }
  kernels_.to_inputs(q, H * D, &queries_[static_cast<size_t>(row * H * D * kernels_.input_bytes)]);

  if (!layer.value_gate.empty()) {
    thread_local std::vector<float> ve;
    make_room(ve, Hkv * D);
    const int32_t token = run.chunk->tokens[static_cast<size_t>(position - run.chunk->position)];
    read_row(layer.value_embedding, token, ve.data());
    const float* const x = &x_[static_cast<size_t>(row * config_.n_embd)];
    for (int64_t h = 0; h < Hkv; ++h) {
      float logit = 0;
      for (int64_t c = 0; c < config_.ve_gate_channels; ++c) {
        logit += layer.value_gate[static_cast<size_t>(h * config_.ve_gate_channels + c)] * x[c];
      }
      const float gate = 3.0f * sigmoid(logit * inv_rms_[static_cast<size_t>(row)]);
      for (int64_t d = h * D; d < (h + 1) * D; ++d) v[d] += gate * ve[static_cast<size_t>(d)];
    }
  }

  const auto slot = static_cast<int>(position % kPageTokens);
  auto& addresses = page_addresses_[static_cast<size_t>(&run - runs_.data())];
  auto* const page = const_cast<char*>(addresses[static_cast<size_t>(position / kPageTokens)]);
  const int64_t bytes = kPageTokens * D * kernels_.cache_bytes;
  for (int64_t h = 0; h < Hkv; ++h) {
    char* const keys = page + (static_cast<int64_t>(l) * Hkv + h) * 2 * bytes;
    kernels_.store_key(k + h * D, D, slot, keys);
    kernels_.store_value(v + h * D, D, slot, keys + bytes);
  }
}

// In the last layer only rows whose logits are wanted go on: the last ones of each chunk.
void CpuModel::keep_wanted_rows() {
  const int64_t C = config_.n_embd;
  const int64_t query_bytes = config_.n_head * config_.head_dim * kernels_.input_bytes;
  int64_t to = 0;
  for (Run& run : runs_) {
    const int64_t skipped = run.num_rows - run.chunk->num_logits;
    const int64_t from = run.first_row + skipped;
    run = {run.chunk, to, run.chunk->num_logits, run.position + skipped};
    for (int64_t i = 0; i < run.num_rows; ++i, ++to) {
      if (to == from + i) continue;
      const auto move = [&](auto& buffer, int64_t width) {
        std::memmove(buffer.data() + to * width, buffer.data() + (from + i) * width,
                     static_cast<size_t>(width) * sizeof(buffer[0]));
      };
      move(x_, C);
      move(queries_, query_bytes);
      if (!x_mid_.empty() && config_.backout_layer + 1 < config_.n_layer) move(x_mid_, C);
    }
  }
  num_rows_ = to;
}

void CpuModel::attend(size_t l) {
  const int64_t D = config_.head_dim, H = config_.n_head, Hkv = config_.n_kv_head;
  const int64_t bytes = kPageTokens * D * kernels_.cache_bytes;
  struct Tile {
    const Run* run;
    int64_t first;  // row of the run
  };
  std::vector<Tile> tiles;
  for (const Run& run : runs_) {
    for (int64_t first = 0; first < run.num_rows; first += kMaxQueries) {
      tiles.push_back({&run, first});
    }
  }
  // Head by head, so that pages that sequences share are read once for all of them.
  const auto num_tiles = static_cast<int64_t>(tiles.size());
  for_each(num_tiles * H, 1, [&](int64_t i) {
    const auto [run, first] = tiles[static_cast<size_t>(i % num_tiles)];
    const int64_t h = i / num_tiles, kv_head = h / (H / Hkv);
    const int64_t at = ((run->first_row + first) * H + h) * D * kernels_.input_bytes;
    const auto num_queries =
        static_cast<int>(std::min<int64_t>(run->num_rows - first, kMaxQueries));
    const int64_t position = run->position + first;
    thread_local std::vector<float> scratch;
    make_room(scratch, num_queries * (position + num_queries + 2 * kPageTokens));
    kernels_.attend({
        .queries = &queries_[static_cast<size_t>(at)],
        .query_stride = H * D,
        .num_queries = num_queries,
        .first_position = static_cast<int>(position),
        .window = config_.windows[l],
        .head_dim = config_.head_dim,
        .scale = 1.0f / std::sqrt(static_cast<float>(D)),
        .pages = page_addresses_[static_cast<size_t>(run - runs_.data())].data(),
        .keys_offset = (static_cast<int64_t>(l) * Hkv + kv_head) * 2 * bytes,
        .values_offset = ((static_cast<int64_t>(l) * Hkv + kv_head) * 2 + 1) * bytes,
        .out = &attended_[static_cast<size_t>(at)],
        .out_stride = H * D,
        .scratch = scratch.data(),
    });
  });
}

void CpuModel::multiply(const PackedMatrix& weight, const void* a, Epilogue epilogue, void* out,
                        int64_t out_stride) {
  constexpr int64_t kBlocksAtOnce = 12;
  if (kernels_.quantize != nullptr) {
    const int64_t K = weight.depth(), bytes = quantized_bytes(K);
    make_room(quantized_, num_rows_ * bytes);
    const char* const rows = static_cast<const char*>(a);
    for_each(num_rows_, 8, [&](int64_t row) {
      kernels_.quantize(rows + row * K * kernels_.input_bytes, K,
                        &quantized_[static_cast<size_t>(row * bytes)]);
    });
    a = quantized_.data();
  }
  const Product product{.weight = &weight,
                        .a = a,
                        .num_rows = num_rows_,
                        .epilogue = epilogue,
                        .out = out,
                        .out_stride = out_stride};
  const int64_t n = weight.num_blocks();
  if (team_.size() == 1) return kernels_.multiply(product, 0, n);
  const int64_t num_tasks =
      std::min((n + kBlocksAtOnce - 1) / kBlocksAtOnce, int64_t{Team::kMaxTasks});
  const int64_t at_once = (n + num_tasks - 1) / num_tasks;
  team_.run(static_cast<size_t>(num_tasks), [&](size_t task) {
    const int64_t first = std::min(n, static_cast<int64_t>(task) * at_once);
    kernels_.multiply(product, first, std::min(n, first + at_once));
  });
}

std::span<const float> CpuModel::logits(int row) {
  const int64_t stride = lm_head_.num_blocks() * kBlockColumns;
  return {&logits_[static_cast<size_t>(row * stride)], static_cast<size_t>(config_.vocab_size)};
}

void CpuModel::sample(std::span<const Draw> draws, std::span<Drawn> drawn) {
  for_each(static_cast<int64_t>(draws.size()), 1, [&](int64_t i) {
    thread_local SamplerScratch scratch;
    const Draw& draw = draws[static_cast<size_t>(i)];
    drawn[static_cast<size_t>(i)] =
        engine::sample(logits(draw.row), config_.softcap, draw, scratch);
  });
}

void CpuModel::copy_page(int32_t from, int32_t to) {
  std::memcpy(&pages_[0] + to * page_bytes_, &pages_[0] + from * page_bytes_,
              static_cast<size_t>(page_bytes_));
}

}  // namespace nanochat::engine
