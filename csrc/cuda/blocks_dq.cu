#include "blocks.cuh"
#include "dq.cuh"

#include "instances.cuh"

namespace pkernels {
namespace cuda {

template <class T, int D, Bias B>
PK_DEVICE void blocks_dq(const Backward& f) {
  dq<T, D, B, OverBlocks>(f);
}

}  // namespace cuda
}  // namespace pkernels

PK_KERNELS(blocks_dq, Backward, BackwardShape, PK_ABSOLUTE)
