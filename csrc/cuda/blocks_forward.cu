#include "blocks.cuh"
#include "forward.cuh"

#include "instances.cuh"

namespace pkernels {
namespace cuda {

template <int D, Bias B>
using BlocksForwardShape = ForwardShape<D, B, OverBlocks::rows>;

template <class T, int D, Bias B>
PK_DEVICE void blocks_forward(const Forward& f) {
  forward<T, D, B, OverBlocks>(f);
}

}  // namespace cuda
}  // namespace pkernels

PK_KERNELS(blocks_forward, Forward, BlocksForwardShape, PK_ABSOLUTE)
