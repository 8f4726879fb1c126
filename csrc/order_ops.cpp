// The operator pkernels_native::lsh_order. Arguments were checked in Python (pkernels/ops/order.py).
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "cpu/attention.h"
#include "names.h"
#include "tensors.h"

namespace {

using namespace pkernels;

// x (B, H, S, D); rotations (H, D, R, E) float32, mask (B, S) and order (B, H, R, N) int32 contiguous.
void order(Tensor x, Tensor rotations, std::optional<Tensor> mask, std::vector<int64_t> buckets, Tensor order) {
  Hash f;
  f.type = type_of(x), f.x = rows_of(x);
  f.batch = x.size(0), f.heads = x.size(1), f.rows = x.size(2), f.d = x.size(3);
  f.rounds = rotations.size(2), f.rotations = static_cast<const float*>(rotations.data_ptr());
  f.buckets = buckets.data(), f.factors = buckets.size();
  lsh_order(f, mask ? static_cast<const bool*>(mask->data_ptr()) : nullptr, static_cast<int32_t*>(order.data_ptr()),
            order.size(3));
}

}  // namespace

PK_LIBRARY_FRAGMENT(PK_NATIVE, m) {
  m.def("lsh_order(Tensor x, Tensor rotations, Tensor? mask, int[] buckets, Tensor(a!) order) -> ()");
}

PK_LIBRARY_IMPL(PK_NATIVE, CompositeExplicitAutograd, m) { m.impl("lsh_order", TORCH_BOX(&order)); }
