#include "engine/model.h"

namespace nanochat::engine {

void Model::decode(std::span<const Chunk> chunks, std::span<const Draw> draws, int num_steps,
                   std::span<Drawn> drawn) {
  std::vector<Chunk> now(chunks.begin(), chunks.end());
  std::vector<Draw> next(draws.begin(), draws.end());
  std::vector<int32_t> tokens(now.size());
  std::vector<Drawn> step(now.size());
  for (int k = 0; k < num_steps; ++k) {
    forward(now);
    sample(next, step);
    for (size_t i = 0; i < now.size(); ++i) {
      now[i].previous = now[i].tokens.front();
      tokens[i] = step[i].token;
      now[i].tokens = {&tokens[i], 1};
      ++now[i].position;
      ++next[i].position;
      drawn[i * static_cast<size_t>(num_steps) + static_cast<size_t>(k)] = std::move(step[i]);
    }
  }
}

}  // namespace nanochat::engine
