// The module pkernels._C_cuda: the operators pkernels_cuda::band_* and blocks_*, tensors to plain numbers.
// Only LibTorch's stable ABI and CPython's limited API are used, and nothing of CUDA: the library
// loads without a driver, and beside every torch. Arguments were checked in Python (pkernels/cuda);
// outputs are allocated there.
#include <Python.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../band.h"
#include "../names.h"
#include "hopper.h"
#include "start.h"

#ifndef PK_CUDA_ARCHS
#define PK_CUDA_ARCHS ""
#endif

namespace {

using namespace pkernels;
using cuda::Bias;
using cuda::Call;
using cuda::Kernel;
using cuda::Maybe;
using cuda::numbers_of;
using cuda::pointer;
using cuda::start;
Call call_of(const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& distance, const Maybe& dense,
             const Maybe& query, const Maybe& table, const Maybe& q_spans, const Maybe& k_spans, const Maybe& prefix,
             const Maybe& seed, int64_t zero, bool packed, double scale, double dropout,
             const std::vector<int64_t>& band) {
  Call c;
  Problem& p = c.problem;
  p.type = type_of(q);
  c.rows_of_queries = q.size(2), c.rows_of_keys = k.size(2);
  p.batch = packed ? (q_spans ? *q_spans : *k_spans).size(0) : q.size(0);
  p.heads = q.size(1), p.kv_heads = std::max<int64_t>(1, k.size(1)), p.d = q.size(3), p.dv = v.size(3);
  p.packed = packed, p.scale = static_cast<float>(scale);
  const int64_t most = c.rows_of_queries + c.rows_of_keys;
  p.band = {std::clamp(band[0], -most, most), std::clamp(band[1], -most, most), std::min(band[3], most),
            std::min(band[4], most + 1)};
  c.columns = std::min(band[2], most), c.prefix = pointer<int32_t>(prefix);
  c.query_spans = pointer<int32_t>(q_spans), c.key_spans = pointer<int32_t>(k_spans);
  set_added(p, distance, dense, query, table, zero, dropout);
  c.seed = pointer<int64_t>(seed);
  return c;
}

Bias bias_of(const Problem& p) {
  if (p.dr > 0) return Bias::relative;
  return p.distance ? Bias::distance : p.dense ? Bias::dense : Bias::none;
}

int64_t width_of(const Problem& p) { return std::max({p.d, p.dv, p.dr}); }

int64_t count_tiles(const Call& c, int64_t rows, int64_t wide, int size) {
  const Problem& p = c.problem;
  return NumberedTiles::most(rows, p.packed ? p.batch : 1, wide, p.band.dilation, size);
}

#define PK_COMMON                                                                                                \
  Maybe distance, Maybe dense, Maybe query, Maybe table, Maybe q_spans, Maybe k_spans, Maybe prefix, Maybe seed, \
      int64_t zero, bool packed, double scale, double dropout, std::vector<int64_t> band, Maybe note
#define PK_CALL_OF \
  call_of(q, k, v, distance, dense, query, table, q_spans, k_spans, prefix, seed, zero, packed, scale, dropout, band)

std::string band_forward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, PK_COMMON) {
  cuda::Forward f{};
  f.call = PK_CALL_OF;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out), f.lse = numbers_of(lse);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::forward_kernel(p.type, width_of(p), bias_of(p));
  f.call.tiles = count_tiles(f.call, f.call.rows_of_queries, p.band.rows, kernel.rows);
  return start(kernel, f.call.tiles * p.heads * (packed ? 1 : p.batch), f, q, note);
}

// How the copy engine loads tiles of `rows` rows; only the driver knows the form, so without one the description stays.
cuda::TensorMap boxes_of(const Tensor& x, int rows, bool described) {
  // A dimension of one element may have any stride, and none is followed.
  auto step = [&](int i) { return x.size(i) == 1 ? x.size(3) * 2 : x.stride(i) * 2; };
  cuda::TensorMap map{};
  map.boxes = {x.data_ptr(), {x.size(3), x.size(2), x.size(1), x.size(0)}, {step(2), step(1), step(0)}, 64, rows,
               type_of(x)};
  if (described) return map;
  const char* wrong = cuda::encode(map);
  STD_TORCH_CHECK(!wrong, "backend 'cuda': ", wrong);
  return map;
}

bool has_hopper() { return cuda::hopper_forward_kernel != nullptr; }

// As band_forward, for what pkernels/cuda/hopper.py lets through.
std::string hopper_forward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, PK_COMMON) {
  STD_TORCH_CHECK(has_hopper(), "backend 'cuda': it was built without the kernels for sm_90a");
  cuda::HopperForward f{};
  f.forward.call = PK_CALL_OF;
  f.forward.out = rows_of(out), f.forward.lse = numbers_of(lse);
  Call& call = f.forward.call;
  const Kernel kernel = cuda::hopper_forward_kernel(call.problem.type, width_of(call.problem), Bias::none);
  f.queries = boxes_of(q, kernel.rows, note.has_value());
  f.keys = boxes_of(k, kernel.columns, note.has_value()), f.values = boxes_of(v, kernel.columns, note.has_value());
  call.tiles = count_tiles(call, call.rows_of_queries, call.problem.band.rows, kernel.rows);
  return start(kernel, call.tiles * call.problem.heads * (packed ? 1 : call.problem.batch), f, q, note);
}

// The same by parts of the keys: outs (parts, B, H, Sq, Dv) and lses (parts, B, H, Sq), float32, contiguous.
std::string band_parts(Tensor q, Tensor k, Tensor v, Tensor outs, Tensor lses, PK_COMMON) {
  cuda::Forward f{};
  f.call = PK_CALL_OF;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v);
  f.outs = static_cast<float*>(outs.data_ptr());
  f.lse = {lses.data_ptr(), lses.stride(1), lses.stride(2), 1}, f.part_rows = lses.stride(0);
  f.parts = lses.size(0);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::forward_kernel(p.type, width_of(p), bias_of(p));
  f.call.tiles = count_tiles(f.call, f.call.rows_of_queries, p.band.rows, kernel.rows);
  return start(kernel, f.call.tiles * f.parts * p.heads * (packed ? 1 : p.batch), f, q, note);
}

std::string merge_parts(Tensor outs, Tensor lses, Tensor out, Tensor lse, Maybe note) {
  cuda::Merge f{static_cast<const float*>(outs.data_ptr()),
                static_cast<const float*>(lses.data_ptr()),
                outs.size(0),
                lse.numel(),
                outs.size(4),
                outs.size(2),
                outs.size(3),
                rows_of(out),
                numbers_of(lse)};
  const Kernel kernel = cuda::merge_kernel(type_of(out));
  return start(kernel, ceil_div(f.rows, kernel.rows), f, out, note);
}

cuda::Backward backward_of(const Call& call, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
                           const Tensor& lse, const Tensor& delta) {
  cuda::Backward f{};
  f.call = call;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.dout = rows_of(dout);
  f.lse = numbers_of(lse), f.delta = numbers_of(delta);
  return f;
}

std::string band_dq(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, Maybe dlse, Tensor lse, Tensor delta,
                    Tensor dq, Maybe dquery, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  f.out = rows_of(out), f.dq = rows_of(dq);
  if (dquery) f.dquery = rows_of(*dquery);
  if (dlse) f.dlse = {dlse->data_ptr(), dlse->stride(0), dlse->stride(1), dlse->stride(2)};
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::dq_kernel(p.type, width_of(p), bias_of(p));
  f.call.tiles = count_tiles(f.call, f.call.rows_of_queries, p.band.rows, kernel.rows);
  return start(kernel, f.call.tiles * p.heads * (packed ? 1 : p.batch), f, q, note);
}

std::string band_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor dk, Tensor dv,
                     PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  f.dk = rows_of(dk), f.dv = rows_of(dv);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::dkv_kernel(p.type, width_of(p), bias_of(p));
  const int64_t wide = prefix ? f.call.rows_of_keys : f.call.columns;
  f.call.tiles = count_tiles(f.call, f.call.rows_of_keys, wide, kernel.rows);
  return start(kernel, f.call.tiles * p.kv_heads * (packed ? 1 : p.batch), f, q, note);
}

using Find = Kernel(Type, int64_t, Bias);

// Sums along diagonals, (sequences, H, W) or (sequences, H, W, Dr).
std::string start_diagonals(Find find, cuda::Backward& f, const Tensor& sums, const Tensor& q, const Maybe& note) {
  f.dbias = static_cast<float*>(sums.data_ptr());
  const Problem& p = f.call.problem;
  const Kernel kernel = find(p.type, width_of(p), bias_of(p));
  const int64_t tiles = NumberedTiles::in_classes(sums.size(2), p.band.dilation, kernel.rows);
  return start(kernel, tiles * p.heads * p.batch, f, q, note);
}

// The gradient of a Dense, contiguous.
std::string start_ddense(Find find, cuda::Backward& f, const Tensor& grad, const Tensor& q, const Maybe& note) {
  f.dbias = static_cast<float*>(grad.data_ptr());
  for (int i = 0; i < 4; ++i) f.sizes[i] = grad.size(i);
  const Problem& p = f.call.problem;
  const Kernel kernel = find(p.type, width_of(p), Bias::dense);
  const int64_t tiles = ceil_div(f.sizes[2], kernel.rows) * ceil_div(f.sizes[3], kernel.columns);
  return start(kernel, f.sizes[0] * f.sizes[1] * tiles, f, q, note);
}

std::string band_diagonals(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor sums,
                           PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  return start_diagonals(cuda::diagonals_kernel, f, sums, q, note);
}

std::string band_ddense(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor grad, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  return start_ddense(cuda::ddense_kernel, f, grad, q, note);
}

#define PK_LISTS Tensor offsets, Tensor columns, Tensor counts, int64_t size
#define PK_SET_BLOCKS set_blocks(f.call, offsets, columns, counts, size)

// The lists (L, M + 1), (E,) and (E,), contiguous, of the side whose tiles a kernel takes.
void set_blocks(Call& c, const Tensor& offsets, const Tensor& columns, const Tensor& counts, int64_t size) {
  Blocks& blocks = c.problem.blocks;
  blocks.offsets = static_cast<const int32_t*>(offsets.data_ptr());
  blocks.columns = static_cast<const int32_t*>(columns.data_ptr());
  blocks.size = size, blocks.rows = offsets.size(1) - 1, blocks.lists = offsets.size(0);
  c.counts = static_cast<const int32_t*>(counts.data_ptr());
}

template <class Arguments>
std::string start_blocks(const Kernel& kernel, Arguments& f, int64_t heads, const Tensor& q, const Maybe& note) {
  const Blocks& blocks = f.call.problem.blocks;
  f.call.tiles = blocks.rows * ceil_div(blocks.size, kernel.rows);
  return start(kernel, f.call.tiles * heads * f.call.problem.batch, f, q, note);
}

std::string blocks_forward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, PK_LISTS, PK_COMMON) {
  cuda::Forward f{};
  f.call = PK_CALL_OF;
  PK_SET_BLOCKS;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out), f.lse = numbers_of(lse);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::blocks_forward_kernel(p.type, width_of(p), bias_of(p));
  return start_blocks(kernel, f, p.heads, q, note);
}

std::string blocks_dq(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, Maybe dlse, Tensor lse, Tensor delta,
                      Tensor dq, Maybe dquery, PK_LISTS, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  PK_SET_BLOCKS;
  f.out = rows_of(out), f.dq = rows_of(dq);
  if (dquery) f.dquery = rows_of(*dquery);
  if (dlse) f.dlse = {dlse->data_ptr(), dlse->stride(0), dlse->stride(1), dlse->stride(2)};
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::blocks_dq_kernel(p.type, width_of(p), bias_of(p));
  return start_blocks(kernel, f, p.heads, q, note);
}

std::string blocks_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor dk, Tensor dv,
                       PK_LISTS, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  PK_SET_BLOCKS;
  f.dk = rows_of(dk), f.dv = rows_of(dv);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::blocks_dkv_kernel(p.type, width_of(p), bias_of(p));
  return start_blocks(kernel, f, p.kv_heads, q, note);
}

// A table of how often each pair of blocks is listed, (L, M, N), contiguous.
void set_pairs(cuda::Backward& f, const Tensor& pairs, int64_t size) {
  Blocks& blocks = f.call.problem.blocks;
  blocks.size = size, blocks.lists = pairs.size(0), blocks.rows = pairs.size(1);
  f.call.counts = static_cast<const int32_t*>(pairs.data_ptr()), f.across = pairs.size(2);
}

std::string blocks_diagonals(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor sums,
                             Tensor pairs, int64_t size, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  set_pairs(f, pairs, size);
  return start_diagonals(cuda::blocks_diagonals_kernel, f, sums, q, note);
}

std::string blocks_ddense(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor grad,
                          Tensor pairs, int64_t size, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  set_pairs(f, pairs, size);
  return start_ddense(cuda::blocks_ddense_kernel, f, grad, q, note);
}

// The compute capabilities that the kernels were compiled for, such as "80 90".
std::string archs() { return PK_CUDA_ARCHS; }

}  // namespace

#define PK_SCHEMA                                                                                             \
  "Tensor? distance, Tensor? dense, Tensor? query, Tensor? table, Tensor? q_spans, Tensor? k_spans, "         \
  "Tensor? prefix, Tensor? seed, int zero, bool packed, float scale, float dropout, int[] band, Tensor(z!)? " \
  "note=None) -> str"
#define PK_LISTS_SCHEMA "Tensor offsets, Tensor columns, Tensor counts, int size, "

PK_LIBRARY(PK_CUDA, m) {
  m.def("archs() -> str");
  m.def("band_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_SCHEMA);
  m.def("has_hopper() -> bool");
  m.def("hopper_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_SCHEMA);
  m.def("band_parts(Tensor q, Tensor k, Tensor v, Tensor(a!) outs, Tensor(b!) lses, " PK_SCHEMA);
  m.def("merge_parts(Tensor outs, Tensor lses, Tensor(a!) out, Tensor(b!) lse, Tensor(z!)? note=None) -> str");
  m.def(
      "band_dq(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, Tensor? dlse, Tensor lse, "
      "Tensor(a!) delta, Tensor(b!) dq, Tensor(c!)? dquery, " PK_SCHEMA);
  m.def(
      "band_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) dk, "
      "Tensor(b!) dv, " PK_SCHEMA);
  m.def(
      "band_diagonals(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) "
      "sums, " PK_SCHEMA);
  m.def("band_ddense(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) grad, " PK_SCHEMA);
  m.def("blocks_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_LISTS_SCHEMA PK_SCHEMA);
  m.def(
      "blocks_dq(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, Tensor? dlse, Tensor lse, "
      "Tensor(a!) delta, Tensor(b!) dq, Tensor(c!)? dquery, " PK_LISTS_SCHEMA PK_SCHEMA);
  m.def(
      "blocks_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) dk, "
      "Tensor(b!) dv, " PK_LISTS_SCHEMA PK_SCHEMA);
  m.def(
      "blocks_diagonals(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) sums, "
      "Tensor pairs, int size, " PK_SCHEMA);
  m.def(
      "blocks_ddense(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) grad, "
      "Tensor pairs, int size, " PK_SCHEMA);
}

PK_LIBRARY_IMPL(PK_CUDA, CompositeExplicitAutograd, m) {
  m.impl("archs", TORCH_BOX(&archs));
  m.impl("band_forward", TORCH_BOX(&band_forward));
  m.impl("has_hopper", TORCH_BOX(&has_hopper));
  m.impl("hopper_forward", TORCH_BOX(&hopper_forward));
  m.impl("band_parts", TORCH_BOX(&band_parts));
  m.impl("merge_parts", TORCH_BOX(&merge_parts));
  m.impl("band_dq", TORCH_BOX(&band_dq));
  m.impl("band_dkv", TORCH_BOX(&band_dkv));
  m.impl("band_diagonals", TORCH_BOX(&band_diagonals));
  m.impl("band_ddense", TORCH_BOX(&band_ddense));
  m.impl("blocks_forward", TORCH_BOX(&blocks_forward));
  m.impl("blocks_dq", TORCH_BOX(&blocks_dq));
  m.impl("blocks_dkv", TORCH_BOX(&blocks_dkv));
  m.impl("blocks_diagonals", TORCH_BOX(&blocks_diagonals));
  m.impl("blocks_ddense", TORCH_BOX(&blocks_ddense));
}

#ifndef PK_ONE_MODULE
PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
#endif
