#include "hash.cuh"
#include "sort.cuh"

extern "C" __global__ void __launch_bounds__(pkernels::cuda::HashShape::threads, pkernels::cuda::HashShape::at_once)
    hash_rows(const __grid_constant__ pkernels::cuda::Hashing f) {
  pkernels::cuda::hash(f);
}

extern "C" __global__ void __launch_bounds__(pkernels::cuda::SortShape::threads)
    sort_rows(const __grid_constant__ pkernels::cuda::Sorting f) {
  pkernels::cuda::sort(f);
}

namespace pkernels {
namespace cuda {

Kernel hash_kernel() {
  return {"hash_rows",        reinterpret_cast<const void*>(&hash_rows),
          HashShape::rows,    HashShape::columns,
          HashShape::threads, 0};
}
Kernel sort_kernel() { return {"sort_rows", reinterpret_cast<const void*>(&sort_rows), 1, 1, SortShape::threads, 0}; }

}  // namespace cuda
}  // namespace pkernels
