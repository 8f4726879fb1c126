// What torch and Python call this build. kernel-builder (build.toml) makes one module of all sources, with
// CPU_KERNEL or CUDA_KERNEL defined, under a name of its own, so that two versions can share a process.
#pragma once

#include <torch/csrc/stable/library.h>

#define PK_JOINED(a, b) a##b
#define PK_JOIN(a, b) PK_JOINED(a, b)

#if defined(CPU_KERNEL) || defined(CUDA_KERNEL)
#define PK_ONE_MODULE
#define PK_MODULE TORCH_EXTENSION_NAME
#define PK_NATIVE PK_JOIN(TORCH_EXTENSION_NAME, _native)
#define PK_CUDA PK_JOIN(TORCH_EXTENSION_NAME, _cuda)
#else
#define PK_MODULE _C
#define PK_NATIVE pkernels_native
#define PK_CUDA pkernels_cuda
#endif

// torch's macros would take the names above for names.
#define PK_LIBRARY(name, m) STABLE_TORCH_LIBRARY(name, m)
#define PK_LIBRARY_FRAGMENT(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)
#define PK_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)
