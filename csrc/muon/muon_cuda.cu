// Launches of the step: 15 products, and 5 or 6 kernels around them. They neither allocate nor
// wait.
#include <algorithm>
#include <utility>

#include "common/cuda/launch.h"
#include "muon/muon.h"
#include "muon/polar_express.h"
#include "muon/step_kernels.cuh"
#include "muon/symmetric_gemm.cuh"
#include "muon/workspace.h"

namespace nanochat::muon {
namespace {

[[nodiscard]] unsigned blocks(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

template <typename... Parameters, typename... Arguments>
void launch(const Placement& where, void (*kernel)(Parameters...), dim3 grid, int threads,
            int smem_bytes, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(smem_bytes);
  config.stream = cuda::stream_of(where);
  cuda::check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), "muon: launch");
}

template <ProductKind kKind>
void multiply(const Placement& where, const GemmArgs& args, int64_t K) {
  constexpr int kSmemBytes = GemmTile::kSmemBytes;
  const auto kernel = gemm_kernel<kKind>;
  cuda::check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes),
      "muon: shared memory");
  const auto row_tiles = static_cast<int>(blocks(args.rows, GemmTile::kBlock));
  const unsigned tiles =
      kKind == ProductKind::kUpdate
          ? blocks(args.c_stride, GemmTile::kBlock) * static_cast<unsigned>(row_tiles)
          : static_cast<unsigned>(num_triangle_tiles(row_tiles));
  launch(where, kernel, dim3(tiles, static_cast<unsigned>(K)), GemmTile::kThreads, kSmemBytes,
         args);
}

// Calls f(list, first, count) for the matrices of `views`, as many at a time as a launch takes.
template <typename T, typename F>
void for_each_list(std::span<const TensorView> views, const F& f) {
  for (size_t first = 0; first < views.size(); first += kMatricesPerLaunch) {
    MatrixList<T> list{};
    const size_t count = std::min<size_t>(kMatricesPerLaunch, views.size() - first);
    for (size_t i = 0; i < count; ++i) list.at[i] = views[first + i].as<T>();
    f(list, static_cast<int64_t>(first), static_cast<unsigned>(count));
  }
}

struct Run {
  const Step& p;
  const Placement& where;
  const WorkspaceLayout layout;
  const Shape shape;
  uint16_t* x;
  uint16_t* next;
  uint16_t* gram;
  uint16_t* poly;
  float* norms;
  float* factors;
  float* scales;

  Run(const Step& step, const Placement& place)
      : p(step),
        where(place),
        layout{static_cast<int64_t>(step.params.size()), step.params[0].sizes[0],
               step.params[0].sizes[1]},
        shape{static_cast<int>(layout.m), static_cast<int>(layout.n),
              static_cast<int>(layout.x_stride()), layout.is_tall()} {
    float* memory = step.workspace.as<float>();
    const auto half = [&](int64_t offset) { return reinterpret_cast<uint16_t*>(memory + offset); };
    x = half(0);
    next = half(layout.x_size());
    gram = half(2 * layout.x_size());
    poly = half(2 * layout.x_size() + layout.square_size());
    norms = memory + layout.norms_offset();
    factors = memory + layout.factors_offset();
    scales = memory + layout.scales_offset();
  }

  template <typename T>
  void begin() {
    const int64_t matrix = layout.m * layout.n;
    for_each_list<const T>(p.grads, [&](const auto& list, int64_t first, unsigned count) {
      launch(where, begin_kernel<T>, dim3(blocks(layout.m, kStepRows), count), kStepThreads, 0,
             list, p.momentum_buffer.as<float>() + first * matrix,
             x + first * layout.short_dim() * layout.x_stride(), norms + first * layout.m, shape,
             Momentum(p.momentum));
    });
    launch(where, scale_kernel, dim3(static_cast<unsigned>(layout.K)), kStepThreads, 0,
           static_cast<const float*>(norms), scales, shape.m);
  }

  void polynomial(const Quintic& q, const float* start) {
    const auto short_dim = static_cast<int>(layout.short_dim());
    const auto square = static_cast<int>(layout.square_stride());
    GemmArgs args{.u = x,
                  .w = x,
                  .c = gram,
                  .scales = start,
                  .a = static_cast<float>(q.a),
                  .b = static_cast<float>(q.b),
                  .c_factor = static_cast<float>(q.c),
                  .rows = short_dim,
                  .u_stride = shape.x_stride,
                  .w_stride = shape.x_stride,
                  .c_stride = square};
    multiply<ProductKind::kGram>(where, args, layout.K);
    args.u = args.w = gram;
    args.c = poly;
    args.u_stride = args.w_stride = square;
    multiply<ProductKind::kPoly>(where, args, layout.K);
    args.u = poly;
    args.w = x;
    args.c = next;
    args.w_stride = args.c_stride = shape.x_stride;
    multiply<ProductKind::kUpdate>(where, args, layout.K);
    std::swap(x, next);
  }

  void damp() {
    const auto K = static_cast<unsigned>(layout.K);
    const auto rows = static_cast<int>(layout.short_dim());
    const auto columns = static_cast<int>(layout.long_dim());
    const uint16_t* result = x;
    if (layout.m == layout.n) {
      launch(where, square_rows_kernel, dim3(blocks(rows, kStepWarps), K), kStepThreads, 0, result,
             factors, rows, shape.x_stride);
    } else {
      launch(where, square_columns_kernel, dim3(blocks(columns, 2 * cuda::kWarp), K), kStepThreads,
             0, result, factors, rows, columns, shape.x_stride);
    }
    launch(where, damp_kernel, dim3(K), kStepThreads, 0, factors, p.second_moment.as<float>(),
           shape.m, shape.n, static_cast<float>(1.0 - p.beta2));
  }

  template <typename T>
  void end() {
    const Update update{static_cast<float>(p.lr) * lr_factor(layout.m, layout.n),
                        static_cast<float>(p.weight_decay)};
    for_each_list<T>(p.params, [&](const auto& list, int64_t first, unsigned count) {
      launch(where, end_kernel<T>, dim3(blocks(layout.m, kStepRows), count), kStepThreads, 0, list,
             static_cast<const uint16_t*>(x + first * layout.short_dim() * layout.x_stride()),
             static_cast<const float*>(factors + first * layout.long_dim()), shape, update);
    });
  }
};

}  // namespace

void step_cuda(const Step& p, const Placement& where) {
  const cuda::DeviceGuard guard(where.device);
  Run run(p, where);
  p.grads[0].dtype == DType::kFloat32 ? run.begin<float>() : run.begin<BFloat16>();
  const float* start = run.scales;
  for (const Quintic& q : kPolarExpress) {
    run.polynomial(q, start);
    start = nullptr;
  }
  run.damp();
  p.params[0].dtype == DType::kFloat32 ? run.end<float>() : run.end<BFloat16>();
}

}  // namespace nanochat::muon
