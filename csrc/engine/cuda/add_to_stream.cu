// The output projections of attention and MLP. What the model does to the stream between its blocks
// is elementwise, so it happens here, at the only moment when an element is in a register:
//
//   x += W y;  keep x for the backout;  x = lambda x + lambda0 x0 of the next layer, or, at the
//   end, x -= backout * mid and off to the rows that the head will read
#include "engine/cuda/residual.cuh"
#include "engine/cuda/rows.cuh"

namespace nanochat::engine::cuda {
namespace {

struct AddEpilogue {
  static constexpr bool kNormed = false;
  AddToStream p;

  __device__ __forceinline__ void operator()(int64_t token, int row, float y, float) const {
    const int64_t i = token * p.out.channels + row;
    float x = p.x[i] + y;
    if (p.mid_out != nullptr) p.mid_out[i] = x;
    if (p.x0 != nullptr) x = fmaf(p.lambda, x, __fmul_rn(p.lambda0, p.x0[i]));
    if (p.mid != nullptr) x = fmaf(-p.backout, p.mid[i], x);
    write_residual(p.out, p.slot == nullptr ? token : p.slot[token], row, x);
  }
};

}  // namespace

void launch_add_to_stream(const Launcher& where, const Gemm& gemm, const AddToStream& p,
                          int num_tokens) {
  launch_rows(where, "engine: projection", gemm, AddEpilogue{p}, num_tokens);
}

}  // namespace nanochat::engine::cuda
