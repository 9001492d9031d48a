// A vocabulary small enough to follow by hand.
#pragma once

#include <string>
#include <vector>

inline std::vector<std::string> small_vocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), {"ab", "ba", "abab", " a", "aa", "aaaa", "abababab"});
  return tokens;
}
