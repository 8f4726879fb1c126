// The operators pkernels_cuda::lsh_hash and lsh_sort; see bindings.cpp. Arguments were checked in Python
// (pkernels/ops/order.py).
#include "order.h"

#include <algorithm>
#include <vector>

#include "../band.h"
#include "../names.h"
#include "start.h"

namespace {

using namespace pkernels;
using cuda::Maybe;

// x (B, H, S, D); contiguous: rotations (H, D, R, E) float32, mask (B, S), hashes (B, H, R, S) int32.
std::string lsh_hash(Tensor x, Tensor rotations, Maybe mask, std::vector<int64_t> buckets, Tensor hashes, Maybe note) {
  cuda::Hashing f{};
  STD_TORCH_CHECK(buckets.size() <= cuda::most_factors, "buckets: too many factors");
  f.type = type_of(x), f.x = rows_of(x), f.mask = cuda::pointer<bool>(mask);
  f.heads = x.size(1), f.rows = x.size(2), f.d = x.size(3);
  f.rotations = static_cast<const float*>(rotations.data_ptr()), f.rounds = rotations.size(2);
  f.columns = rotations.size(3), f.factors = static_cast<int32_t>(buckets.size());
  std::copy(buckets.begin(), buckets.end(), f.buckets);
  f.hashes = static_cast<int32_t*>(hashes.data_ptr());
  const cuda::Kernel kernel = cuda::hash_kernel();
  f.tiles = ceil_div(f.rows, kernel.rows);
  return cuda::start(kernel, f.tiles * f.rounds * f.heads * x.size(0), f, x, note);
}

// hashes and spare (B, H, R, S), order (B, H, R, N), int32 and contiguous.
std::string lsh_sort(Tensor hashes, int64_t values, Tensor order, Tensor spare, Maybe note) {
  cuda::Sorting f{};
  f.hashes = static_cast<const int32_t*>(hashes.data_ptr()), f.order = static_cast<int32_t*>(order.data_ptr());
  f.spare = static_cast<int32_t*>(spare.data_ptr()), f.values = static_cast<int32_t>(values);
  f.rows = hashes.size(3), f.entries = order.size(3);
  return cuda::start(cuda::sort_kernel(), hashes.size(0) * hashes.size(1) * hashes.size(2), f, hashes, note);
}

}  // namespace

PK_LIBRARY_FRAGMENT(PK_CUDA, m) {
  m.def(
      "lsh_hash(Tensor x, Tensor rotations, Tensor? mask, int[] buckets, Tensor(a!) hashes, "
      "Tensor(z!)? note=None) -> str");
  m.def("lsh_sort(Tensor hashes, int values, Tensor(a!) order, Tensor(b!) spare, Tensor(z!)? note=None) -> str");
}

PK_LIBRARY_IMPL(PK_CUDA, CompositeExplicitAutograd, m) {
  m.impl("lsh_hash", TORCH_BOX(&lsh_hash));
  m.impl("lsh_sort", TORCH_BOX(&lsh_sort));
}
