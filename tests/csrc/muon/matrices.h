// Small matrices in fp64, and views of memory: what the tests of the optimizers share.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "common/tensor_view.h"
#include "muon/muon_row.h"
#include "muon/polar_express.h"

namespace nanochat {

inline TensorView view(const void* data, DType dtype, std::initializer_list<int64_t> sizes) {
  TensorView view{.data = const_cast<void*>(data), .dtype = dtype};
  for (const int64_t size : sizes) view.sizes[view.rank++] = size;
  int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    view.strides[i] = stride;
    stride *= view.sizes[i];
  }
  return view;
}

inline std::vector<float> gaussian(size_t size, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(size);
  for (float& value : x) value = normal(random);
  return x;
}

// Rows one after the other.
struct Matrix {
  int64_t rows, columns;
  std::vector<double> data;

  Matrix(int64_t r, int64_t c) : rows(r), columns(c), data(static_cast<size_t>(r * c)) {}
  double& at(int64_t i, int64_t j) { return data[static_cast<size_t>(i * columns + j)]; }
  [[nodiscard]] double at(int64_t i, int64_t j) const {
    return data[static_cast<size_t>(i * columns + j)];
  }
  [[nodiscard]] double norm() const {
    double sum = 0.0;
    for (const double x : data) sum += x * x;
    return std::sqrt(sum);
  }
};

inline Matrix transpose(const Matrix& a) {
  Matrix t(a.columns, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.columns; ++j) t.at(j, i) = a.at(i, j);
  }
  return t;
}

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.columns);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t k = 0; k < a.columns; ++k) {
      for (int64_t j = 0; j < b.columns; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return c;
}

inline double relative_error(const Matrix& a, const Matrix& exact) {
  Matrix difference = a;
  for (size_t i = 0; i < a.data.size(); ++i) difference.data[i] -= exact.data[i];
  return difference.norm() / exact.norm();
}

// The iteration as it is written down, from the gradient; X wide, before its rescaling.
inline Matrix exact_iteration(Matrix g) {
  double squares = 0.0;
  std::vector<double> norms;
  for (int64_t i = 0; i < g.rows; ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < g.columns; ++j) sum += g.at(i, j) * g.at(i, j);
    norms.push_back(std::sqrt(sum));
    squares += sum;
  }
  const double target = std::sqrt(squares / static_cast<double>(g.rows));
  for (int64_t i = 0; i < g.rows; ++i) {
    for (int64_t j = 0; j < g.columns; ++j) {
      g.at(i, j) *= target / std::max(norms[static_cast<size_t>(i)], 1e-6);
    }
  }
  const double scale = 1.0 / (1.01 * g.norm() + 1e-6);
  for (double& x : g.data) x *= scale;
  Matrix x = g.rows > g.columns ? transpose(g) : g;
  for (const muon::Quintic& q : muon::kPolarExpress) {
    const Matrix gram = product(x, transpose(x));
    Matrix poly = product(gram, gram);
    for (size_t i = 0; i < poly.data.size(); ++i) {
      poly.data[i] = q.b * gram.data[i] + q.c * poly.data[i];
    }
    Matrix next = product(poly, x);
    for (size_t i = 0; i < x.data.size(); ++i) next.data[i] += q.a * x.data[i];
    x = next;
  }
  return x;
}

// Singular values of a wide matrix, falling: Jacobi rotations on X X^T.
inline std::vector<double> singular_values(const Matrix& x) {
  Matrix a = product(x, transpose(x));
  const int64_t n = a.rows;
  for (int sweep = 0; sweep < 12; ++sweep) {
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        if (std::abs(a.at(p, q)) < 1e-14) continue;
        const double theta = (a.at(q, q) - a.at(p, p)) / (2 * a.at(p, q));
        const double t =
            (theta < 0 ? -1.0 : 1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t k = 0; k < n; ++k) {
          const double kp = a.at(k, p), kq = a.at(k, q);
          a.at(k, p) = c * kp - s * kq;
          a.at(k, q) = s * kp + c * kq;
        }
        for (int64_t k = 0; k < n; ++k) {
          const double pk = a.at(p, k), qk = a.at(q, k);
          a.at(p, k) = c * pk - s * qk;
          a.at(q, k) = s * pk + c * qk;
        }
      }
    }
  }
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(std::sqrt(std::max(0.0, a.at(i, i))));
  std::sort(values.rbegin(), values.rend());
  return values;
}

}  // namespace nanochat
