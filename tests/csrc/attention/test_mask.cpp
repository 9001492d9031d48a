// Tile bounds against the definition, key by key, for all small T, windows and tiles.
#include "attention/mask.h"

#include <initializer_list>

#include "require.h"

namespace {

using namespace nanochat::attention;

constexpr int kMaxT = 41;

// By the definition: is any, and are all, of the pairs visible?
Seen seen_by_definition(int query, int num_queries, int key, int num_keys, int window) {
  bool any = false, all = true;
  for (int i = query; i < query + num_queries; ++i) {
    for (int j = key; j < key + num_keys; ++j) {
      const bool is_seen = j <= i && i - j <= window;
      REQUIRE(is_visible(i, j, window) == is_seen);
      any = any || is_seen;
      all = all && is_seen;
    }
  }
  return all ? Seen::kAll : any ? Seen::kSome : Seen::kNone;
}

// kSome where the definition says kNone costs time; the converse would be wrong. Neither happens.
void test_seen() {
  for (const int num_queries : {1, 4, 8}) {
    for (const int num_keys : {1, 4, 8}) {
      for (int query = 0; query < 32; query += num_queries) {
        for (int key = 0; key < 32; key += num_keys) {
          for (int window = 0; window <= 40; ++window) {
            REQUIRE(seen(query, num_queries, key, num_keys, window) ==
                    seen_by_definition(query, num_queries, key, num_keys, window));
          }
        }
      }
    }
  }
}

// The first and the last tile of either range hold a visible pair, and no other tile does.
template <int kBlockM, int kBlockN>
void test_ranges() {
  const auto is_seen = [](int query, int key, int T, int window) {
    for (int i = query; i < query + kBlockM && i < T; ++i) {
      for (int j = key; j < key + kBlockN && j < T; ++j) {
        if (j <= i && i - j <= window) return true;
      }
    }
    return false;
  };
  for (int T = 1; T <= kMaxT; ++T) {
    for (int window = 0; window <= T; ++window) {
      const int num_query_tiles = (T + kBlockM - 1) / kBlockM;
      const int num_key_tiles = (T + kBlockN - 1) / kBlockN;
      for (int m = 0; m < num_query_tiles; ++m) {
        const TileRange keys = key_tiles<kBlockM, kBlockN>(m * kBlockM, T, window);
        REQUIRE(keys.first >= 0 && keys.first < keys.end && keys.end <= num_key_tiles);
        for (int n = 0; n < num_key_tiles; ++n) {
          REQUIRE((n >= keys.first && n < keys.end) ==
                  is_seen(m * kBlockM, n * kBlockN, T, window));
        }
      }
      for (int n = 0; n < num_key_tiles; ++n) {
        const TileRange queries = query_tiles<kBlockM, kBlockN>(n * kBlockN, T, window);
        REQUIRE(queries.first >= 0 && queries.first < queries.end);
        REQUIRE(queries.end <= num_query_tiles);
        for (int m = 0; m < num_query_tiles; ++m) {
          REQUIRE((m >= queries.first && m < queries.end) ==
                  is_seen(m * kBlockM, n * kBlockN, T, window));
        }
      }
    }
  }
}

}  // namespace

int main() {
  test_seen();
  test_ranges<8, 4>();
  test_ranges<4, 8>();
  test_ranges<4, 4>();
  test_ranges<16, 4>();
}
