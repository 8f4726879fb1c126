#include "blocks.cuh"
#include "forward.cuh"

#include "instances.cuh"

namespace pkernels {
namespace cuda {

template <int Width, Bias B>
using BlocksForwardShape = ForwardShape<Width, B, OverBlocks::rows>;

}  // namespace cuda
}  // namespace pkernels

PK_OVER_BLOCKS(forward, Forward, BlocksForwardShape, OverBlocks, PK_EVERY_BIAS, PK_ABSOLUTE)
