// The CUDA symbols of a build without nvcc, so that no other file needs an #ifdef.
#include "attention/attention.h"
#include "attention/prepass.h"
#include "common/cuda/device.h"
#include "cross_entropy/cross_entropy.h"
#include "engine/cuda/cuda_model.h"
#include "muon/adamw.h"
#include "muon/muon.h"

namespace nanochat {
namespace {

[[noreturn]] void fail(const char* op) {
  throw Unsupported(concat(op, ": this build has no CUDA kernels; install nvcc and build again"));
}

}  // namespace

namespace cuda {

const bool kBuilt = false;

int device_count() {
  return 0;
}
Capability capability(int /*device*/) {
  fail("capability");
}

}  // namespace cuda

namespace attention {

void forward_cuda(const Forward& /*p*/, const Placement& /*where*/) {
  fail("attention");
}
void backward_cuda(const Backward& /*p*/, const Placement& /*where*/) {
  fail("attention");
}
void prepass_forward_cuda(const PrepassForward& /*p*/, const Placement& /*where*/) {
  fail("prepass");
}
void prepass_backward_cuda(const PrepassBackward& /*p*/, const Placement& /*where*/) {
  fail("prepass");
}
void gate_backward_cuda(const GateBackward& /*p*/, const Placement& /*where*/) {
  fail("prepass");
}

}  // namespace attention

namespace cross_entropy {

void forward_cuda(const Rows& /*p*/, const Placement& /*where*/) {
  fail("cross_entropy");
}

}  // namespace cross_entropy

namespace muon {

void step_cuda(const Step& /*p*/, const Placement& /*where*/) {
  fail("muon");
}

}  // namespace muon

namespace adamw {

void step_cuda(const Step& /*p*/, const Placement& /*where*/) {
  fail("adamw");
}

}  // namespace adamw

namespace engine {

std::unique_ptr<Model> make_cuda_model(const ModelConfig& /*config*/, const Tensors& /*tensors*/,
                                       int /*num_pages*/, int /*max_tokens*/, int /*device*/) {
  fail("engine");
}

}  // namespace engine
}  // namespace nanochat
