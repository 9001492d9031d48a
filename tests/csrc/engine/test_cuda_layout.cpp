// Index arithmetic of the CUDA engine: the packed order against the definition of the mma, the
// splits of attention, what a step tells the device.
#include "engine/cuda/layout.h"

#include <array>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "engine/cuda/pack.h"
#include "engine/cuda/step_plan.h"
#include "require.h"

namespace {

using namespace nanochat;
using namespace nanochat::engine;
using namespace nanochat::engine::cuda;

TensorView view_of(std::vector<float>& values, int64_t rows, int64_t channels) {
  return {.data = values.data(),
          .dtype = DType::kFloat32,
          .rank = 2,
          .sizes = {rows, channels},
          .strides = {channels, 1}};
}

std::vector<float> small_integers(std::mt19937& rng, int64_t size) {
  std::vector<float> values(size);
  for (float& x : values) x = static_cast<float>(static_cast<int>(rng() % 17) - 8);
  return values;
}

// What lane `lane` of mma.m16n8k16 has: element (row, k) of A at a[i], (k, column) of B at b[i],
// (row, column) of C at c[i].
struct Place {
  int row, column;
};
Place place_of_a(int lane, int i) {
  return {lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
Place place_of_b(int lane, int i) {
  return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}

// Multiplies as a warp does: 16 bytes of packed weights and of activations to a lane, two steps a
// block of 32 channels.
void test_packed_order_feeds_the_mma() {
  std::mt19937 rng(1);
  constexpr int kRows = 48, kChannels = 96, kTokens = 72;
  std::vector<float> w = small_integers(rng, kRows * kChannels);
  const std::vector<float> x = small_integers(rng, kTokens * kChannels);
  std::vector<float> first(w.begin(), w.begin() + 40 * kChannels);
  std::vector<float> second(w.begin() + 40 * kChannels, w.end());
  const std::vector<BFloat16> packed =
      pack(std::array{view_of(first, 40, kChannels), view_of(second, kRows - 40, kChannels)});
  REQUIRE(packed.size() == 64 * kChannels);  // up to a multiple of 32 rows
  std::vector<BFloat16> activations(2 * kTokenTile * kChannels);
  for (int token = 0; token < kTokens; ++token) {
    for (int c = 0; c < kChannels; ++c) {
      activations[activation_index(token, c, kChannels)] = to_bfloat16(x[token * kChannels + c]);
    }
  }

  constexpr int kBlocks = kChannels / kBlockChannels;
  for (int row_tile = 0; row_tile < 64 / kMmaRows; ++row_tile) {
    for (int column = 0; column < kTokens / kMmaTokens; ++column) {
      float c[16][8] = {};
      for (int block = 0; block < kBlocks; ++block) {
        const int64_t rows = (int64_t{row_tile} * kBlocks + block) * kBlockVectors * 8;
        const int64_t columns =
            ((int64_t{column} / 8 * kBlocks + block) * kTokenTile + column % 8 * kMmaTokens) *
            kBlockChannels;
        for (int step = 0; step < 2; ++step) {
          float a[16][16], b[16][8];
          for (int lane = 0; lane < 32; ++lane) {
            for (int i = 0; i < 8; ++i) {
              const Place place = place_of_a(lane, i);
              a[place.row][place.column] = to_float(packed[rows + (step * 32 + lane) * 8 + i]);
            }
            for (int i = 0; i < 4; ++i) {
              const Place place = place_of_b(lane, i);
              b[place.row][place.column] = to_float(activations[columns + lane * 8 + step * 4 + i]);
            }
          }
          for (int i = 0; i < 16; ++i) {
            for (int j = 0; j < 8; ++j) {
              for (int k = 0; k < 16; ++k) c[i][j] += a[i][k] * b[k][j];
            }
          }
        }
      }
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) {
          const int row = row_tile * 16 + i, token = column * 8 + j;
          float want = 0;
          for (int k = 0; row < kRows && k < kChannels; ++k) {
            want += w[row * kChannels + k] * x[token * kChannels + k];
          }
          REQUIRE(c[i][j] == want);
        }
      }
    }
  }
}

void test_indices_fill_their_arrays() {
  std::set<int64_t> packed, activations, squares;
  for (int i = 0; i < 64; ++i) {
    for (int c = 0; c < 64; ++c) {
      packed.insert(packed_index(i, c, 64));
      activations.insert(activation_index(i + 64, c, 64));
    }
    for (int slot = 0; slot < 4; ++slot) squares.insert(squares_index(i + 64, slot, 64));
  }
  REQUIRE(packed.size() == 4096 && *packed.begin() == 0 && *packed.rbegin() == 4095);
  REQUIRE(activations.size() == 4096 && *activations.begin() == 4096);
  REQUIRE(*activations.rbegin() == 8191);
  REQUIRE(squares.size() == 256 && *squares.begin() == 256 && *squares.rbegin() == 511);

  const KvLayout kv{.n_layer = 3, .n_kv_head = 2, .head_dim = 64};
  int64_t next = 5 * kv.page_elements();
  for (int layer = 0; layer < 3; ++layer) {
    for (int is_value = 0; is_value < 2; ++is_value) {
      for (int head = 0; head < 2; ++head) {
        REQUIRE(kv.offset(5, layer, is_value, head) == next);
        next += kPageTokens * 64;
      }
    }
  }
  REQUIRE(next == 6 * kv.page_elements());
}

// The splits of a query cover its visible keys, each once, and never more than the grid has.
void test_splits_cover_the_visible_keys() {
  for (const int window : {-1, 0, 1, 63, 255, 256, 257, 512, 900}) {
    for (const int seq_len : {1, 255, 256, 257, 600, 1024}) {
      int most = 0;
      for (int position = 0; position < seq_len; ++position) {
        const Splits splits = splits_of(position, window);
        REQUIRE(splits.first_key == (window < 0 ? 0 : std::max(0, position - window)));
        REQUIRE(splits.first_split * kSplitKeys <= splits.first_key);
        REQUIRE(splits.first_key < (splits.first_split + 1) * kSplitKeys);
        REQUIRE((splits.first_split + splits.count - 1) * kSplitKeys <= position);
        REQUIRE(position < (splits.first_split + splits.count) * kSplitKeys);
        most = std::max(most, splits.count);
      }
      REQUIRE(most <= max_splits(seq_len, window));
      REQUIRE(window >= 0 || most == max_splits(seq_len, window));
    }
  }
}

void test_columns_hold_the_tokens() {
  for (int n = 1; n <= 64; ++n) {
    REQUIRE(mma_columns(n) * 8 >= n && (mma_columns(n) == 1 || mma_columns(n) * 4 < n));
  }
  REQUIRE(mma_columns(65) == 8 && mma_columns(1000) == 8);
}

constexpr StepLayout kLayout{.capacity = 64,
                             .table_stride = 3,
                             .num_pages = 9,
                             .vocab_size = 50,
                             .seq_len = 192,
                             .max_tokens = 10};

void test_step_says_what_the_chunks_say() {
  const std::vector<int32_t> one{7}, three{1, 2, 3}, short_table{4}, long_table{8, 0, 5, 6};
  const std::array chunks{
      Chunk{.tokens = three, .position = 62, .previous = 9, .pages = long_table, .num_logits = 2},
      Chunk{.tokens = one, .position = 0, .previous = -1, .pages = short_table, .num_logits = 1}};
  const StepPlan plan = check_chunks(kLayout, chunks);
  REQUIRE(plan.num_tokens == 4 && plan.num_rows == 3 && !plan.is_decode);
  REQUIRE(plan.num_words == 5 * 64 + 2 * 3);
  REQUIRE(check_chunks(kLayout, std::span(chunks).last(1)).is_decode);

  std::vector<int32_t> words(kLayout.num_words(), 77);
  write_step(kLayout, chunks, words);
  const auto is = [&](StepLayout::Field field, std::vector<int32_t> want, int32_t padding) {
    want.resize(kLayout.capacity, padding);
    return std::equal(want.begin(), want.end(), words.begin() + kLayout.offset(field));
  };
  REQUIRE(is(StepLayout::kToken, {1, 2, 3, 7}, 0));
  REQUIRE(is(StepLayout::kPrevious, {9, 1, 2, -1}, -1));
  REQUIRE(is(StepLayout::kPosition, {62, 63, 64, 0}, -1));
  REQUIRE(is(StepLayout::kSequence, {0, 0, 0, 1}, 0));
  REQUIRE(is(StepLayout::kSlot, {-1, 0, 1, 2}, -1));
  const std::vector<int32_t> tables{8, 0, 5, 4};
  REQUIRE(std::equal(tables.begin(), tables.end(), words.begin() + kLayout.tables()));
}

template <typename Call>
bool is_refused(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

void test_chunks_that_break_a_rule_are_refused() {
  const std::vector<int32_t> tokens{1, 2, 3}, pages{4, 5, 6}, wrong{50}, far{9};
  const Chunk good{.tokens = tokens, .position = 64, .previous = 0, .pages = pages};
  REQUIRE(!is_refused([&] { (void)check_chunks(kLayout, std::array{good}); }));
  const auto refused = [&](auto change) {
    Chunk chunk = good;
    change(chunk);
    return is_refused([&] { (void)check_chunks(kLayout, std::array{chunk}); });
  };
  REQUIRE(refused([](Chunk& c) { c.tokens = {}; }));
  REQUIRE(refused([&](Chunk& c) { c.tokens = wrong; }));
  REQUIRE(refused([](Chunk& c) { c.previous = 50; }));
  REQUIRE(refused([](Chunk& c) { c.previous = -1; }));
  REQUIRE(refused([](Chunk& c) { c.position = 0; }));
  REQUIRE(refused([](Chunk& c) { c.position = 190; }));
  REQUIRE(refused([](Chunk& c) { c.num_logits = 4; }));
  REQUIRE(refused([&](Chunk& c) { c.pages = c.pages.first(1); }));
  REQUIRE(refused([&](Chunk& c) { c.pages = far; }));
  REQUIRE(is_refused([&] { (void)check_chunks(kLayout, {}); }));
  REQUIRE(is_refused([&] { (void)check_chunks(kLayout, std::array{good, good, good, good}); }));
}

void test_tensors_of_another_kind_are_refused() {
  std::vector<float> values(12);
  Tensors tensors{{"w", view_of(values, 3, 4)}};
  REQUIRE(find_tensor(tensors, "w", {3, 4}).data == values.data());
  REQUIRE(find_tensor(tensors, "w", {kAnyRows, 4}).data == values.data());
  REQUIRE(is_refused([&] { (void)find_tensor(tensors, "v", {3, 4}); }));
  REQUIRE(is_refused([&] { (void)find_tensor(tensors, "w", {4, 4}); }));
  REQUIRE(is_refused([&] { (void)find_tensor(tensors, "w", {12}); }));
  tensors["w"].strides = {1, 3};
  REQUIRE(is_refused([&] { (void)find_tensor(tensors, "w", {3, 4}); }));
  tensors["w"] = view_of(values, 3, 4);
  tensors["w"].dtype = DType::kInt64;
  REQUIRE(is_refused([&] { (void)find_tensor(tensors, "w", {3, 4}); }));
}

}  // namespace

int main() {
  test_packed_order_feeds_the_mma();
  test_indices_fill_their_arrays();
  test_splits_cover_the_visible_keys();
  test_columns_hold_the_tokens();
  test_step_says_what_the_chunks_say();
  test_chunks_that_break_a_rule_are_refused();
  test_tensors_of_another_kind_are_refused();
}
