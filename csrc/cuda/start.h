// How the operators of csrc/cuda launch a kernel on torch's stream, without a library of CUDA.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>
#include <string>

#include "../tensors.h"
#include "launch.h"

namespace pkernels {
namespace cuda {

using Maybe = std::optional<Tensor>;

template <class T>
const T* pointer(const Maybe& x) {
  return x ? static_cast<const T*>(x->data_ptr()) : nullptr;
}

inline Rows numbers_of(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1), 1}; }

// The stream that torch uses on a device, asked of torch's CUDA library, which may not be there.
inline void* current_stream(int device) {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  using Ask = int32_t (*)(int32_t, void**);
  const auto ask = library ? reinterpret_cast<Ask>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  STD_TORCH_CHECK(ask, "backend 'cuda': this torch was built without CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(ask(device, &stream) == 0, "backend 'cuda': torch names no current stream of device ", device);
  return stream;
}

// Launches a kernel; or, if there is a tensor for them, writes its arguments there. Returns its
// name, CTAs, threads, and bytes of shared memory.
template <class Arguments>
std::string start(const Kernel& kernel, int64_t grid, Arguments& arguments, const Tensor& q, const Maybe& note) {
  if (note) {
    STD_TORCH_CHECK(note->numel() >= static_cast<int64_t>(sizeof arguments), "note: too small");
    std::memset(note->data_ptr(), 0, note->numel());
    std::memcpy(note->data_ptr(), &arguments, sizeof arguments);
  } else if (grid > 0) {
    STD_TORCH_CHECK(grid < int64_t{1} << 31, "backend 'cuda': ", grid, " tiles are more than one launch has");
    const int device = q.get_device_index();
    const char* wrong = launch(kernel, grid, &arguments, device, current_stream(device));
    STD_TORCH_CHECK(!wrong, "backend 'cuda': the kernel ", kernel.name, " cannot be launched: ", wrong);
  }
  return std::string(kernel.name) + " " + std::to_string(grid) + " " + std::to_string(kernel.threads) + " " +
         std::to_string(kernel.shared);
}

}  // namespace cuda
}  // namespace pkernels
