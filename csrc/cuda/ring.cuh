// Tiles that one warp has the copy engine of sm_90 load, and others multiply: a ring of slots in shared memory.
#pragma once

#include "hopper.cuh"

namespace pkernels {
namespace cuda {

// A tile of rows of D numbers: panels of 64 columns, one behind the other.
template <int D, int Rows>
struct Panels {
  static constexpr int count = D / 64, panel_bytes = Rows * 128, bytes = count * panel_bytes;
  uint32_t address;

  PK_DEVICE Tile<64> operator[](int i) const { return {address + i * panel_bytes}; }

  // By a warp.
  PK_DEVICE void load(const TensorMap& map, int row, int head, int sequence, uint32_t barrier) const {
    if (threadIdx.x % 32 != 0) return;
    arrive_expecting(barrier, bytes);
#pragma unroll
    for (int i = 0; i < count; ++i) load_box((*this)[i].address, map, 64 * i, row, head, sequence, barrier);
  }
};

// Tiles that are filled and emptied in turn; the n-th lies in slot n % Slots. Each slot has a barrier that is complete
// when it is full, and one that is when all warps of the consumers have read it.
template <int D, int Rows, int Slots>
struct Ring {
  using Held = Panels<D, Rows>;
  uint32_t tiles, barriers;

  static PK_DEVICE uint32_t index(int n) { return static_cast<uint32_t>(n) % Slots; }
  static PK_DEVICE uint32_t lap(int n) { return static_cast<uint32_t>(n) / Slots & 1; }  // a parity

  PK_DEVICE Held tile(int n) const { return {tiles + index(n) * Held::bytes}; }
  PK_DEVICE uint32_t full(int n) const { return barriers + index(n) * 16; }
  PK_DEVICE uint32_t empty(int n) const { return full(n) + 8; }

  PK_DEVICE void make(int readers) const {
    for (int n = 0; n < Slots; ++n) make_barrier(full(n), 1), make_barrier(empty(n), readers);
  }
  PK_DEVICE void await_empty(int n) const { wait_for_phase(empty(n), lap(n) ^ 1); }  // at once in the first round
  PK_DEVICE void fill(int n, const TensorMap& map, int row, int head, int sequence) const {
    tile(n).load(map, row, head, sequence, full(n));
  }
  PK_DEVICE void await(int n) const { wait_for_phase(full(n), lap(n)); }
  // By whole warps.
  PK_DEVICE void release(int n) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(empty(n));
  }
};

}  // namespace cuda
}  // namespace pkernels
