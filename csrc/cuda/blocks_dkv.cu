#include "blocks.cuh"
#include "dkv.cuh"

#include "instances.cuh"

namespace pkernels {
namespace cuda {

template <class T, int D, Bias B>
PK_DEVICE void blocks_dkv(const Backward& f) {
  dkv<T, D, B, OverBlocks>(f);
}

}  // namespace cuda
}  // namespace pkernels

PK_KERNELS(blocks_dkv, Backward, BackwardShape, PK_ABSOLUTE)
