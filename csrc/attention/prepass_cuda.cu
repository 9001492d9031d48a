// One launch for q, k and v. A row (one head of one token) belongs to a group of lanes, each with
// 16 bytes of either half of the row, so that the rotation stays inside of a thread and the norm is
// a few shuffles:
//
//            first half          second half            D = 128, bf16: 8 lanes a row, 4 rows a warp
//   row    | 0 | 1 | .. | 7 |  | 0 | 1 | .. | 7 |       D = 128, fp32: 16 lanes, 2 rows
//            16 B each           16 B each              D =  64: half as many lanes, twice the rows
//
// Roofline: memory. A row of q or k is read and written once, a row of v read with its ve; the
// backward reads two rows for each that it writes. About 10 FLOP an element are far below any
// ridge.
#include "attention/prepass.h"
#include "attention/prepass_row.h"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/vector.cuh"

namespace nanochat::attention {
namespace {

using cuda::kVectorSize;
using cuda::load_vector;
using cuda::reduce_lanes;
using cuda::store_vector;

constexpr int kThreads = 256;

template <typename T, int kHeadDim>
struct RowGroup {
  static constexpr int kHalf = kHeadDim / 2;
  static constexpr int kElements = kVectorSize<T>;  // of either half, per lane
  static constexpr int kLanes = kHalf / kElements;  // per row
  static constexpr int kRows = kThreads / kLanes;   // per block
  static_assert(kHalf % kElements == 0 && cuda::kWarp % kLanes == 0);
};

// (B, T, H, D) or (B, T, H) on the device.
template <typename T>
struct Rows {
  T* data;
  int64_t batch, token, head;  // strides

  __device__ __forceinline__ T* at(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch + t * token + h * head;
  }
};

struct Grid {
  int64_t num_tokens;  // B * T
  int64_t T;
  int H, Hkv;
  int heads;  // H + Hkv, and Hkv more with value embeddings
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
  Rows<const T> dq_hat, dk_hat, dv_hat, q_hat, k_hat, ve, gate;
  Rows<const float> q_inv_rms, k_inv_rms, cos, sin;
  Rows<T> dq, dk, dve, dgate;
  Grid grid;
  float qk_scale;
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
  const int64_t row = int64_t{blockIdx.x} * Group::kRows + threadIdx.x / Group::kLanes;
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

// What a lane holds of a row: elements d .. d + kElements and their partners half a row on.
template <typename Group>
struct Slice {
  Pair<float> pairs[Group::kElements];

  template <typename T>
  __device__ __forceinline__ void read(const T* row, int d) {
    float first[Group::kElements], second[Group::kElements];
    load_vector(row + d, first);
    load_vector(row + Group::kHalf + d, second);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) pairs[i] = {first[i], second[i]};
  }

  template <typename T>
  __device__ __forceinline__ void write(T* row, int d) const {
    float first[Group::kElements], second[Group::kElements];
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      first[i] = pairs[i].first;
      second[i] = pairs[i].second;
    }
    store_vector(row + d, first);
    store_vector(row + Group::kHalf + d, second);
  }
};

// cos and sin of a lane's pairs: fp32, so one or two vectors of either table.
template <typename Group>
struct Angles {
  float cos[Group::kElements], sin[Group::kElements];

  __device__ __forceinline__ Angles(const float* cos_row, const float* sin_row, int d) {
    constexpr int kStep = kVectorSize<float>;
#pragma unroll
    for (int i = 0; i < Group::kElements; i += kStep) {
      load_vector(cos_row + d + i, reinterpret_cast<float (&)[kStep]>(cos[i]));
      load_vector(sin_row + d + i, reinterpret_cast<float (&)[kStep]>(sin[i]));
    }
  }
};

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) forward_kernel(const ForwardArgs<T> args) {
  using Group = RowGroup<T, kHeadDim>;
  const auto [b, t, h, is_q, is_v, is_inside] = place_of<Group>(args.grid);
  const int d = static_cast<int>(threadIdx.x) % Group::kLanes * Group::kElements;

  Slice<Group> y;  // the rotated row of q or k
  float squares = 0.0f;
  if (is_inside && !is_v) {
    y.read(is_q ? args.q.at(b, t, h) : args.k.at(b, t, h), d);
    const Angles<Group> angles(args.cos.at(b, t, 0), args.sin.at(b, t, 0), d);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      y.pairs[i] = rotate(y.pairs[i], angles.cos[i], angles.sin[i]);
      squares += dot(y.pairs[i], y.pairs[i]);
    }
  }
  squares = reduce_lanes<Group::kLanes>(squares, cuda::Sum{});
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

  Slice<Group> dy, y;  // for a row of v: dv_hat and ve
  float product = 0.0f;
  if (is_inside) {
    dy.read((is_q ? args.dq_hat : is_v ? args.dv_hat : args.dk_hat).at(b, t, h), d);
    y.read((is_q ? args.q_hat : is_v ? args.ve : args.k_hat).at(b, t, h), d);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) product += dot(dy.pairs[i], y.pairs[i]);
  }
  product = reduce_lanes<Group::kLanes>(product, cuda::Sum{});
  if (!is_inside) return;

  if (is_v) {
    const float gate = value_gate(load(*args.gate.at(b, t, h)));
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      dy.pairs[i] = {dy.pairs[i].first * gate, dy.pairs[i].second * gate};
    }
    dy.write(args.dve.at(b, t, h), d);
    if (d == 0) store(*args.dgate.at(b, t, h), product * value_gate_slope(gate));
    return;
  }

  const float projection = product / (args.qk_scale * args.qk_scale * kHeadDim);
  const float scale = args.qk_scale * *(is_q ? args.q_inv_rms : args.k_inv_rms).at(b, t, h);
  const Angles<Group> angles(args.cos.at(b, t, 0), args.sin.at(b, t, 0), d);
#pragma unroll
  for (int i = 0; i < Group::kElements; ++i) {
    dy.pairs[i] = rope_norm_backward(dy.pairs[i], y.pairs[i], angles.cos[i], angles.sin[i],
                                     projection, scale);
  }
  dy.write((is_q ? args.dq : args.dk).at(b, t, h), d);
}

template <typename T>
Rows<T> rows_of(const TensorView& view) {
  return {view.as<T>(), view.strides[0], view.strides[1], view.strides[2]};
}

// A row is read 16 bytes at a time, so every row must begin at a multiple of 16.
template <typename T>
Rows<T> aligned(const char* name, const TensorView& view) {
  constexpr int kSize = kVectorSize<std::remove_const_t<T>>;
  bool is_aligned = reinterpret_cast<uintptr_t>(view.data) % cuda::kVectorBytes == 0;
  for (int i = 0; i + 1 < view.rank; ++i) {
    is_aligned = is_aligned && (view.sizes[i] <= 1 || view.strides[i] % kSize == 0);
  }
  check(is_aligned, "prepass: rows of ", name, " must begin at multiples of ", cuda::kVectorBytes,
        " bytes on CUDA; make it contiguous");
  return rows_of<T>(view);
}

Grid grid_of(const TensorView& q, const TensorView& k, bool with_values) {
  const int H = static_cast<int>(q.sizes[2]), Hkv = static_cast<int>(k.sizes[2]);
  return {.num_tokens = q.sizes[0] * q.sizes[1],
          .T = q.sizes[1],
          .H = H,
          .Hkv = Hkv,
          .heads = H + Hkv * (with_values ? 2 : 1)};
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
  return static_cast<unsigned>((grid.num_tokens * grid.heads + Group::kRows - 1) / Group::kRows);
}

}  // namespace

void prepass_forward_cuda(const PrepassForward& p, const Placement& where) {
  const Grid grid = grid_of(p.q, p.k, p.ve.present());
  if (grid.num_tokens == 0) return;
  const cuda::DeviceGuard guard(where.device);
  dispatch(p.q.dtype, p.q.sizes[3], [&](auto tag, auto head_dim) {
    using T = typename decltype(tag)::type;
    const ForwardArgs<T> args{.q = aligned<const T>("q", p.q),
                              .k = aligned<const T>("k", p.k),
                              .v = aligned<const T>("v", p.v),
                              .ve = aligned<const T>("ve", p.ve),
                              .gate = rows_of<const T>(p.gate),
                              .cos = aligned<const float>("cos", p.cos),
                              .sin = aligned<const float>("sin", p.sin),
                              .q_hat = aligned<T>("q_hat", p.q_hat),
                              .k_hat = aligned<T>("k_hat", p.k_hat),
                              .v_hat = aligned<T>("v_hat", p.v_hat),
                              .q_inv_rms = rows_of<float>(p.q_inv_rms),
                              .k_inv_rms = rows_of<float>(p.k_inv_rms),
                              .grid = grid,
                              .qk_scale = static_cast<float>(p.qk_scale),
                              .eps = static_cast<float>(p.eps)};
    forward_kernel<T, head_dim>
        <<<num_blocks<RowGroup<T, head_dim>>(grid), kThreads, 0, cuda::stream_of(where)>>>(args);
  });
  cuda::check_cuda(cudaGetLastError(), "prepass: launch of the forward");
}

void prepass_backward_cuda(const PrepassBackward& p, const Placement& where) {
  const Grid grid = grid_of(p.q_hat, p.k_hat, p.ve.present());
  if (grid.num_tokens == 0) return;
  const cuda::DeviceGuard guard(where.device);
  dispatch(p.q_hat.dtype, p.q_hat.sizes[3], [&](auto tag, auto head_dim) {
    using T = typename decltype(tag)::type;
    const BackwardArgs<T> args{.dq_hat = aligned<const T>("dq_hat", p.dq_hat),
                               .dk_hat = aligned<const T>("dk_hat", p.dk_hat),
                               .dv_hat = aligned<const T>("dv_hat", p.dv_hat),
                               .q_hat = aligned<const T>("q_hat", p.q_hat),
                               .k_hat = aligned<const T>("k_hat", p.k_hat),
                               .ve = aligned<const T>("ve", p.ve),
                               .gate = rows_of<const T>(p.gate),
                               .q_inv_rms = rows_of<const float>(p.q_inv_rms),
                               .k_inv_rms = rows_of<const float>(p.k_inv_rms),
                               .cos = aligned<const float>("cos", p.cos),
                               .sin = aligned<const float>("sin", p.sin),
                               .dq = aligned<T>("dq", p.dq),
                               .dk = aligned<T>("dk", p.dk),
                               .dve = aligned<T>("dve", p.dve),
                               .dgate = rows_of<T>(p.dgate),
                               .grid = grid,
                               .qk_scale = static_cast<float>(p.qk_scale)};
    backward_kernel<T, head_dim>
        <<<num_blocks<RowGroup<T, head_dim>>(grid), kThreads, 0, cuda::stream_of(where)>>>(args);
  });
  cuda::check_cuda(cudaGetLastError(), "prepass: launch of the backward");
}

}  // namespace nanochat::attention
