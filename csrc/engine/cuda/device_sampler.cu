#include "engine/cuda/device_sampler.h"

#include <algorithm>
#include <stdexcept>

namespace nanochat::engine::cuda {
namespace {

void check_draw(const Draw& draw, int vocab_size, int max_seen) {
  const SamplingParams& params = *draw.params;
  check_params(params);
  check(params.num_logprobs <= kMaxTop, "sampler: num_logprobs must be at most ", kMaxTop,
        " on CUDA, got ", params.num_logprobs);
  if (params.repetition_penalty == 1) return;
  check(static_cast<int64_t>(draw.seen.size()) <= max_seen, "sampler: at most ", max_seen,
        " tokens can have been seen, got ", draw.seen.size());
  for (const int32_t token : draw.seen) {
    if (token >= 0 && token < vocab_size) continue;
    throw std::out_of_range(
        concat("sampler: tokens seen must be 0 to ", vocab_size - 1, ", got ", token));
  }
}

void copy(const Launcher& where, void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  if (size == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, size, kind, where.stream), "engine: copy of draws");
}

}  // namespace

DeviceSampler::DeviceSampler(int max_draws, int max_drawn, int vocab_size, int64_t stride,
                             float softcap, int max_seen)
    : max_draws_(max_draws),
      vocab_size_(vocab_size),
      max_seen_(max_seen),
      stride_(stride),
      softcap_(softcap),
      values_(static_cast<size_t>(max_draws * stride)),
      scores_(static_cast<size_t>(max_draws * stride)),
      draws_(static_cast<size_t>(max_draws)),
      seen_(static_cast<size_t>(max_draws) * static_cast<size_t>(max_seen)),
      drawn_(static_cast<size_t>(max_drawn)),
      host_draws_(static_cast<size_t>(max_draws)),
      host_seen_(static_cast<size_t>(max_draws) * static_cast<size_t>(max_seen)),
      host_drawn_(static_cast<size_t>(max_drawn)) {}

void DeviceSampler::sample(const Launcher& where, const float* logits, std::span<const Draw> draws,
                           std::span<Drawn> drawn) {
  while (!draws.empty()) {
    const size_t size = std::min(draws.size(), static_cast<size_t>(max_draws_));
    send(where, draws.first(size));
    draw(where, logits, size, 0);
    const std::span<const DeviceDrawn> fetched = fetch(where, size);
    for (size_t i = 0; i < size; ++i) drawn[i] = to_drawn(fetched[i], draws[i]);
    draws = draws.subspan(size);
    drawn = drawn.subspan(size);
  }
}

void DeviceSampler::send(const Launcher& where, std::span<const Draw> draws) {
  for (const Draw& draw : draws) check_draw(draw, vocab_size_, max_seen_);
  int64_t num_seen = 0;
  for (size_t i = 0; i < draws.size(); ++i) {
    const Draw& draw = draws[i];
    const SamplingParams& params = *draw.params;
    const auto seen = params.repetition_penalty == 1 ? std::span<const int32_t>() : draw.seen;
    host_draws_.span()[i] = {.row = draw.row,
                             .temperature = params.temperature,
                             .top_p = params.top_p,
                             .min_p = params.min_p,
                             .penalty = static_cast<float>(params.repetition_penalty),
                             .top_k = params.top_k,
                             .num_logprobs = params.num_logprobs,
                             .num_seen = static_cast<int>(seen.size()),
                             .first_seen = num_seen,
                             .seed = draw.seed,
                             .sample = draw.sample,
                             .position = static_cast<uint64_t>(draw.position)};
    std::ranges::copy(seen, host_seen_.span().begin() + num_seen);
    num_seen += static_cast<int64_t>(seen.size());
  }
  copy(where, draws_.data(), host_draws_.span().data(), draws.size() * sizeof(DeviceDraw),
       cudaMemcpyHostToDevice);
  copy(where, seen_.data(), host_seen_.span().data(),
       static_cast<size_t>(num_seen) * sizeof(int32_t), cudaMemcpyHostToDevice);
}

void DeviceSampler::draw(const Launcher& where, const float* logits, size_t num_draws,
                         size_t first) {
  launch_sample(where,
                {.logits = logits,
                 .stride = stride_,
                 .vocab_size = vocab_size_,
                 .softcap = softcap_,
                 .draws = draws_.data(),
                 .seen = seen_.data(),
                 .values = values_.data(),
                 .scores = scores_.data(),
                 .drawn = drawn_.data() + first},
                static_cast<int>(num_draws));
}

std::span<const DeviceDrawn> DeviceSampler::fetch(const Launcher& where, size_t num_drawn) {
  copy(where, host_drawn_.span().data(), drawn_.data(), num_drawn * sizeof(DeviceDrawn),
       cudaMemcpyDeviceToHost);
  check_cuda(cudaStreamSynchronize(where.stream), "engine: step");
  return host_drawn_.span().first(num_drawn);
}

Drawn DeviceSampler::to_drawn(const DeviceDrawn& from, const Draw& draw) const {
  const int num_logprobs = draw.params->num_logprobs;
  if (from.status == DeviceDrawn::kNotANumber) {
    throw std::domain_error(
        "sampler: logits must be numbers, got NaN or inf; the model overflows: check its weights, "
        "or run it in fp32");
  }
  if (from.status == DeviceDrawn::kNoneFinite) {
    throw std::domain_error(concat("sampler: a logit must be finite, got -inf for all ",
                                   vocab_size_, " tokens; allow one"));
  }
  Drawn drawn{.token = from.token, .logprob = num_logprobs >= 0 ? from.logprob : 0, .top = {}};
  for (int i = 0; i < std::min(num_logprobs, vocab_size_); ++i) {
    drawn.top.push_back({from.top[i], from.top_logprobs[i]});
  }
  return drawn;
}

}  // namespace nanochat::engine::cuda
