#include "launch.h"

#include <cuda_runtime.h>

namespace pkernels {
namespace cuda {

const char* launch(const Kernel& kernel, int64_t grid, void* arguments, int device, void* stream) {
  int before = 0;
  cudaError_t status = cudaGetDevice(&before);
  if (status == cudaSuccess) status = cudaSetDevice(device);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (kernel.shared > 48 << 10) {
    status = cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared);
  }
  if (status == cudaSuccess) {
    status = cudaLaunchKernel(kernel.function, dim3(static_cast<unsigned>(grid)), dim3(kernel.threads), &arguments,
                              kernel.shared, static_cast<cudaStream_t>(stream));
  }
  const cudaError_t launched = cudaGetLastError();
  if (before != device) cudaSetDevice(before);
  if (status == cudaSuccess) status = launched;
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace cuda
}  // namespace pkernels
