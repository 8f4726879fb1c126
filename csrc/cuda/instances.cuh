// The kernels of a pass, one per dtype, head dimension and kind of bias: forward_bf16_64_none, ...,
// and forward_kernel(type, d, bias), which finds one.
#pragma once

#include "launch.h"

namespace pkernels {
namespace cuda {

struct Instance {
  Type type;
  int64_t d;
  Bias bias;
  Kernel kernel;
};

// The first that is for a dtype and kind of bias and wide enough; none: without a function.
template <int N>
Kernel find(const Instance (&instances)[N], Type type, int64_t d, Bias bias) {
  for (const Instance& x : instances) {
    if (x.type == type && d <= x.d && x.bias == bias) return x.kernel;
  }
  return {};
}

}  // namespace cuda
}  // namespace pkernels

#define PK_SHAPE(Shape, T, D, B) pkernels::cuda::Shape<D * pkernels::cuda::T::halves, pkernels::cuda::Bias::B>
#define PK_KERNEL(pass, Arguments, Shape, type, T, D, B)                                                             \
  extern "C" __global__ void __launch_bounds__(PK_SHAPE(Shape, T, D, B)::threads, PK_SHAPE(Shape, T, D, B)::at_once) \
      pass##_##type##_##D##_##B(const __grid_constant__ pkernels::cuda::Arguments f) {                               \
    pkernels::cuda::pass<pkernels::cuda::T, D, pkernels::cuda::Bias::B>(f);                                          \
  }
#define PK_INSTANCE(pass, Arguments, Shape, type, T, D, B)                                             \
  {Type::type,                                                                                         \
   D,                                                                                                  \
   Bias::B,                                                                                            \
   {#pass "_" #type "_" #D "_" #B, reinterpret_cast<const void*>(&pass##_##type##_##D##_##B),          \
    PK_SHAPE(Shape, T, D, B)::own, PK_SHAPE(Shape, T, D, B)::other, PK_SHAPE(Shape, T, D, B)::threads, \
    PK_SHAPE(Shape, T, D, B)::shared}},

// Kinds of biases; a Relative is multiplied with rows of up to 256 bytes.
#define PK_EVERY_BIAS(what, ...) \
  what(__VA_ARGS__, none) what(__VA_ARGS__, distance) what(__VA_ARGS__, dense) what(__VA_ARGS__, relative)
#define PK_ABSOLUTE(what, ...) what(__VA_ARGS__, none) what(__VA_ARGS__, distance) what(__VA_ARGS__, dense)
#define PK_DISTANCE_OR_RELATIVE(what, ...) what(__VA_ARGS__, distance) what(__VA_ARGS__, relative)
#define PK_DENSE(what, ...) what(__VA_ARGS__, dense)
#define PK_NO_BIAS(what, ...) what(__VA_ARGS__, none)
#define PK_NOTHING(what, ...)

#define PK_DISTANCE(what, ...) what(__VA_ARGS__, distance)

#define PK_NARROW(biases, what, ...)                                                   \
  biases(what, __VA_ARGS__, bf16, Bf16, 64) biases(what, __VA_ARGS__, bf16, Bf16, 128) \
      biases(what, __VA_ARGS__, f16, F16, 64) biases(what, __VA_ARGS__, f16, F16, 128)
// And float32.
#define PK_UP_TO_128(biases, others, what, ...) \
  PK_NARROW(biases, what, __VA_ARGS__)          \
  biases(what, __VA_ARGS__, f32, F32, 64) others(what, __VA_ARGS__, f32, F32, 128)
// And the wide ones.
#define PK_EVERY(biases, others, what, ...)       \
  PK_UP_TO_128(biases, others, what, __VA_ARGS__) \
  others(what, __VA_ARGS__, bf16, Bf16, 256) others(what, __VA_ARGS__, f16, F16, 256)

#define PK_FINDER(pass, ...)                              \
  namespace pkernels {                                    \
  namespace cuda {                                        \
  Kernel pass##_kernel(Type type, int64_t d, Bias bias) { \
    static const Instance instances[] = {__VA_ARGS__};    \
    return find(instances, type, d, bias);                \
  }                                                       \
  }                                                       \
  }
// `others`: the biases where rows have 512 bytes.
#define PK_ALL_KERNELS(pass, Arguments, Shape, biases, others) \
  PK_EVERY(biases, others, PK_KERNEL, pass, Arguments, Shape)  \
  PK_FINDER(pass, PK_EVERY(biases, others, PK_INSTANCE, pass, Arguments, Shape))
