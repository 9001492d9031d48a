// The polynomials of Polar Express (arXiv:2505.16932) and the guards of the step, for CPU and CUDA.
#pragma once

namespace nanochat::muon {

// x -> a x + b x^3 + c x^5, on singular values; safety factor 2e-2, cushion 2.
struct Quintic {
  double a, b, c;
};

inline constexpr Quintic kPolarExpress[] = {
    {8.156554524902461, -22.48329292557795, 15.878769915207462},
    {4.042929935166739, -2.808917465908714, 0.5000178451051316},
    {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
    {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
    {2.3465413258596377, -1.7097828382687081, 0.42323551169305323},
};
inline constexpr int kNumSteps = static_cast<int>(sizeof(kPolarExpress) / sizeof(Quintic));

}  // namespace nanochat::muon
