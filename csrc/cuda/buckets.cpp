// The operators pkernels_cuda::buckets_*: one launch a round. See bindings.cpp.
#include "buckets.h"

#include <algorithm>
#include <cmath>

#include "../band.h"
#include "../names.h"
#include "start.h"

namespace {

using namespace pkernels;
using cuda::Bias;
using cuda::Call;
using cuda::Kernel;
using cuda::Maybe;
using cuda::numbers_of;

#define PK_ROUND                                                                                      \
  Tensor order, Maybe seed, int64_t round, int64_t chunk, int64_t before, int64_t after, bool causal, \
      std::optional<double> own, double scale, double dropout, Maybe note
#define PK_SET_ROUND \
  set_round(f.call, f.round, q, k, v, order, seed, round, chunk, before, after, causal, own, scale, dropout)

// Of a contiguous order (B or 1, H or 1, R, N).
void set_round(Call& c, cuda::Round& r, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& order,
               const Maybe& seed, int64_t round, int64_t chunk, int64_t before, int64_t after, bool causal,
               std::optional<double> own, double scale, double dropout) {
  Problem& p = c.problem;
  p.type = type_of(q), p.batch = q.size(0), p.heads = q.size(1), p.kv_heads = std::max<int64_t>(1, k.size(1));
  p.d = q.size(3), p.dv = v.size(3), p.scale = static_cast<float>(scale);
  p.threshold = static_cast<uint32_t>(std::nearbyint(65536 * dropout));
  p.keep_scale = static_cast<float>(1 / (1 - dropout));
  c.rows_of_queries = c.rows_of_keys = q.size(2), c.seed = cuda::pointer<int64_t>(seed);
  Buckets& b = p.buckets;
  const int64_t size = order.size(2) * order.size(3);
  b.rows = static_cast<const int32_t*>(order.data_ptr());
  b.rows_head = order.size(1) > 1 ? size : 0, b.rows_batch = order.size(0) > 1 ? order.size(1) * size : 0;
  b.chunk = chunk, b.chunks = size / chunk, b.before = before, b.after = after, b.causal = causal;
  b.given = own.has_value(), b.own = static_cast<float>(own.value_or(0));
  r.count = order.size(3) / chunk, r.first = round * r.count;
}

template <class Arguments>
std::string start_round(const Kernel& kernel, Arguments& f, const Tensor& q, const Maybe& note) {
  const Problem& p = f.call.problem;
  f.call.tiles = f.round.count * ceil_div(p.buckets.chunk, kernel.rows);
  return start(kernel, f.call.tiles * p.heads * p.batch, f, q, note);
}

std::string buckets_forward(Tensor q, Tensor k, Tensor v, Tensor acc, Tensor top, Tensor total, PK_ROUND) {
  cuda::BucketsForward f{};
  PK_SET_ROUND;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v);
  f.acc = rows_of(acc), f.top = numbers_of(top), f.total = numbers_of(total);
  const Problem& p = f.call.problem;
  return start_round(cuda::buckets_forward_kernel(p.type, std::max(p.d, p.dv), Bias::none), f, q, note);
}

cuda::BucketsBackward backward_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                                  const Tensor& lse, const Tensor& delta, const Maybe& given) {
  cuda::BucketsBackward f{};
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.dout = rows_of(dout);
  f.lse = numbers_of(lse), f.delta = numbers_of(delta);
  if (given) f.own = numbers_of(*given);
  return f;
}

std::string buckets_dq(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Maybe given, Tensor dq,
                       PK_ROUND) {
  cuda::BucketsBackward f = backward_of(q, k, v, dout, lse, delta, given);
  PK_SET_ROUND;
  f.dq = rows_of(dq);
  const Problem& p = f.call.problem;
  return start_round(cuda::buckets_dq_kernel(p.type, std::max(p.d, p.dv), Bias::none), f, q, note);
}

std::string buckets_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Maybe given, Tensor dk,
                        Tensor dv, PK_ROUND) {
  cuda::BucketsBackward f = backward_of(q, k, v, dout, lse, delta, given);
  PK_SET_ROUND;
  f.dk = rows_of(dk), f.dv = rows_of(dv);
  const Problem& p = f.call.problem;
  return start_round(cuda::buckets_dkv_kernel(p.type, std::max(p.d, p.dv), Bias::none), f, q, note);
}

}  // namespace

#define PK_SCHEMA                                                                                            \
  "Tensor order, Tensor? seed, int round, int chunk, int before, int after, bool causal, float? own, float " \
  "scale, float dropout, Tensor(z!)? note=None) -> str"

PK_LIBRARY_FRAGMENT(PK_CUDA, m) {
  m.def("buckets_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) acc, Tensor(b!) top, Tensor(c!) total, " PK_SCHEMA);
  m.def(
      "buckets_dq(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor? given, "
      "Tensor(a!) dq, " PK_SCHEMA);
  m.def(
      "buckets_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor? given, "
      "Tensor(a!) dk, Tensor(b!) dv, " PK_SCHEMA);
}

PK_LIBRARY_IMPL(PK_CUDA, CompositeExplicitAutograd, m) {
  m.impl("buckets_forward", TORCH_BOX(&buckets_forward));
  m.impl("buckets_dq", TORCH_BOX(&buckets_dq));
  m.impl("buckets_dkv", TORCH_BOX(&buckets_dkv));
}
