#include "boxes.h"

#include <cuda.h>
#include <cuda_runtime.h>

namespace pkernels {
namespace cuda {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= 64);

const char* encode(TensorMap& map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode of_driver = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult answer{};
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &answer);
    return status == cudaSuccess ? reinterpret_cast<Encode>(found) : nullptr;
  }();
  if (!of_driver) return "the driver has no cuTensorMapEncodeTiled; 525 is the first that has";
  const Boxes x = map.boxes;
  cuuint64_t sizes[4], strides[3];
  for (int i = 0; i < 4; ++i) sizes[i] = static_cast<cuuint64_t>(x.sizes[i]);
  for (int i = 0; i < 3; ++i) strides[i] = static_cast<cuuint64_t>(x.strides[i]);
  const cuuint32_t box[4] = {static_cast<cuuint32_t>(x.columns), static_cast<cuuint32_t>(x.rows), 1, 1};
  const cuuint32_t every[4] = {1, 1, 1, 1};
  const CUresult status =
      of_driver(reinterpret_cast<CUtensorMap*>(map.encoded),
                x.type == Type::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                const_cast<void*>(x.data), sizes, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? nullptr : "the driver refuses a tensor map of its rows";
}

}  // namespace cuda
}  // namespace pkernels
