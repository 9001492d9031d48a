// Errors that cross the boundary to a caller: a broken rule, or a combination that this build does
// not serve.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace nanochat {

// Becomes NotImplementedError in Python: a legal request that no kernel here serves.
class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Becomes RuntimeError in Python.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// check(D % 2 == 0, "prepass: head_dim must be even, got ", D): std::invalid_argument unless the
// rule holds.
template <typename... Parts>
void check(bool rule, const Parts&... parts) {
  if (!rule) throw std::invalid_argument(concat(parts...));
}

}  // namespace nanochat
