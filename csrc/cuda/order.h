// What the kernels of LSH hashing and sorting are given (Kitaev et al. 2020, arXiv:2001.04451, section 2).
#pragma once

#include "launch.h"

namespace pkernels {
namespace cuda {

constexpr int most_factors = 31;  // their product is below 2^31

struct Hashing {
  Type type = Type::f32;
  Rows x;                            // (B, H, S, D)
  const float* rotations = nullptr;  // (H, D, R, columns)
  const bool* mask = nullptr;        // (B, S) real rows; nullptr: all
  int64_t heads = 0, rounds = 0, rows = 0, d = 0, columns = 0, tiles = 0;
  int32_t factors = 0, buckets[most_factors] = {};
  int32_t* hashes = nullptr;  // (B, H, R, S)
};

struct Sorting {
  const int32_t* hashes = nullptr;             // below `values`, of `rows` rows a list
  int32_t *order = nullptr, *spare = nullptr;  // `entries` and `rows` a list
  int64_t rows = 0, entries = 0;
  int32_t values = 0;  // the last of which have the rows that are not real
};

Kernel hash_kernel();
Kernel sort_kernel();

}  // namespace cuda
}  // namespace pkernels
