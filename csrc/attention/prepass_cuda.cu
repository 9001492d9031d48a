// One launch for q, k and v; backward one for q and k and one for v. Which lanes have what of a row
// is in prepass_slice.cuh.
//
// Roofline: memory. A row of q or k is read and written once, a row of v read with its ve; the
// backward reads two rows for each that it writes. About 10 FLOP an element are far below any
// ridge.
#include "attention/prepass.h"
#include "attention/prepass_slice.cuh"
#include "common/cuda/launch.h"

namespace nanochat::attention {
namespace {

constexpr int kThreads = 256;

template <typename Group>
constexpr int kRowsPerBlock = kThreads / Group::kLanes;

struct Grid {
  int64_t num_tokens;  // B * T
  int64_t T;
  int H, Hkv;
  int heads;  // H + Hkv, and Hkv more where there are rows of v
};

template <typename T>
struct ForwardArgs {
  Rows<const T> q, k, v, ve, gate;
  Rows<const float> cos, sin;  // head stride unused
  Rows<T> q_hat, k_hat, v_hat;
  Rows<float> q_inv_rms, k_inv_rms;
  Grid grid;
  float qk_scale, eps;
};

template <typename T>
struct BackwardArgs {
  Rows<const T> dq_hat, dk_hat, q_hat, k_hat;
  Rows<const float> q_inv_rms, k_inv_rms, cos, sin;
  Rows<T> dq, dk;
  Grid grid;
  float qk_scale, projection_factor;
};

template <typename T>
struct GateArgs {
  Rows<const T> dv_hat, ve, gate;
  Rows<T> dve, dgate;
  Grid grid;
};

// Which row a group of lanes has. Lanes past the last row still take part in shuffles.
struct Place {
  int64_t b, t;
  int h;            // head of q, or of k and v
  bool is_q, is_v;  // else k
  bool is_inside;
};

template <typename Group>
__device__ __forceinline__ Place place_of(const Grid& grid) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock<Group> + threadIdx.x / Group::kLanes;
  const int64_t token = row / grid.heads;
  const int slot = static_cast<int>(row % grid.heads);
  const bool is_q = slot < grid.H, is_v = slot >= grid.H + grid.Hkv;
  return {.b = token / grid.T,
          .t = token % grid.T,
          .h = is_q ? slot : slot - grid.H - (is_v ? grid.Hkv : 0),
          .is_q = is_q,
          .is_v = is_v,
          .is_inside = token < grid.num_tokens};
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) forward_kernel(const ForwardArgs<T> args) {
  using Group = RowGroup<T, kHeadDim>;
  const auto [b, t, h, is_q, is_v, is_inside] = place_of<Group>(args.grid);
  const int d = static_cast<int>(threadIdx.x) % Group::kLanes * Group::kElements;

  Slice<Group> y;  // the rotated row of q or k
  if (is_inside && !is_v) {
    y.read(is_q ? args.q.at(b, t, h) : args.k.at(b, t, h), d);
    const Angles<Group> angles(args.cos.at(b, t, 0), args.sin.at(b, t, 0), d);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      y.pairs[i] = rotate(y.pairs[i], angles.cos[i], angles.sin[i]);
    }
  }
  const float squares = dot(y, y);
  if (!is_inside) return;

  if (is_v) {
    const float gate = value_gate(load(*args.gate.at(b, t, h)));
    Slice<Group> v, ve;
    v.read(args.v.at(b, t, h), d);
    ve.read(args.ve.at(b, t, h), d);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      v.pairs[i].first += ve.pairs[i].first * gate;
      v.pairs[i].second += ve.pairs[i].second * gate;
    }
    v.write(args.v_hat.at(b, t, h), d);
    return;
  }

  const float r = inv_rms(squares, kHeadDim, args.eps);
  const float scale = args.qk_scale * r;
#pragma unroll
  for (int i = 0; i < Group::kElements; ++i) {
    y.pairs[i] = {y.pairs[i].first * scale, y.pairs[i].second * scale};
  }
  y.write(is_q ? args.q_hat.at(b, t, h) : args.k_hat.at(b, t, h), d);
  if (d == 0) *(is_q ? args.q_inv_rms : args.k_inv_rms).at(b, t, h) = r;
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) backward_kernel(const BackwardArgs<T> args) {
  using Group = RowGroup<T, kHeadDim>;
  const auto [b, t, h, is_q, is_v, is_inside] = place_of<Group>(args.grid);
  const int d = static_cast<int>(threadIdx.x) % Group::kLanes * Group::kElements;

  Slice<Group> dy, y;
  if (is_inside) {
    dy.read((is_q ? args.dq_hat : args.dk_hat).at(b, t, h), d);
    y.read((is_q ? args.q_hat : args.k_hat).at(b, t, h), d);
  }
  const float projection = args.projection_factor * dot(y, dy);
  if (!is_inside) return;
  const float r = *(is_q ? args.q_inv_rms : args.k_inv_rms).at(b, t, h);
  const Angles<Group> angles(args.cos.at(b, t, 0), args.sin.at(b, t, 0), d);
  rope_norm_backward(dy, y, angles, projection, args.qk_scale * r);
  dy.write((is_q ? args.dq : args.dk).at(b, t, h), d);
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) gate_backward_kernel(const GateArgs<T> args) {
  using Group = RowGroup<T, kHeadDim>;
  const auto [b, t, h, is_q, is_v, is_inside] = place_of<Group>(args.grid);
  const int d = static_cast<int>(threadIdx.x) % Group::kLanes * Group::kElements;

  Slice<Group> dv, ve;
  if (is_inside) {
    dv.read(args.dv_hat.at(b, t, h), d);
    ve.read(args.ve.at(b, t, h), d);
  }
  const float product = dot(dv, ve);
  if (!is_inside) return;
  const float gate = value_gate(load(*args.gate.at(b, t, h)));
#pragma unroll
  for (int i = 0; i < Group::kElements; ++i) {
    dv.pairs[i] = {dv.pairs[i].first * gate, dv.pairs[i].second * gate};
  }
  dv.write(args.dve.at(b, t, h), d);
  if (d == 0) store(*args.dgate.at(b, t, h), product * value_gate_slope(gate));
}

// A row is read 16 bytes at a time.
template <typename T>
Rows<T> aligned(const char* name, const TensorView& view) {
  check(has_aligned_rows(view), "prepass: rows of ", name, " must begin at multiples of ",
        cuda::kVectorBytes, " bytes on CUDA; make it contiguous");
  return rows_of<T>(view);
}

// H rows to a token, then Hkv, then num_values.
Grid grid_of(const TensorView& q, int64_t H, int64_t Hkv, int64_t num_values) {
  return {.num_tokens = q.sizes[0] * q.sizes[1],
          .T = q.sizes[1],
          .H = static_cast<int>(H),
          .Hkv = static_cast<int>(Hkv),
          .heads = static_cast<int>(H + Hkv + num_values)};
}

// Calls launch(T, head_dim as a constant); the dispatch before us let nothing else through.
template <typename F>
void dispatch(DType dtype, int64_t head_dim, const F& launch) {
  const auto with_dim = [&](auto tag) {
    if (head_dim == 64) {
      launch(tag, std::integral_constant<int, 64>{});
    } else {
      launch(tag, std::integral_constant<int, 128>{});
    }
  };
  if (dtype == DType::kBFloat16) {
    with_dim(TypeTag<BFloat16>{});
  } else {
    with_dim(TypeTag<float>{});
  }
}

template <typename Group>
unsigned num_blocks(const Grid& grid) {
  return static_cast<unsigned>((grid.num_tokens * grid.heads + kRowsPerBlock<Group> - 1) /
                               kRowsPerBlock<Group>);
}

}  // namespace

void prepass_forward_cuda(const PrepassForward& p, const Placement& where) {
  const int64_t Hkv = p.k.sizes[2];
  const Grid grid = grid_of(p.q, p.q.sizes[2], Hkv, p.ve.present() ? Hkv : 0);
  if (grid.num_tokens == 0) return;
  const cuda::DeviceGuard guard(where.device);
  const RopeNorm& norm = p.rope_norm;
  dispatch(p.q.dtype, p.q.sizes[3], [&](auto tag, auto head_dim) {
    using T = typename decltype(tag)::type;
    const ForwardArgs<T> args{.q = aligned<const T>("q", p.q),
                              .k = aligned<const T>("k", p.k),
                              .v = aligned<const T>("v", p.v),
                              .ve = aligned<const T>("ve", p.ve),
                              .gate = rows_of<const T>(p.gate),
                              .cos = aligned<const float>("cos", norm.cos),
                              .sin = aligned<const float>("sin", norm.sin),
                              .q_hat = aligned<T>("q_hat", p.q_hat),
                              .k_hat = aligned<T>("k_hat", p.k_hat),
                              .v_hat = aligned<T>("v_hat", p.v_hat),
                              .q_inv_rms = rows_of<float>(norm.q_inv_rms),
                              .k_inv_rms = rows_of<float>(norm.k_inv_rms),
                              .grid = grid,
                              .qk_scale = static_cast<float>(norm.qk_scale),
                              .eps = static_cast<float>(p.eps)};
    forward_kernel<T, head_dim>
        <<<num_blocks<RowGroup<T, head_dim>>(grid), kThreads, 0, cuda::stream_of(where)>>>(args);
  });
  cuda::check_cuda(cudaGetLastError(), "prepass: launch of the forward");
}

void prepass_backward_cuda(const PrepassBackward& p, const Placement& where) {
  const Grid grid = grid_of(p.q_hat, p.q_hat.sizes[2], p.k_hat.sizes[2], 0);
  if (grid.num_tokens == 0) return;
  const cuda::DeviceGuard guard(where.device);
  const RopeNorm& norm = p.rope_norm;
  const auto qk_scale = static_cast<float>(norm.qk_scale);
  dispatch(p.q_hat.dtype, p.q_hat.sizes[3], [&](auto tag, auto head_dim) {
    using T = typename decltype(tag)::type;
    const BackwardArgs<T> args{.dq_hat = aligned<const T>("dq_hat", p.dq_hat),
                               .dk_hat = aligned<const T>("dk_hat", p.dk_hat),
                               .q_hat = aligned<const T>("q_hat", p.q_hat),
                               .k_hat = aligned<const T>("k_hat", p.k_hat),
                               .q_inv_rms = rows_of<const float>(norm.q_inv_rms),
                               .k_inv_rms = rows_of<const float>(norm.k_inv_rms),
                               .cos = aligned<const float>("cos", norm.cos),
                               .sin = aligned<const float>("sin", norm.sin),
                               .dq = aligned<T>("dq", p.dq),
                               .dk = aligned<T>("dk", p.dk),
                               .grid = grid,
                               .qk_scale = qk_scale,
                               .projection_factor = projection_factor(qk_scale, head_dim)};
    backward_kernel<T, head_dim>
        <<<num_blocks<RowGroup<T, head_dim>>(grid), kThreads, 0, cuda::stream_of(where)>>>(args);
  });
  cuda::check_cuda(cudaGetLastError(), "prepass: launch of the backward");
}

void gate_backward_cuda(const GateBackward& p, const Placement& where) {
  const Grid grid = grid_of(p.ve, p.ve.sizes[2], 0, 0);
  if (grid.num_tokens == 0) return;
  const cuda::DeviceGuard guard(where.device);
  dispatch(p.ve.dtype, p.ve.sizes[3], [&](auto tag, auto head_dim) {
    using T = typename decltype(tag)::type;
    const GateArgs<T> args{.dv_hat = aligned<const T>("dv_hat", p.dv_hat),
                           .ve = aligned<const T>("ve", p.ve),
                           .gate = rows_of<const T>(p.gate),
                           .dve = aligned<T>("dve", p.dve),
                           .dgate = rows_of<T>(p.dgate),
                           .grid = grid};
    gate_backward_kernel<T, head_dim>
        <<<num_blocks<RowGroup<T, head_dim>>(grid), kThreads, 0, cuda::stream_of(where)>>>(args);
  });
  cuda::check_cuda(cudaGetLastError(), "prepass: launch of the gate's backward");
}

}  // namespace nanochat::attention
