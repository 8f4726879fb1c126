// The kernels by their names, and how one is launched. No torch.
#pragma once

#include "arguments.h"

namespace pkernels {
namespace cuda {

struct Kernel {
  const char* name;
  const void* function;
  int rows, columns, threads, shared;  // of a tile: its rows and those of the other side; of a CTA: its threads and
                                       // bytes of dynamic shared memory
};

// The narrowest for head dimension `d`; without a function where there is none. See instances.cuh.
Kernel forward_kernel(Type type, int64_t d, Bias bias);
Kernel dq_kernel(Type type, int64_t d, Bias bias);
Kernel dkv_kernel(Type type, int64_t d, Bias bias);
Kernel diagonals_kernel(Type type, int64_t d, Bias bias);
Kernel ddense_kernel(Type type, int64_t d, Bias bias);

Kernel merge_kernel(Type type);
Kernel blocks_forward_kernel(Type type, int64_t d, Bias bias);
Kernel blocks_dq_kernel(Type type, int64_t d, Bias bias);
Kernel blocks_dkv_kernel(Type type, int64_t d, Bias bias);
Kernel blocks_diagonals_kernel(Type type, int64_t d, Bias bias);
Kernel blocks_ddense_kernel(Type type, int64_t d, Bias bias);

// On a device's stream. Returns what went wrong, or nullptr.
const char* launch(const Kernel& kernel, int64_t grid, void* arguments, int device, void* stream);

}  // namespace cuda
}  // namespace pkernels
