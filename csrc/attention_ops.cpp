// The operators pkernels_native::<shape>_forward and <shape>_backward. Arguments were checked in Python
// (pkernels/native); outputs are allocated there.
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "attention_call.h"
#include "names.h"

namespace {

using namespace pkernels;

// The arguments of every forward and of every backward, before those of the pattern.
#define PK_COMMON                                                                                          \
  std::optional<Tensor> distance, std::optional<Tensor> dense, std::optional<Tensor> query,                \
      std::optional<Tensor> table, std::vector<int64_t> q_rows, std::vector<int64_t> k_rows, int64_t zero, \
      bool packed, double scale, double dropout, int64_t seed
#define PK_CALL Call call(q, k, v, distance, dense, query, table, q_rows, k_rows, zero, packed, scale, dropout, seed)
#define PK_FORWARD Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, PK_COMMON
#define PK_BACKWARD                                                                                                    \
  Tensor dout, std::optional<Tensor> dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor dq, Tensor dk, \
      Tensor dv, std::optional<Tensor> ddistance, std::optional<Tensor> ddense, std::optional<Tensor> dquery,          \
      std::optional<Tensor> dtable, PK_COMMON
#define PK_FORWARD_OF forward_of(call, q, k, v, out, lse)
#define PK_BACKWARD_OF backward_of(call, dout, dlse, q, k, v, out, lse, dq, dk, dv, ddistance, ddense, dquery, dtable)

#define PK_BAND std::vector<int64_t> columns, std::vector<int64_t> band
void band_forward(PK_FORWARD, PK_BAND) {
  PK_CALL;
  call.set_band(band);
  call.problem.columns = columns.data();
  attention_forward(PK_FORWARD_OF);
}
void band_backward(PK_BACKWARD, PK_BAND) {
  PK_CALL;
  call.set_band(band);
  call.problem.columns = columns.data();
  attention_backward(PK_BACKWARD_OF);
}

#define PK_BLOCKS Tensor offsets, Tensor columns, Tensor counts, int64_t size
void blocks_forward(PK_FORWARD, PK_BLOCKS) {
  PK_CALL;
  call.set_blocks(offsets, columns, counts, size);
  attention_forward(PK_FORWARD_OF);
}
void blocks_backward(PK_BACKWARD, PK_BLOCKS) {
  PK_CALL;
  call.set_blocks(offsets, columns, counts, size);
  attention_backward(PK_BACKWARD_OF);
}

#define PK_BUCKETS Tensor order, std::vector<int64_t> numbers, std::optional<double> own
void buckets_forward(PK_FORWARD, PK_BUCKETS) {
  PK_CALL;
  call.set_buckets(order, numbers, own);
  chunks_forward(PK_FORWARD_OF);
}
void buckets_backward(PK_BACKWARD, PK_BUCKETS) {
  PK_CALL;
  call.set_buckets(order, numbers, own);
  chunks_backward(PK_BACKWARD_OF);
}

// Rows of partial sums that the caller provides for the gradients of Distance and of a table, per head.
int64_t distance_rows(int64_t batch, int64_t kv_heads, int64_t longest) {
  Problem p;
  std::vector<Span> keys(batch, Span{0, longest});
  p.batch = batch, p.kv_heads = kv_heads, p.keys = keys.data();
  return batch * key_parts(p);
}

}  // namespace

#define PK_SCHEMA                                                                                                      \
  "Tensor? distance, Tensor? dense, Tensor? query, Tensor? table, int[] q_rows, int[] k_rows, int zero, bool packed, " \
  "float scale, "                                                                                                      \
  "float dropout, int seed, "
#define PK_FORWARD_SCHEMA "_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_SCHEMA
#define PK_BACKWARD_SCHEMA                                                                                     \
  "_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor(a!) dq, " \
  "Tensor(b!)"                                                                                                 \
  " dk, Tensor(c!) dv, Tensor(d!)? ddistance, Tensor(e!)? ddense, Tensor(f!)? dquery, Tensor(g!)? dtable, " PK_SCHEMA
#define PK_DEFINE(shape, pattern)                   \
  m.def(shape PK_FORWARD_SCHEMA pattern ") -> ()"); \
  m.def(shape PK_BACKWARD_SCHEMA pattern ") -> ()")

PK_LIBRARY_FRAGMENT(PK_NATIVE, m) {
  PK_DEFINE("band", "int[] columns, int[] band");
  PK_DEFINE("blocks", "Tensor offsets, Tensor columns, Tensor counts, int size");
  PK_DEFINE("buckets", "Tensor order, int[] numbers, float? own");
  m.def("distance_rows(int batch, int kv_heads, int longest) -> int");
  m.def("peak_rate(float seconds, bool in_pairs=False) -> float");
}

PK_LIBRARY_IMPL(PK_NATIVE, CompositeExplicitAutograd, m) {
  m.impl("band_forward", TORCH_BOX(&band_forward));
  m.impl("band_backward", TORCH_BOX(&band_backward));
  m.impl("blocks_forward", TORCH_BOX(&blocks_forward));
  m.impl("blocks_backward", TORCH_BOX(&blocks_backward));
  m.impl("buckets_forward", TORCH_BOX(&buckets_forward));
  m.impl("buckets_backward", TORCH_BOX(&buckets_backward));
  m.impl("distance_rows", TORCH_BOX(&distance_rows));
  m.impl("peak_rate", TORCH_BOX(&peak_rate));
}
