// The step on the CPU: as many matrices at once as there are threads, each in its phases, so that
// a matrix (1 MB or less up to width 512) stays in the caches from its gradient to its update.
//
//   begin   momentum, row norms; unit rows into strips of X and of X^T       rows of the matrix
//   5 times gram, poly, update: three products of strips (strips.h)           columns of tiles
//   end     sums of squares; factors; update of the parameters                rows or strips
//
// Who computes a tile or a row does not change its bits, so neither does the number of threads.
#include <algorithm>
#include <vector>

#include "common/huge_array.h"
#include "common/team.h"
#include "muon/muon.h"
#include "muon/muon_row.h"
#include "muon/polar_express.h"
#include "muon/strips.h"

namespace nanochat::muon {
namespace {

using simd::for_each_step;
using simd::read;
using simd::write;

struct BaseLevel {
  static constexpr int kLanes = 4;
  template <typename Body>
  [[gnu::noinline]] static void run(const Body& body) {
    body();
  }
};

#if defined(__x86_64__)
struct Avx2Level {
  static constexpr int kLanes = 8;
  template <typename Body>
  static void run(const Body& body) {
    run_avx2([&](auto) NANOCHAT_INLINE_LAMBDA { body(); });
  }
};

struct Avx512Level {
  static constexpr int kLanes = 16;
  template <typename Body>
  static void run(const Body& body) {
    run_avx512([&](auto) NANOCHAT_INLINE_LAMBDA { body(); });
  }
};

struct Avx512Bf16Level {
  static constexpr int kLanes = 16;
  template <typename Body>
  [[gnu::target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"),
    gnu::noinline]] static void
  run(const Body& body) {
    body();
  }
};
#endif

// Rows of one strip's height: momentum, then g in rows of norm 1 as strips, padded with zeros.
template <typename A, typename T>
NANOCHAT_HD void begin_rows(const T* grads, float* buffers, const Momentum& momentum, int64_t m,
                            int64_t n, int64_t first_row, const Strips<A>& straight,
                            const Strips<A>& transposed, float* norms) {
  using V = typename A::Acc;
  const int64_t end = std::min<int64_t>(first_row + A::kLanes, m);
  for (int64_t r = first_row; r < end; ++r) {
    const T* grad = grads + r * n;
    float* buffer = buffers + r * n;
    simd::RowSum<V, float> sum;
    for_each_step<V, float>(n, [&](auto tag, int64_t j) NANOCHAT_INLINE_LAMBDA {
      using F = typename decltype(tag)::type;
      const F g = read<F>(grad + j);
      const F b = momentum.buffer(read<F>(buffer + j), g);
      write<F>(buffer + j, b);
      const F x = momentum.nesterov(g, b);
      sum.add(x * x);
    });
    norms[r] = std::sqrt(sum.total());
  }
  const auto element = [&](auto tag, int64_t r, int64_t j) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    return momentum.nesterov(read<F>(grads + r * n + j), read<F>(buffers + r * n + j)) *
           (1.0f / at_least(norms[r], kMinNorm));
  };
  for (int64_t i = first_row; i < first_row + A::kLanes; i += A::kRows) {
    for (int64_t j = 0; j < n; j += A::kLanes) {
      V rows[A::kRows] = {};
      for (int r = 0; r < A::kRows && i + r < m; ++r) {
        if (j + A::kLanes <= n) {
          rows[r] = element(TypeTag<V>{}, i + r, j);
        } else {
          for (int64_t c = j; c < n; ++c) rows[r][c - j] = element(TypeTag<float>{}, i + r, c);
        }
      }
      store_straight<A>(rows, straight, j / A::kLanes, i);
      store_transposed<A>(rows, transposed, j / A::kLanes, i);
    }
  }
}

// Squares of the rows of one word, or of the columns of one strip.
template <typename A>
NANOCHAT_HD void square_rows(const Strips<A>& x, int64_t num_strips, int64_t word, float* squares) {
  typename A::Acc sums[A::kPack] = {};
  for (int64_t strip = 0; strip < num_strips; ++strip) {
    typename A::Acc rows[A::kPack];
    A::unpack(x.load(strip, word), rows);
    for (int r = 0; r < A::kPack; ++r) sums[r] += rows[r] * rows[r];
  }
  for (int r = 0; r < A::kPack; ++r) {
    squares[r] = 0.0f;
    for (int lane = 0; lane < A::kLanes; ++lane) squares[r] += sums[r][lane];
  }
}

template <typename A>
NANOCHAT_HD void square_columns(const Strips<A>& x, int64_t strip, float* squares) {
  typename A::Acc sum = {};
  for (int64_t word = 0; word < x.depth; ++word) {
    typename A::Acc rows[A::kPack];
    A::unpack(x.load(strip, word), rows);
    for (int r = 0; r < A::kPack; ++r) sum += rows[r] * rows[r];
  }
  write<typename A::Acc>(squares, sum);
}

// The rows of one word: p -= ..., with a factor for each row or for each column.
template <typename A, typename T>
NANOCHAT_HD void end_rows(T* params, const Strips<A>& x, const float* factors, bool is_by_row,
                          const Update& update, int64_t m, int64_t n, int64_t word) {
  using V = typename A::Acc;
  for (int64_t j = 0; j < n; j += A::kLanes) {
    V rows[A::kPack];
    A::unpack(x.load(j / A::kLanes, word), rows);
    for (int h = 0; h < A::kPack && word * A::kPack + h < m; ++h) {
      const int64_t r = word * A::kPack + h;
      const V factor = is_by_row ? factors[r] - V{} : read<V>(factors + j);
      const V g = rows[h] * factor;
      T* p = params + r * n + j;
      if (j + A::kLanes <= n) {
        write<V>(p, update.param(read<V>(p), g));
      } else {
        for (int64_t c = 0; c < n - j; ++c) store(p[c], update.param(load(p[c]), g[c]));
      }
    }
  }
}

// Calls body(i) for i in [0, n) on the threads of a team.
template <typename Body>
void for_each(Team& team, int64_t n, const Body& body) {
  const auto tasks = std::min<int64_t>(n, Team::kMaxTasks);
  team.run(static_cast<size_t>(tasks), [&](size_t task) {
    const auto t = static_cast<int64_t>(task);
    for (int64_t i = n * t / tasks; i < n * (t + 1) / tasks; ++i) body(i);
  });
}

// A is how words multiply, Level where that may run.
template <typename A, typename Level>
class Stepper {
 public:
  Stepper(const Step& p, const Placement& where)
      : p_(p),
        m_(p.params[0].sizes[0]),
        n_(p.params[0].sizes[1]),
        m_padded_(round_up(m_, kLanes)),
        n_padded_(round_up(n_, kLanes)),
        short_(std::min(m_padded_, n_padded_)),
        long_(std::max(m_padded_, n_padded_)),
        team_(threads(p, where)) {
    const auto num_matrices = static_cast<int64_t>(p.params.size());
    const auto wave = std::min<int64_t>(num_matrices, static_cast<int64_t>(team_.size()));
    const int64_t big = short_ * long_ / A::kPack, small = short_ * short_ / A::kPack;
    const int64_t per_matrix = 3 * big + 2 * small;
    constexpr int64_t kLine = 64 / sizeof(Word);
    memory_ = allocate_huge<Word>(static_cast<size_t>(wave * per_matrix + kLine));
    void* line = memory_.get();
    size_t room = static_cast<size_t>(wave * per_matrix + kLine) * sizeof(Word);
    auto* words = static_cast<Word*>(std::align(64, 1, line, room));
    for (int64_t i = 0; i < wave; ++i, words += per_matrix) {
      Matrix& matrix = matrices_.emplace_back();
      matrix.x = {words, short_ / A::kPack};
      matrix.next = {words + big, short_ / A::kPack};
      matrix.transposed = {words + 2 * big, long_ / A::kPack};
      matrix.gram = {words + 3 * big, short_ / A::kPack};
      matrix.poly = {words + 3 * big + small, short_ / A::kPack};
      matrix.norms.resize(static_cast<size_t>(m_));
      matrix.squares.resize(static_cast<size_t>(std::max(m_padded_, n_padded_)));
    }
  }

  void run() {
    const auto num_matrices = static_cast<int64_t>(p_.params.size());
    const auto wave = static_cast<int64_t>(matrices_.size());
    for (int64_t first = 0; first < num_matrices; first += wave) {
      run_wave(first, std::min(wave, num_matrices - first));
    }
  }

 private:
  using Word = typename A::Word;
  static constexpr int64_t kLanes = A::kLanes;

  struct Matrix {
    Strips<A> x, next;     // X, short x long, and where the next one goes
    Strips<A> transposed;  // X^T
    Strips<A> gram, poly;  // short x short
    float scale = 1.0f;    // of X; 1 after the first polynomial
    std::vector<float> norms;
    std::vector<float> squares;  // of rows or columns, then their factors; 0 in the padding
  };

  static int threads(const Step& p, const Placement& where) {
    // A thread costs about 20 us to start, the time of this many elements' products at width 256.
    constexpr int64_t kMinElements = 1 << 13;
    const int64_t elements = static_cast<int64_t>(p.params.size()) * p.params[0].sizes[0] *
                             p.params[0].sizes[1] / kMinElements;
    return static_cast<int>(std::clamp<int64_t>(elements, 1, where.num_threads));
  }

  [[nodiscard]] bool is_tall() const { return m_ > n_; }
  [[nodiscard]] bool is_by_row() const { return m_ >= n_; }

  // The matrix as it lies in the parameters: (m, n).
  [[nodiscard]] const Strips<A>& straight(const Matrix& matrix) const {
    return is_tall() ? matrix.transposed : matrix.x;
  }

  void run_wave(int64_t first, int64_t count) {
    begin(first, count);
    for (const Quintic& q : kPolarExpress) polynomial(q, count);
    end(first, count);
  }

  // Calls body(matrix, i) for each of `count` matrices and i in [0, n).
  template <typename Body>
  void for_each_of(int64_t count, int64_t n, const Body& body) {
    for_each(team_, count * n, [&](int64_t item) { body(item / n, item % n); });
  }

  void begin(int64_t first, int64_t count) {
    for_each_of(count, m_padded_ / kLanes, [&](int64_t i, int64_t strip) {
      Matrix& matrix = matrices_[static_cast<size_t>(i)];
      const TensorView& grad = p_.grads[static_cast<size_t>(first + i)];
      float* buffer = p_.momentum_buffer.as<float>() + (first + i) * m_ * n_;
      const Momentum momentum(p_.momentum);
      const Strips<A>& other = is_tall() ? matrix.x : matrix.transposed;
      const auto run = [&](const auto* g) {
        Level::run([&]() NANOCHAT_INLINE_LAMBDA {
          begin_rows<A>(g, buffer, momentum, m_, n_, strip * kLanes, straight(matrix), other,
                        matrix.norms.data());
        });
      };
      grad.dtype == DType::kFloat32 ? run(grad.as<const float>()) : run(grad.as<const BFloat16>());
    });
    for (int64_t i = 0; i < count; ++i) {
      Matrix& matrix = matrices_[static_cast<size_t>(i)];
      double squares = 0.0, live = 0.0;
      for (const float norm : matrix.norms) {
        const float unit = norm / at_least(norm, kMinNorm);
        squares += static_cast<double>(norm) * norm;
        live += static_cast<double>(unit) * unit;
      }
      matrix.scale = start_scale(static_cast<float>(squares), static_cast<float>(live), m_);
    }
  }

  void polynomial(const Quintic& q, int64_t count) {
    multiply(count, short_, [](Matrix& x) {
      return Product<A>{.u = x.transposed, .w = x.transposed, .c = x.gram, .is_symmetric = true};
    });
    // With X = s Y and A = Y Y^T: b (s^2 A) + c (s^2 A)^2.
    multiply(count, short_, [&](Matrix& x) {
      const float square = x.scale * x.scale;
      return Product<A>{.u = x.gram,
                        .w = x.gram,
                        .e = x.gram,
                        .c = x.poly,
                        .scale = static_cast<float>(q.c) * square * square,
                        .beta = static_cast<float>(q.b) * square,
                        .is_symmetric = true};
    });
    multiply(count, long_, [&](Matrix& x) {
      return Product<A>{.u = x.poly,
                        .w = x.x,
                        .e = x.x,
                        .c = x.next,
                        .c_transposed = x.transposed,
                        .scale = x.scale,
                        .beta = static_cast<float>(q.a) * x.scale};
    });
    for (int64_t i = 0; i < count; ++i) {
      Matrix& matrix = matrices_[static_cast<size_t>(i)];
      std::swap(matrix.x, matrix.next);
      matrix.scale = 1.0f;
    }
  }

  template <typename Make>
  void multiply(int64_t count, int64_t num_columns, const Make& make) {
    const int64_t num_strips = num_columns / kLanes;
    for_each_of(count, num_tile_columns(num_strips), [&](int64_t i, int64_t column) {
      Product<A> product = make(matrices_[static_cast<size_t>(i)]);
      if (product.is_symmetric) product.c_transposed = product.c;
      product.num_rows = short_;
      product.num_strips = num_strips;
      Level::run([&]() NANOCHAT_INLINE_LAMBDA { multiply_column<A>(product, column); });
    });
  }

  void end(int64_t first, int64_t count) {
    const int64_t num_words = m_padded_ / A::kPack;
    const int64_t num_strips = n_padded_ / kLanes;
    // In steps of kLanes rows or columns: what two threads write is never in one line.
    for_each_of(count, (is_by_row() ? m_padded_ : n_padded_) / kLanes,
                [&](int64_t i, int64_t part) {
                  Matrix& matrix = matrices_[static_cast<size_t>(i)];
                  float* squares = matrix.squares.data() + part * kLanes;
                  Level::run([&]() NANOCHAT_INLINE_LAMBDA {
                    if (is_by_row()) {
                      for (int64_t r = 0; r < kLanes; r += A::kPack) {
                        square_rows<A>(straight(matrix), num_strips, (part * kLanes + r) / A::kPack,
                                       squares + r);
                      }
                    } else {
                      square_columns<A>(straight(matrix), part, squares);
                    }
                  });
                });
    for_each(team_, count, [&](int64_t i) { damp(first + i, matrices_[static_cast<size_t>(i)]); });
    const Update update{static_cast<float>(p_.lr) * lr_factor(m_, n_),
                        static_cast<float>(p_.weight_decay)};
    for_each_of(count, num_words, [&](int64_t i, int64_t word) {
      const Matrix& matrix = matrices_[static_cast<size_t>(i)];
      const TensorView& param = p_.params[static_cast<size_t>(first + i)];
      const auto run = [&](auto* p) {
        Level::run([&]() NANOCHAT_INLINE_LAMBDA {
          end_rows<A>(p, straight(matrix), matrix.squares.data(), is_by_row(), update, m_, n_,
                      word);
        });
      };
      param.dtype == DType::kFloat32 ? run(param.as<float>()) : run(param.as<BFloat16>());
    });
  }

  // From squares to factors, and the running mean of one matrix.
  void damp(int64_t index, Matrix& matrix) {
    const int64_t length = is_by_row() ? m_ : n_;
    float* second = p_.second_moment.as<float>() + index * length;
    std::vector<float>& squares = matrix.squares;
    double sum = 0.0;
    for (int64_t i = 0; i < length; ++i) sum += static_cast<double>(squares[i]);
    const SecondMoment moment(static_cast<float>(sum), m_, n_, static_cast<float>(1.0 - p_.beta2));
    double damped = 0.0;
    for (int64_t i = 0; i < length; ++i) {
      const float factor = moment.factor(squares[i], second[i]);
      damped += static_cast<double>(squares[i]) * factor * factor;
      squares[i] = factor;
    }
    const float common = moment.common(static_cast<float>(damped));
    for (int64_t i = 0; i < length; ++i) squares[i] *= common;
  }

  const Step& p_;
  const int64_t m_, n_;
  const int64_t m_padded_, n_padded_;
  const int64_t short_, long_;
  Team team_;
  std::unique_ptr<Word[], FreeMemory> memory_;
  std::vector<Matrix> matrices_;  // of one wave
};

template <template <typename> class Words, typename Level>
void run(const Step& p, const Placement& where) {
  Stepper<Words<simd::Vector<Level::kLanes>>, Level>(p, where).run();
}

}  // namespace

void step_cpu(const Step& p, const Placement& where) {
  const bool is_bf16 = p.inner_dtype == DType::kBFloat16;
#if defined(__x86_64__)
  if (where.cpu_level == CpuLevel::kAvx512Bf16 && is_bf16) {
    return run<Bf16Dots, Avx512Bf16Level>(p, where);
  }
  if (where.cpu_level >= CpuLevel::kAvx512) {
    return is_bf16 ? run<Bf16Words, Avx512Level>(p, where) : run<Fp32Words, Avx512Level>(p, where);
  }
  if (where.cpu_level == CpuLevel::kAvx2) {
    return is_bf16 ? run<Bf16Words, Avx2Level>(p, where) : run<Fp32Words, Avx2Level>(p, where);
  }
#endif
  is_bf16 ? run<Bf16Words, BaseLevel>(p, where) : run<Fp32Words, BaseLevel>(p, where);
}

}  // namespace nanochat::muon
