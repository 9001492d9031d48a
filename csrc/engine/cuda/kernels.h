// The launches of one step, in their order; each is a file of its own. They neither allocate nor
// wait. All pointers are of the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/dtype.h"
#include "engine/cuda/layout.h"

namespace nanochat::engine::cuda {

// What a step is about: an entry for each token, filled up to the end of the launch with position
// -1, whose results go nowhere.
struct Step {
  const int32_t* token;
  const int32_t* previous;  // the token before it, -1 at position 0
  const int32_t* position;
  const int32_t* sequence;  // row of `tables`
  const int32_t* slot;      // row of the logits, -1 for none
  const int32_t* tables;    // page tables
  int table_stride;
};

// A vector for each token between the kernels. RMS norm has no weight, so its factor commutes with
// the matrix: W (x r) = (W x) r. A writer leaves x in bf16 and its sums of squares; a reader
// multiplies the bf16 and scales the sums.
struct Residual {
  float* x;              // (tokens, n_embd)
  BFloat16* multiplier;  // x again, as activations
  float* squares;        // sums of 16 channels each
  int channels;
  float eps;
};

struct Launcher {
  cudaStream_t stream;
  bool overlap;  // programmatic dependent launch: sm_90 and later
};

struct Embed {
  Step step;
  const BFloat16* table;    // (rows, n_embd)
  const float* smear_gate;  // (smear_channels,), null without smear
  int smear_channels;
  float smear_lambda;
  float lambda;  // the first layer's, of x and x0 together; 1 without
  float* x0;     // (tokens, n_embd)
  Residual out;
};
void launch_embed(const Launcher& where, const Embed& p, int num_tokens);

struct Qkv {
  Step step;
  Residual in;
  const uint4* weights;  // rows: heads of q, of k, of v
  int n_head;
  float qk_scale;
  const float *cos, *sin;           // (seq_len, head_dim / 2)
  const float* gate;                // (n_kv_head, gate_channels), null without value embedding
  const BFloat16* value_embedding;  // (rows, n_kv_head * head_dim)
  int gate_channels;
  BFloat16* q;  // (tokens, n_head * head_dim)
  BFloat16* pages;
  KvLayout kv;
  int layer;
};
void launch_qkv(const Launcher& where, const Qkv& p, int num_tokens);

struct Attention {
  Step step;
  const BFloat16* q;
  const BFloat16* pages;
  KvLayout kv;
  int layer;
  int n_head;
  int window;
  int num_splits;      // at most, of any query
  float qk_scale;      // bounds the scores
  float* partial;      // (tokens, n_head, num_splits, head_dim)
  float* partial_sum;  // (tokens, n_head, num_splits)
  unsigned* tickets;   // (tokens, n_head), 0 between launches
  BFloat16* out;       // activations of n_head * head_dim channels
};
void launch_attention(const Launcher& where, const Attention& p, int num_tokens);

// W times activations, for rows of W.
struct Gemm {
  const uint4* weights;
  const BFloat16* activations;
  int rows;      // a multiple of kRowPadding
  int channels;  // a multiple of kBlockChannels
};

// x += W y, and what stands between the blocks of the model.
struct AddToStream {
  const float* x = nullptr;
  float* mid_out = nullptr;   // where the stream is kept for the backout, if it is
  const float* x0 = nullptr;  // null without lambdas
  float lambda = 1, lambda0 = 0;
  const float* mid = nullptr;  // what the backout takes away, if there is one
  float backout = 0;
  const int32_t* slot = nullptr;  // where the token goes in `out`, -1: nowhere; null: its own place
  Residual out{};                 // out.x may be null
};
void launch_add_to_stream(const Launcher& where, const Gemm& gemm, const AddToStream& p,
                          int num_tokens);

// relu(W norm(x))^2
struct SquaredRelu {
  Residual in;
  BFloat16* out;  // activations of `rows` channels
};
void launch_squared_relu(const Launcher& where, const Gemm& gemm, const SquaredRelu& p,
                         int num_tokens);

// W norm(x), fp32.
struct Logits {
  Residual in;
  float* out;      // (tokens, stride)
  int64_t stride;  // the rows of W
};
void launch_logits(const Launcher& where, const Gemm& gemm, const Logits& p, int num_tokens);

// One token to settle, as engine::Draw.
struct DeviceDraw {
  int64_t row;  // of the logits
  double temperature, top_p, min_p;
  float penalty;
  int top_k;
  int num_logprobs;
  int num_seen;
  int64_t first_seen;  // in Sample::seen
  uint64_t seed, sample, position;
};

inline constexpr int kMaxTop = 32;  // likeliest tokens that a draw can ask for

struct DeviceDrawn {
  enum Status : int { kGood, kNotANumber, kNoneFinite };
  Status status;
  int32_t token;
  float logprob;
  int32_t top[kMaxTop];
  float top_logprobs[kMaxTop];
};

struct Sample {
  const float* logits;  // (rows, stride)
  int64_t stride;
  int vocab_size;
  float softcap;  // 0: none
  const DeviceDraw* draws;
  const int32_t* seen;
  float* values;  // (draws, stride): softcapped logits after the penalty
  float* scores;  // (draws, stride): with the noise
  DeviceDrawn* drawn;
};
void launch_sample(const Launcher& where, const Sample& p, int num_draws);

// What was drawn becomes the step's next token, draw i of token i.
struct Advance {
  const DeviceDrawn* drawn;
  DeviceDraw* draws;
  int32_t *token, *previous, *position;  // of Step
};
void launch_advance(const Launcher& where, const Advance& p, int num_tokens);

}  // namespace nanochat::engine::cuda
