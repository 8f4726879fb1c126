// The operators pkernels_native::lstm_forward and lstm_backward. Arguments were checked and laid out
// in Python (pkernels/native/lstm.py): float32, contiguous.
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "cpu/attention.h"
#include "names.h"
#include "tensors.h"

namespace {

using namespace pkernels;

float* floats(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

// h (B, P), c (B, C) and out (B, S, P) give the sizes.
Lstm problem(const Tensor& recurrent, const Tensor& projection, const std::vector<int64_t>& order,
             const std::vector<int64_t>& lengths, double cell_clip, double projection_clip, bool reverse,
             const Tensor& h, const Tensor& c, const Tensor& out) {
  Lstm f;
  f.steps = out.size(1), f.cells = c.size(1), f.width = h.size(1);
  f.reverse = reverse, f.cell_clip = cell_clip, f.projection_clip = projection_clip;
  f.order = order.data(), f.lengths = lengths.data();
  f.recurrent = floats(recurrent), f.projection = floats(projection);
  f.h = floats(h), f.c = floats(c), f.out = floats(out);
  return f;
}

void forward(Tensor x, Tensor recurrent, Tensor projection, std::vector<int64_t> order, std::vector<int64_t> lengths,
             double cell_clip, double projection_clip, bool reverse, Tensor h, Tensor c, Tensor out,
             std::optional<Tensor> gates, std::optional<Tensor> memory) {
  Lstm f = problem(recurrent, projection, order, lengths, cell_clip, projection_clip, reverse, h, c, out);
  f.x = floats(x);
  if (gates) f.gates = floats(*gates), f.memory = floats(*memory);
  lstm_forward(f, order.size());
}

void backward(Tensor dout, Tensor recurrent, Tensor projection, std::vector<int64_t> order,
              std::vector<int64_t> lengths, double cell_clip, double projection_clip, bool reverse, Tensor first,
              Tensor out, Tensor gates, Tensor memory, Tensor dh, Tensor dc, Tensor dx, Tensor dstate, Tensor hidden) {
  Lstm f = problem(recurrent, projection, order, lengths, cell_clip, projection_clip, reverse, dh, dc, out);
  f.dout = floats(dout), f.first = floats(first), f.gates = floats(gates), f.memory = floats(memory);
  f.dx = floats(dx), f.dstate = floats(dstate), f.hidden = floats(hidden);
  lstm_backward(f, order.size());
}

}  // namespace

PK_LIBRARY_FRAGMENT(PK_NATIVE, m) {
  m.def(
      "lstm_forward(Tensor x, Tensor recurrent, Tensor projection, int[] order, int[] lengths, float cell_clip, "
      "float projection_clip, bool reverse, Tensor(a!) h, Tensor(b!) c, Tensor(c!) out, Tensor(d!)? gates, "
      "Tensor(e!)? memory) -> ()");
  m.def(
      "lstm_backward(Tensor dout, Tensor recurrent, Tensor projection, int[] order, int[] lengths, float cell_clip, "
      "float projection_clip, bool reverse, Tensor first, Tensor out, Tensor gates, Tensor memory, Tensor(a!) dh, "
      "Tensor(b!) dc, Tensor(c!) dx, Tensor(d!) dstate, Tensor(e!) hidden) -> ()");
}

PK_LIBRARY_IMPL(PK_NATIVE, CompositeExplicitAutograd, m) {
  m.impl("lstm_forward", TORCH_BOX(&forward));
  m.impl("lstm_backward", TORCH_BOX(&backward));
}
