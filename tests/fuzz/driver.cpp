// main of a fuzz target where there is no libFuzzer: mutates at random, knows nothing of coverage.
//
//   fuzz_X [--seconds 60] [--seed 1]    inputs of its own, the same ones for the same seed
//   fuzz_X FILE...                      replays files
//
// An input that ends the process (signal, sanitizer, uncaught exception, or more than
// kTimeoutSeconds) is left in crash-<hash>.bin in the working directory.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kMaxSize = 4096;         // bytes of an input
constexpr size_t kPoolSize = 256;         // inputs that mutations start from
constexpr unsigned kTimeoutSeconds = 30;  // of one input, sanitized

const Bytes* current = nullptr;  // the input being run; read by handlers, so a bare pointer

// Async-signal-safe: no allocation, no stdio.
void save_current() {
  if (current == nullptr) return;
  const Bytes& input = *std::exchange(current, nullptr);
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const uint8_t byte : input) hash = (hash ^ byte) * 0x100000001b3;
  char path[] = "crash-0123456789abcdef.bin";
  for (int i = 0; i < 16; ++i) path[6 + i] = "0123456789abcdef"[hash >> (60 - 4 * i) & 15];
  const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool is_saved =
      file >= 0 && write(file, input.data(), input.size()) == static_cast<ssize_t>(input.size());
  const std::string_view before = is_saved ? "\nfuzz: the input is in " : "\nfuzz: cannot write ";
  if (write(STDERR_FILENO, before.data(), before.size()) < 0 ||
      write(STDERR_FILENO, path, sizeof(path) - 1) < 0 || write(STDERR_FILENO, "\n", 1) < 0) {
    return;  // nobody is left to tell
  }
}

void on_signal(int number) {
  save_current();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

void catch_crashes() {
  std::signal(SIGABRT, on_signal);  // abort() of a target, and uncaught exceptions
  std::signal(SIGALRM, on_signal);
  if (__sanitizer_set_death_callback != nullptr) {  // it reports the other signals itself
    __sanitizer_set_death_callback(save_current);
    return;
  }
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, on_signal);
}

void run(const Bytes& input) {
  current = &input;
  alarm(kTimeoutSeconds);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  alarm(0);
  current = nullptr;
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : rng_(seed), pool_(kPoolSize) {
    for (Bytes& input : pool_) insert_random(input, 0);
    pool_[0].clear();
  }

  // A new input, which takes the place of another in the pool: mutations add up.
  const Bytes& next() {
    Bytes input = pool_[below(kPoolSize)];
    for (size_t n = 1 + below(4); n > 0; --n) mutate(input);
    if (input.size() > kMaxSize) input.resize(kMaxSize);
    Bytes& place = pool_[below(kPoolSize)];
    place = std::move(input);
    return place;
  }

 private:
  // Not std::uniform_int_distribution, which differs between libraries.
  size_t below(size_t n) { return static_cast<size_t>(rng_() % n); }

  void mutate(Bytes& input) {
    const size_t at = below(input.size() + 1);
    const size_t length = std::min(input.size() - at, below(32) + 1);
    const auto begin = input.begin() + static_cast<std::ptrdiff_t>(at);
    const auto end = begin + static_cast<std::ptrdiff_t>(length);
    switch (below(8)) {
      case 0:
        input.erase(begin, end);
        break;
      case 1:
        insert_random(input, at);
        break;
      case 2: {  // repeat a stretch
        const Bytes copy(begin, end);
        for (size_t n = 1 + below(8); n > 0; --n) insert(input, at, copy);
        break;
      }
      case 3: {  // the end of another input
        const Bytes& other = pool_[below(kPoolSize)];
        const Bytes tail(other.begin() + static_cast<std::ptrdiff_t>(below(other.size() + 1)),
                         other.end());
        input.resize(at);
        insert(input, at, tail);
        break;
      }
      case 4:
        if (length > 0) *begin ^= static_cast<uint8_t>(1 << below(8));
        break;
      case 5:
        if (length > 0) *begin += static_cast<uint8_t>(below(2) * 2 - 1);
        break;
      case 6:
        std::fill(begin, end, kEdges[below(kEdges.size())]);
        break;
      default:
        if (length > 0) *begin = static_cast<uint8_t>(rng_());
    }
  }

  void insert_random(Bytes& input, size_t at) {
    Bytes random(size_t{1} << below(9));
    for (uint8_t& byte : random) byte = static_cast<uint8_t>(rng_());
    insert(input, at, random);
  }

  static void insert(Bytes& input, size_t at, const Bytes& what) {
    input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), what.begin(), what.end());
  }

  static constexpr std::array<uint8_t, 10> kEdges = {0,    1,    ' ',  '\n', 'a',
                                                     0x7F, 0x80, 0xC3, 0xF0, 0xFF};

  std::mt19937_64 rng_;
  std::vector<Bytes> pool_;
};

void replay(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "fuzz: cannot read %s\n", path);
    std::exit(2);
  }
  run(Bytes(std::istreambuf_iterator<char>(file), {}));
}

void fuzz(double seconds, uint64_t seed) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  Mutator mutator(seed);
  uint64_t executions = 0;
  for (; Clock::now() < end; ++executions) run(mutator.next());
  std::printf("fuzz: %llu executions, seed %llu\n", static_cast<unsigned long long>(executions),
              static_cast<unsigned long long>(seed));
}

double number(const char* option, const char* text) {
  char* end = nullptr;
  const double value = text == nullptr ? -1 : std::strtod(text, &end);
  if (text == nullptr || end == text || *end != '\0' || value < 0) {
    std::fprintf(stderr, "fuzz: %s must be a number of at least 0, got %s\n", option,
                 text == nullptr ? "nothing" : text);
    std::exit(2);
  }
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 60;
  uint64_t seed = 1;
  std::vector<const char*> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--seconds") {
      seconds = number("--seconds", argv[++i]);
    } else if (argument == "--seed") {
      seed = static_cast<uint64_t>(number("--seed", argv[++i]));
    } else {
      files.push_back(argv[i]);
    }
  }
  catch_crashes();
  for (const char* path : files) replay(path);
  if (files.empty()) fuzz(seconds, seed);
}
