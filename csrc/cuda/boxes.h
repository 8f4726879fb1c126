// Boxes of a tensor (B, H, S, D) of 16-bit numbers, as the copy engine of sm_90 loads them (CUDA C++ programming
// guide, "Tensor Memory Access"): one sequence and head, some rows, 64 columns. What lies outside becomes zeros.
#pragma once

#include "../params.h"

namespace pkernels {
namespace cuda {

struct Boxes {
  const void* data;
  int64_t sizes[4];    // of dimensions D, S, H, B
  int64_t strides[3];  // bytes from one row, head, sequence to the next
  int32_t columns, rows;
  Type type;
};

// The same in the form that a kernel wants, which the driver alone knows; without a GPU as it is.
struct alignas(64) TensorMap {
  union {
    Boxes boxes;
    char encoded[128];
  };
};

// Asks the driver. Returns what went wrong, or nullptr.
const char* encode(TensorMap& map);

}  // namespace cuda
}  // namespace pkernels
