// Bound by memory: 28 bytes for an fp32 element, each read and written once. Tensors are cut into
// pieces, so that threads share any list evenly.
#include <algorithm>
#include <vector>

#include "common/cpu_level.h"
#include "common/simd.h"
#include "common/thread_pool.h"
#include "muon/adamw.h"

namespace nanochat::adamw {
namespace {

using simd::read;
using simd::write;

struct Math {
  template <typename F>
  NANOCHAT_HD static F sqrt(F x) {
    if constexpr (simd::kIsVector<F>) {  // becomes one instruction: this file is without errno
      for (int i = 0; i < simd::kLanes<F>; ++i) x[i] = __builtin_sqrtf(x[i]);
      return x;
    } else {
      return __builtin_sqrtf(x);
    }
  }
};

struct Piece {
  size_t tensor;
  int64_t begin, end;
};

template <typename V, typename P, typename G>
NANOCHAT_HD void update(const Step& p, const Element& maths, const Piece& piece) {
  P* params = p.params[piece.tensor].as<P>() + piece.begin;
  const G* grads = p.grads[piece.tensor].as<const G>() + piece.begin;
  float* exp_avg = p.exp_avg[piece.tensor].as<float>() + piece.begin;
  float* exp_avg_sq = p.exp_avg_sq[piece.tensor].as<float>() + piece.begin;
  simd::for_each_step<V, float>(piece.end - piece.begin,
                                [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
                                  using F = typename decltype(tag)::type;
                                  F param = read<F>(params + i), first = read<F>(exp_avg + i);
                                  F second = read<F>(exp_avg_sq + i);
                                  maths.update<Math>(param, first, second, read<F>(grads + i));
                                  write<F>(params + i, param);
                                  write<F>(exp_avg + i, first);
                                  write<F>(exp_avg_sq + i, second);
                                });
}

template <typename F>
void dispatch(DType dtype, const F& f) {
  dtype == DType::kFloat32 ? f(TypeTag<float>{}) : f(TypeTag<BFloat16>{});
}

}  // namespace

void step_cpu(const Step& p, const Placement& where) {
  constexpr int64_t kPieceElements = 1 << 16;  // about 100 us, five times the start of a thread
  std::vector<Piece> pieces;
  for (size_t tensor = 0; tensor < p.params.size(); ++tensor) {
    const int64_t n = num_elements(p.params[tensor]);
    for (int64_t begin = 0; begin < n; begin += kPieceElements) {
      pieces.push_back({tensor, begin, std::min(n, begin + kPieceElements)});
    }
  }
  const Element maths(p);
  parallel_for(
      static_cast<int64_t>(pieces.size()), where.num_threads, [&](int64_t begin, int64_t end) {
        dispatch(p.params[0].dtype, [&](auto param) {
          dispatch(p.grads[0].dtype, [&](auto grad) {
            using P = typename decltype(param)::type;
            using G = typename decltype(grad)::type;
            run_at_level(where.cpu_level, [&](auto lanes) NANOCHAT_INLINE_LAMBDA {
              for (int64_t i = begin; i < end; ++i) {
                update<simd::Vector<lanes>, P, G>(p, maths, pieces[static_cast<size_t>(i)]);
              }
            });
          });
        });
      });
}

}  // namespace nanochat::adamw
