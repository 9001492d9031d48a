// Arrays as other producers than pyarrow may lay them out.
#include "bpe/arrow.h"

#include <vector>

#include "require.h"

namespace {

using namespace nanochat::bpe;

void test_buffers_may_be_missing() {
  const int32_t offsets[] = {0, 0, 0};
  const void* buffers[] = {nullptr, nullptr, nullptr};
  ArrowSchema schema{};
  schema.format = "u";
  ArrowArray array{};
  array.n_buffers = 3;
  array.buffers = buffers;
  std::vector<Text> texts;
  append_texts(schema, array, 0, texts);
  REQUIRE(texts.empty());
  array.length = 2;  // empty texts: offsets, but no bytes
  buffers[1] = offsets;
  append_texts(schema, array, 0, texts);
  REQUIRE(texts.size() == 2 && texts[0].length == 0 && texts[1].length == 0);
}

}  // namespace

int main() {
  test_buffers_may_be_missing();
}
