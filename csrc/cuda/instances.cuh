// The kernels of a pass, one per dtype, head dimension and kind of bias: forward_bf16_64_none, ...
#pragma once

#define PK_KERNEL(pass, Arguments, Shape, name, T, D, B)                                                   \
  extern "C" __global__ void __launch_bounds__(pkernels::cuda::Shape<D>::threads)                         \
      pass##_##name(const __grid_constant__ pkernels::cuda::Arguments f) {                                \
    pkernels::cuda::pass<pkernels::cuda::T, D, pkernels::cuda::Bias::B>(f);                               \
  }
#define PK_BIASES(pass, Arguments, Shape, name, T, D)                       \
  PK_KERNEL(pass, Arguments, Shape, name##_##D##_none, T, D, none)          \
  PK_KERNEL(pass, Arguments, Shape, name##_##D##_distance, T, D, distance)  \
  PK_KERNEL(pass, Arguments, Shape, name##_##D##_dense, T, D, dense)
#define PK_KERNELS(pass, Arguments, Shape)       \
  PK_BIASES(pass, Arguments, Shape, bf16, Bf16, 64)    \
  PK_BIASES(pass, Arguments, Shape, bf16, Bf16, 128)   \
  PK_BIASES(pass, Arguments, Shape, f16, F16, 64)      \
  PK_BIASES(pass, Arguments, Shape, f16, F16, 128)
