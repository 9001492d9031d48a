// Which keys a query sees, one by one and for whole tiles, so that loops begin and end where the
// mask does and only tiles on its edges look at single elements.
//
//                 keys
//            | edge | full | diag |                        i - window <= j <= i
//   queries         | edge | full | diag |
//                          | edge | full | diag |          blank tiles are never read
#pragma once

#include "common/dtype.h"

namespace nanochat::attention {

[[nodiscard]] NANOCHAT_HD bool is_visible(int query, int key, int window) {
  return key <= query && key >= query - window;
}

enum class Seen { kNone, kSome, kAll };

// Of num_keys keys from `key` on, by num_queries queries from `query` on.
[[nodiscard]] NANOCHAT_HD Seen seen(int query, int num_queries, int key, int num_keys, int window) {
  const int last_query = query + num_queries - 1, last_key = key + num_keys - 1;
  if (key > last_query || last_key < query - window) return Seen::kNone;
  return last_key <= query && key >= last_query - window ? Seen::kAll : Seen::kSome;
}

// Tiles first .. end - 1.
struct TileRange {
  int first, end;
};

// Tiles of kBlockN keys that hold a key which a query of [query, query + kBlockM) sees; query < T.
template <int kBlockM, int kBlockN>
[[nodiscard]] NANOCHAT_HD TileRange key_tiles(int query, int T, int window) {
  const int first_key = query > window ? query - window : 0;
  const int last_key = (query + kBlockM < T ? query + kBlockM : T) - 1;
  return {first_key / kBlockN, last_key / kBlockN + 1};
}

// Tiles of kBlockM queries that hold a query which sees a key of [key, key + kBlockN); key < T.
template <int kBlockM, int kBlockN>
[[nodiscard]] NANOCHAT_HD TileRange query_tiles(int key, int T, int window) {
  const int last_key = (key + kBlockN < T ? key + kBlockN : T) - 1;
  const int last_query = window < T - 1 - last_key ? last_key + window : T - 1;
  return {key / kBlockM, last_query / kBlockM + 1};
}

}  // namespace nanochat::attention
