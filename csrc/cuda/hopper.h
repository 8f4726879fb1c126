// The forward for sm_90a: what it is given, and its kernels, which a build may lack.
#pragma once

#include "boxes.h"
#include "launch.h"

namespace pkernels {
namespace cuda {

struct HopperForward {
  TensorMap queries, keys, values;
  Forward forward;
};

// As forward_kernel; nullptr in a library that was linked without hopper_forward.cu.
__attribute__((weak)) Kernel hopper_forward_kernel(Type type, int64_t d, Bias bias);

}  // namespace cuda
}  // namespace pkernels
