// Parts of an attention put together: each attended to its own keys (Dao et al. 2022,
// arXiv:2205.14135, section 3.1; what pkernels/merge.py does). A warp per row.
#pragma once

#include "scores.cuh"

namespace pkernels {
namespace cuda {

constexpr int merging_warps = 4;

PK_DEVICE void store_number(void* to, int64_t at, float x, Bf16) {
  static_cast<uint16_t*>(to)[at] = static_cast<uint16_t>(Bf16::pack(x, 0));
}
PK_DEVICE void store_number(void* to, int64_t at, float x, F16) {
  static_cast<uint16_t*>(to)[at] = static_cast<uint16_t>(F16::pack(x, 0));
}
PK_DEVICE void store_number(void* to, int64_t at, float x, F32) { static_cast<float*>(to)[at] = x; }

template <class T>
PK_DEVICE void merge(const Merge& f) {
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * merging_warps + threadIdx.x / 32;
  if (row >= f.rows) return;
  float top = -INFINITY, total = 0;
  for (int64_t p = 0; p < f.parts; ++p) top = fmaxf(top, f.lses[p * f.rows + row]);
  const float pivot = top == -INFINITY ? 0.0f : top;
  for (int64_t p = 0; p < f.parts; ++p) total += exp2((f.lses[p * f.rows + row] - pivot) * log2e);
  const float share = total == 0 ? 0.0f : 1 / total;
  const int64_t i = row % f.per_head, head = row / f.per_head % f.heads, batch = row / f.per_head / f.heads;
  if (lane == 0) *numbers_of(f.lse, batch, head, i) = pivot + log2(total) * ln2;
  for (int64_t column = lane; column < f.width; column += 32) {
    float sum = 0;
    for (int64_t p = 0; p < f.parts; ++p) {
      const float lse = f.lses[p * f.rows + row];
      // A part without a key may hold anything.
      if (lse != -INFINITY) sum += exp2((lse - pivot) * log2e) * f.outs[(p * f.rows + row) * f.width + column];
    }
    const int64_t at = batch * f.out.batch + head * f.out.head + i * f.out.row + column;
    store_number(f.out.data, at, sum * share, T{});
  }
}

}  // namespace cuda
}  // namespace pkernels
