// The operators pkernels_native::plain_forward and plain_backward: a Band and nothing else, from tensors to tensors.
// Arguments were checked in Python (pkernels/ops/plain.py); of a short call, that part takes as long as the kernel.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "attention_call.h"
#include "names.h"

namespace {

using namespace pkernels;

// A new tensor (B, H, S, width), in memory with heads and rows in the order in which x has them.
Tensor rows_like(const Tensor& x, int64_t width) {
  const int64_t b = x.size(0), h = x.size(1), s = x.size(2);
  auto made = [&](std::vector<int64_t> size) {
    return torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device());
  };
  return x.stride(1) < x.stride(2) ? torch::stable::transpose(made({b, s, h, width}), 1, 2) : made({b, h, s, width});
}

struct PlainCall : Call {
  PlainCall(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& band, int64_t columns_,
            double scale)
      : Call(q, k, v, {}, {}, {}, {}, all_rows(q), all_rows(k), 0, false, scale, 0, 0) {
    set_band(band);
    columns.assign(problem.batch, columns_);
  }

  static std::vector<int64_t> all_rows(const Tensor& x) {
    std::vector<int64_t> spans(2 * x.size(0), 0);
    for (size_t b = 1; b < spans.size(); b += 2) spans[b] = x.size(2);
    return spans;
  }
};

#define PK_PLAIN std::vector<int64_t> band, int64_t columns, double scale
std::tuple<Tensor, Tensor> plain_forward(Tensor q, Tensor k, Tensor v, PK_PLAIN) {
  const PlainCall call(q, k, v, band, columns, scale);
  const Tensor out = rows_like(q, v.size(3));
  const Tensor lse =
      torch::stable::empty({q.size(0), q.size(1), q.size(2)}, ScalarType::Float, std::nullopt, q.device());
  attention_forward(forward_of(call, q, k, v, out, lse));
  return {out, lse};
}
std::tuple<Tensor, Tensor, Tensor> plain_backward(Tensor dout, std::optional<Tensor> dlse, Tensor q, Tensor k, Tensor v,
                                                  Tensor out, Tensor lse, PK_PLAIN) {
  const PlainCall call(q, k, v, band, columns, scale);
  const Tensor dq = rows_like(q, q.size(3)), dk = rows_like(k, k.size(3)), dv = rows_like(v, v.size(3));
  attention_backward(backward_of(call, dout, dlse, q, k, v, out, lse, dq, dk, dv, {}, {}, {}, {}));
  return {dq, dk, dv};
}

}  // namespace

#define PK_PLAIN_SCHEMA "int[] band, int columns, float scale"

PK_LIBRARY_FRAGMENT(PK_NATIVE, m) {
  m.def("plain_forward(Tensor q, Tensor k, Tensor v, " PK_PLAIN_SCHEMA ") -> (Tensor, Tensor)");
  m.def(
      "plain_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, " PK_PLAIN_SCHEMA
      ") -> (Tensor, Tensor, Tensor)");
}

PK_LIBRARY_IMPL(PK_NATIVE, CompositeExplicitAutograd, m) {
  m.impl("plain_forward", TORCH_BOX(&plain_forward));
  m.impl("plain_backward", TORCH_BOX(&plain_backward));
}
