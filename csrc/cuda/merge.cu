#include "merge.cuh"

#include "launch.h"

#define PK_MERGE(type, T)                                                          \
  extern "C" __global__ void __launch_bounds__(32 * pkernels::cuda::merging_warps) \
      merge_##type(const __grid_constant__ pkernels::cuda::Merge f) {              \
    pkernels::cuda::merge<pkernels::cuda::T>(f);                                   \
  }
PK_MERGE(bf16, Bf16)
PK_MERGE(f16, F16)
PK_MERGE(f32, F32)

namespace pkernels {
namespace cuda {

Kernel merge_kernel(Type type) {
  const auto kernel = [](const char* name, const void* function) {
    return Kernel{name, function, merging_warps, 0, 32 * merging_warps, 0};
  };
  switch (type) {
    case Type::bf16:
      return kernel("merge_bf16", reinterpret_cast<const void*>(&merge_bf16));
    case Type::f16:
      return kernel("merge_f16", reinterpret_cast<const void*>(&merge_f16));
    default:
      return kernel("merge_f32", reinterpret_cast<const void*>(&merge_f32));
  }
}

}  // namespace cuda
}  // namespace pkernels
