// The operators pkernels_native::band_forward and band_backward: tensors to plain numbers.
// Arguments were checked in Python (pkernels/native/band.py); outputs are allocated there.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/band.h"

namespace {

using namespace pkernels;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Type::f32;
    case ScalarType::BFloat16:
      return Type::bf16;
    case ScalarType::Half:
      return Type::f16;
    default:
      STD_TORCH_CHECK(false, "float32, bfloat16 or float16 is wanted");
  }
}

Rows rows_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4 && (x.size(3) <= 1 || x.stride(3) == 1),
                  "rows (B, H, S, D) with contiguous D are wanted");
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

const float* floats(const std::optional<Tensor>& x) { return x ? static_cast<const float*>(x->data_ptr()) : nullptr; }

// Owns the arrays that a Problem points into.
struct Call {
  Problem problem;
  std::vector<Span> queries, keys;
  std::vector<int64_t> columns;

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& distance,
       const std::optional<Tensor>& dense, const std::vector<int64_t>& q_rows, const std::vector<int64_t>& k_rows,
       std::vector<int64_t> global_columns, const std::vector<int64_t>& band, int64_t zero, bool packed, double scale,
       double dropout, int64_t seed)
      : columns(std::move(global_columns)) {
    Problem& p = problem;
    p.type = type_of(q);
    p.batch = columns.size(), p.heads = q.size(1), p.kv_heads = std::max<int64_t>(1, k.size(1));
    p.d = q.size(3), p.dv = v.size(3), p.packed = packed;
    int64_t longest = 0;
    for (int64_t b = 0; b < p.batch; ++b) {
      queries.push_back({q_rows[2 * b], q_rows[2 * b + 1] - q_rows[2 * b]});
      keys.push_back({k_rows[2 * b], k_rows[2 * b + 1] - k_rows[2 * b]});
      longest = std::max(longest, queries[b].count + keys[b].count);
    }
    p.queries = queries.data(), p.keys = keys.data(), p.columns = columns.data();
    p.band = {std::clamp(band[0], -longest, longest), std::clamp(band[1], -longest, longest), band[2],
              std::min(band[3], longest + 1)};
    p.scale = static_cast<float>(scale);
    if (distance) {
      p.distance = floats(distance), p.distance_head = distance->stride(0);
      p.distance_width = distance->size(1), p.zero = zero;
    }
    if (dense) {
      auto step = [&](int64_t i) { return dense->size(i) == 1 ? 0 : dense->stride(i); };
      p.dense = dense->data_ptr(), p.dense_type = type_of(*dense);
      p.dense_batch = step(0), p.dense_head = step(1), p.dense_row = step(2), p.dense_column = step(3);
    }
    p.threshold = static_cast<uint32_t>(std::nearbyint(65536 * dropout));
    p.keep_scale = static_cast<float>(1 / (1 - dropout));
    p.seed = static_cast<uint64_t>(seed);
  }
};

void forward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, std::optional<Tensor> distance,
             std::optional<Tensor> dense, std::vector<int64_t> q_rows, std::vector<int64_t> k_rows,
             std::vector<int64_t> columns, std::vector<int64_t> band, int64_t zero, bool packed, double scale,
             double dropout, int64_t seed) {
  const Call call(q, k, v, distance, dense, q_rows, k_rows, columns, band, zero, packed, scale, dropout, seed);
  Forward f{};
  f.problem = call.problem;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out);
  f.lse = static_cast<float*>(lse.data_ptr()), f.lse_batch = lse.stride(0), f.lse_head = lse.stride(1);
  band_forward(f);
}

void backward(Tensor dout, std::optional<Tensor> dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor dq,
              Tensor dk, Tensor dv, std::optional<Tensor> ddistance, std::optional<Tensor> ddense,
              std::optional<Tensor> distance, std::optional<Tensor> dense, std::vector<int64_t> q_rows,
              std::vector<int64_t> k_rows, std::vector<int64_t> columns, std::vector<int64_t> band, int64_t zero,
              bool packed, double scale, double dropout, int64_t seed) {
  const Call call(q, k, v, distance, dense, q_rows, k_rows, columns, band, zero, packed, scale, dropout, seed);
  Backward f{};
  f.problem = call.problem;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out), f.dout = rows_of(dout);
  f.dq = rows_of(dq), f.dk = rows_of(dk), f.dv = rows_of(dv);
  f.lse = static_cast<const float*>(lse.data_ptr()), f.lse_batch = lse.stride(0), f.lse_head = lse.stride(1);
  if (dlse) {
    f.dlse = floats(dlse), f.dlse_batch = dlse->stride(0), f.dlse_head = dlse->stride(1), f.dlse_row = dlse->stride(2);
  }
  f.ddistance = const_cast<float*>(floats(ddistance));
  if (ddense) {
    f.ddense = const_cast<float*>(floats(ddense));
    for (int i = 0; i < 4; ++i) f.ddense_size[i] = ddense->size(i);
  }
  band_backward(f);
}

// Rows of partial sums that the caller provides for the gradient of Distance, per head.
int64_t distance_rows(int64_t batch, int64_t kv_heads, int64_t longest) {
  Problem p;
  std::vector<Span> keys(batch, Span{0, longest});
  p.batch = batch, p.kv_heads = kv_heads, p.keys = keys.data();
  return batch * band_parts(p);
}

}  // namespace

#define PK_PROBLEM                                                                                                  \
  "Tensor? distance, Tensor? dense, int[] q_rows, int[] k_rows, int[] columns, int[] band, int zero, bool packed, " \
  "float scale, float dropout, int seed) -> ()"

STABLE_TORCH_LIBRARY_FRAGMENT(pkernels_native, m) {
  m.def("band_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_PROBLEM);
  m.def(
      "band_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor(a!) dq, "
      "Tensor(b!) dk, Tensor(c!) dv, Tensor(d!)? ddistance, Tensor(e!)? ddense, " PK_PROBLEM);
  m.def("distance_rows(int batch, int kv_heads, int longest) -> int");
  m.def("peak_rate(float seconds, bool in_pairs=False) -> float");
}

STABLE_TORCH_LIBRARY_IMPL(pkernels_native, CompositeExplicitAutograd, m) {
  m.impl("band_forward", TORCH_BOX(&forward));
  m.impl("band_backward", TORCH_BOX(&backward));
  m.impl("distance_rows", TORCH_BOX(&distance_rows));
  m.impl("peak_rate", TORCH_BOX(&peak_rate));
}
