// The model on the processor: weights packed once, keys and values in pages, every step a few
// products with small loops between them. Rows of a step are tokens, of any sequences.
//
//   cost of a step of M tokens, d12 in bf16: 220 MB of weights + 36 KiB of cache for each token
//   that is looked back at; 2 x 110 MFLOP x M. Up to M ~ 12 a core the bytes decide.
//
// Activations: the residual stream, norms, rotation and softmax are fp32; what goes into a product,
// the keys and the values are rounded to bf16 in a bf16 model.
#pragma once

#include <memory>
#include <vector>

#include "common/huge_array.h"
#include "common/team.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/packed_matrix.h"
#include "engine/model.h"

namespace nanochat::engine {

struct CpuOptions {
  Precision precision = Precision::kBFloat16;
  Isa isa = best_isa();
  int num_threads = 1;
  int num_pages = 1;
};

class CpuModel final : public Model {
 public:
  // The tensors are read here and not needed afterwards. Throws std::invalid_argument for one that
  // is missing or of another shape.
  CpuModel(const ModelConfig& config, const Tensors& tensors, const CpuOptions& options);

  void forward(std::span<const Chunk> chunks) override;
  [[nodiscard]] std::span<const float> logits(int row) override;
  void sample(std::span<const Draw> draws, std::span<Drawn> drawn) override;
  void copy_page(int32_t from, int32_t to) override;
  void load(const Tensors& tensors) override;

  [[nodiscard]] int64_t weight_bytes() const;  // read by a step of one token
  [[nodiscard]] int64_t page_bytes() const { return page_bytes_; }

 private:
  struct Table {  // rows of an embedding, in the precision of the weights
    HugeArray<char> data;
    int64_t width = 0;
  };
  struct Layer {
    PackedMatrix qkv, proj, fc, down;
    Table value_embedding;
    std::vector<float> value_gate;  // (Hkv, ve_gate_channels)
  };
  // Consecutive rows of the step that are tokens of one chunk.
  struct Run {
    const Chunk* chunk;
    int64_t first_row, num_rows;
    int64_t position;  // of the first
  };

  static void copy_rows(const TensorView& rows, Precision precision, Table& to);
  void read_row(const Table& table, int32_t token, float* out) const;
  void embed(const Chunk& chunk, int64_t first_row);
  void normed_embedding(int32_t token, float* out) const;
  void run_layer(size_t l);
  void prepare_heads(size_t l, int64_t row);
  void attend(size_t l);
  void keep_wanted_rows();
  void multiply(const PackedMatrix& weight, const void* a, Epilogue epilogue, void* out,
                int64_t out_stride);
  void norm_rows();
  // body(i) for i in [0, n), on all threads if that is worth it.
  template <typename Body>
  void for_each(int64_t n, int64_t at_once, const Body& body);

  ModelConfig config_;
  Precision precision_;
  const Kernels& kernels_;
  Team team_;
  Table embedding_;
  std::vector<Layer> layers_;
  PackedMatrix lm_head_;
  std::vector<float> resid_lambdas_, x0_lambdas_, smear_gate_;
  std::vector<float> smear_lambda_, backout_lambda_;  // one number each
  std::vector<float> cos_, sin_;                      // (seq_len, D / 2)
  HugeArray<char> pages_;
  int64_t page_bytes_ = 0;

  // Of the step: one row for each token.
  std::vector<Run> runs_;
  std::vector<const Run*> run_of_row_;
  int64_t num_rows_ = 0;
  std::vector<float> x_, x0_, x_mid_, qkv_, inv_rms_, logits_;
  std::vector<char> normed_, queries_, attended_, hidden_;  // inputs of products
  std::vector<char> quantized_;
  std::vector<std::vector<const char*>> page_addresses_;  // for each run
};

}  // namespace nanochat::engine
