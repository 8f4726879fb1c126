// Tensors as the kernels see them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <optional>

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

// The tensors of a bias, and dropout.
inline void set_added(Problem& p, const std::optional<Tensor>& distance, const std::optional<Tensor>& dense,
                      const std::optional<Tensor>& query, const std::optional<Tensor>& table, int64_t zero,
                      double dropout) {
  auto step = [](const Tensor& x, int64_t i) { return x.size(i) == 1 ? 0 : x.stride(i); };
  if (distance) {
    p.distance = static_cast<const float*>(distance->data_ptr()), p.distance_head = step(*distance, 0);
    p.distance_width = distance->size(1), p.zero = zero;
  }
  if (query && table) {
    p.query = rows_of(*query), p.table = {table->data_ptr(), 0, step(*table, 0), table->stride(1)};
    p.dr = query->size(3), p.table_rows = table->size(1), p.zero = zero;
  }
  if (dense) {
    p.dense = dense->data_ptr(), p.dense_type = type_of(*dense);
    p.dense_batch = step(*dense, 0), p.dense_head = step(*dense, 1);
    p.dense_row = step(*dense, 2), p.dense_column = step(*dense, 3);
  }
  p.threshold = static_cast<uint32_t>(std::nearbyint(65536 * dropout));
  p.keep_scale = static_cast<float>(1 / (1 - dropout));
}

}  // namespace pkernels
