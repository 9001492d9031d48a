// Bytes -> operations of several sequences on one cache, beside the plain account of it.
#include <cstddef>
#include <cstdint>

#include "engine/kv_cache_reference.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  nanochat::fuzz::Input input(data, size);
  const auto below = [&](size_t n) { return input.below(n); };
  nanochat::engine::play_with_reference(below, [&] { return !input.empty(); });
  return 0;
}
