// The kernels of a pass, one per dtype, head dimension and kind of bias: forward_bf16_64_none, ...,
// and forward_kernel(type, d, bias), which finds one.
#pragma once

#include "launch.h"

#define PK_KERNEL(pass, Arguments, Shape, type, T, D, B)                                                             \
  extern "C" __global__ void __launch_bounds__(pkernels::cuda::Shape<D>::threads, pkernels::cuda::Shape<D>::at_once) \
      pass##_##type##_##D##_##B(const __grid_constant__ pkernels::cuda::Arguments f) {                               \
    pkernels::cuda::pass<pkernels::cuda::T, D, pkernels::cuda::Bias::B>(f);                                          \
  }
#define PK_ENTRY(pass, Shape, type, D, B)                                                                    \
  Kernel {                                                                                                   \
    #pass "_" #type "_" #D "_" #B, reinterpret_cast<const void*>(&pass##_##type##_##D##_##B), Shape<D>::own, \
        Shape<D>::threads, Shape<D>::shared                                                                  \
  }

#define PK_EACH_BIAS(what, ...) what(__VA_ARGS__, none) what(__VA_ARGS__, distance) what(__VA_ARGS__, dense)
#define PK_KERNELS(pass, Arguments, Shape)                                                                           \
  PK_EACH_BIAS(PK_KERNEL, pass, Arguments, Shape, bf16, Bf16, 64)                                                    \
  PK_EACH_BIAS(PK_KERNEL, pass, Arguments, Shape, bf16, Bf16, 128)                                                   \
  PK_EACH_BIAS(PK_KERNEL, pass, Arguments, Shape, f16, F16, 64)                                                      \
  PK_EACH_BIAS(PK_KERNEL, pass, Arguments, Shape, f16, F16, 128)                                                     \
  namespace pkernels {                                                                                               \
  namespace cuda {                                                                                                   \
  Kernel pass##_kernel(Type type, int64_t d, Bias bias) {                                                            \
    static const Kernel kernels[2][2][3] = {{PK_ENTRIES(pass, Shape, bf16, 64), PK_ENTRIES(pass, Shape, bf16, 128)}, \
                                            {PK_ENTRIES(pass, Shape, f16, 64), PK_ENTRIES(pass, Shape, f16, 128)}};  \
    return kernels[type == Type::f16][d > 64][static_cast<int>(bias)];                                               \
  }                                                                                                                  \
  }                                                                                                                  \
  }
#define PK_ENTRIES(pass, Shape, type, D)                                           \
  {PK_ENTRY(pass, Shape, type, D, none), PK_ENTRY(pass, Shape, type, D, distance), \
   PK_ENTRY(pass, Shape, type, D, dense)}

// The same of a pass that knows no biases: pass_kernel(type, d).
#define PK_PLAIN_KERNELS(pass, Arguments, Shape)                                         \
  PK_KERNEL(pass, Arguments, Shape, bf16, Bf16, 64, none)                                \
  PK_KERNEL(pass, Arguments, Shape, bf16, Bf16, 128, none)                               \
  PK_KERNEL(pass, Arguments, Shape, f16, F16, 64, none)                                  \
  PK_KERNEL(pass, Arguments, Shape, f16, F16, 128, none)                                 \
  namespace pkernels {                                                                   \
  namespace cuda {                                                                       \
  Kernel pass##_kernel(Type type, int64_t d) {                                           \
    static const Kernel kernels[2][2] = {                                                \
        {PK_ENTRY(pass, Shape, bf16, 64, none), PK_ENTRY(pass, Shape, bf16, 128, none)}, \
        {PK_ENTRY(pass, Shape, f16, 64, none), PK_ENTRY(pass, Shape, f16, 128, none)}};  \
    return kernels[type == Type::f16][d > 64];                                           \
  }                                                                                      \
  }                                                                                      \
  }
