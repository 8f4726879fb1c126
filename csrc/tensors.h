// Tensors as the kernels see them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "params.h"

namespace pkernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Type::f32;
    case ScalarType::BFloat16:
      return Type::bf16;
    case ScalarType::Half:
      return Type::f16;
    default:
      STD_TORCH_CHECK(false, "float32, bfloat16 or float16 is wanted");
  }
}

inline Rows rows_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.size(3) <= 1 || x.stride(3) == 1),
                  "rows (B, H, S, D) with contiguous D are wanted");
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

}  // namespace pkernels
