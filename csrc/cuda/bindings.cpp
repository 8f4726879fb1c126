// The module pkernels._C_cuda: the operators pkernels_cuda::band_*, tensors to plain numbers.
// Only LibTorch's stable ABI and CPython's limited API are used, and nothing of CUDA: the library
// loads without a driver, and beside every torch. Arguments were checked in Python (pkernels/cuda);
// outputs are allocated there.
#include <Python.h>
#include <dlfcn.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "../band.h"
#include "../names.h"
#include "../tensors.h"
#include "launch.h"

#ifndef PK_CUDA_ARCHS
#define PK_CUDA_ARCHS ""
#endif

namespace {

using namespace pkernels;
using cuda::Bias;
using cuda::Call;
using cuda::Kernel;
using Maybe = std::optional<Tensor>;

template <class T>
const T* pointer(const Maybe& x) {
  return x ? static_cast<const T*>(x->data_ptr()) : nullptr;
}

Call call_of(const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& distance, const Maybe& dense,
             const Maybe& q_spans, const Maybe& k_spans, const Maybe& prefix, const Maybe& seed, int64_t zero,
             bool packed, double scale, double dropout, const std::vector<int64_t>& band) {
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
  if (distance) {
    p.distance = pointer<float>(distance), p.distance_head = distance->size(0) == 1 ? 0 : distance->stride(0);
    p.distance_width = distance->size(1), p.zero = zero;
  }
  if (dense) {
    auto step = [&](int64_t i) { return dense->size(i) == 1 ? 0 : dense->stride(i); };
    p.dense = dense->data_ptr(), p.dense_type = type_of(*dense);
    p.dense_batch = step(0), p.dense_head = step(1), p.dense_row = step(2), p.dense_column = step(3);
  }
  p.threshold = static_cast<uint32_t>(std::nearbyint(65536 * dropout));
  p.keep_scale = static_cast<float>(1 / (1 - dropout));
  c.seed = pointer<int64_t>(seed);
  return c;
}

Bias bias_of(const Call& c) { return c.problem.distance ? Bias::distance : c.problem.dense ? Bias::dense : Bias::none; }

Rows numbers_of(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1), 1}; }

// The stream that torch uses on a device, asked of torch's CUDA library, which may not be there.
void* current_stream(int device) {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  using Ask = int32_t (*)(int32_t, void**);
  const auto ask = library ? reinterpret_cast<Ask>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  STD_TORCH_CHECK(ask, "backend 'cuda': this torch was built without CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(ask(device, &stream) == 0, "backend 'cuda': torch names no current stream of device ", device);
  return stream;
}

// Launches a kernel; or, if there is a tensor for them, writes its arguments there. Returns its
// name, CTAs, threads, and bytes of shared memory.
template <class Arguments>
std::string start(const Kernel& kernel, int64_t grid, Arguments& arguments, const Tensor& q, const Maybe& note) {
  if (note) {
    STD_TORCH_CHECK(note->numel() >= static_cast<int64_t>(sizeof arguments), "note: too small");
    std::memset(note->data_ptr(), 0, note->numel());
    std::memcpy(note->data_ptr(), &arguments, sizeof arguments);
  } else if (grid > 0) {
    STD_TORCH_CHECK(grid < int64_t{1} << 31, "backend 'cuda': ", grid, " tiles are more than one launch has");
    const int device = q.get_device_index();
    const char* wrong = cuda::launch(kernel, grid, &arguments, device, current_stream(device));
    STD_TORCH_CHECK(!wrong, "backend 'cuda': the kernel ", kernel.name, " cannot be launched: ", wrong);
  }
  return std::string(kernel.name) + " " + std::to_string(grid) + " " + std::to_string(kernel.threads) + " " +
         std::to_string(kernel.shared);
}

int64_t count_tiles(const Call& c, int64_t rows, int64_t wide, int size) {
  const Problem& p = c.problem;
  return NumberedTiles::most(rows, p.packed ? p.batch : 1, wide, p.band.dilation, size);
}

#define PK_COMMON                                                                                                 \
  Maybe distance, Maybe dense, Maybe q_spans, Maybe k_spans, Maybe prefix, Maybe seed, int64_t zero, bool packed, \
      double scale, double dropout, std::vector<int64_t> band, Maybe note
#define PK_CALL_OF call_of(q, k, v, distance, dense, q_spans, k_spans, prefix, seed, zero, packed, scale, dropout, band)

std::string band_forward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, PK_COMMON) {
  cuda::Forward f{};
  f.call = PK_CALL_OF;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out), f.lse = numbers_of(lse);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::forward_kernel(p.type, std::max(p.d, p.dv), bias_of(f.call));
  f.call.tiles = count_tiles(f.call, f.call.rows_of_queries, p.band.rows, kernel.rows);
  return start(kernel, f.call.tiles * p.heads * (packed ? 1 : p.batch), f, q, note);
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
                    Tensor dq, PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  f.out = rows_of(out), f.dq = rows_of(dq);
  if (dlse) f.dlse = {dlse->data_ptr(), dlse->stride(0), dlse->stride(1), dlse->stride(2)};
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::dq_kernel(p.type, std::max(p.d, p.dv), bias_of(f.call));
  f.call.tiles = count_tiles(f.call, f.call.rows_of_queries, p.band.rows, kernel.rows);
  return start(kernel, f.call.tiles * p.heads * (packed ? 1 : p.batch), f, q, note);
}

std::string band_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor dk, Tensor dv,
                     PK_COMMON) {
  cuda::Backward f = backward_of(PK_CALL_OF, q, k, v, dout, lse, delta);
  f.dk = rows_of(dk), f.dv = rows_of(dv);
  const Problem& p = f.call.problem;
  const Kernel kernel = cuda::dkv_kernel(p.type, std::max(p.d, p.dv), bias_of(f.call));
  const int64_t wide = prefix ? f.call.rows_of_keys : f.call.columns;
  f.call.tiles = count_tiles(f.call, f.call.rows_of_keys, wide, kernel.rows);
  return start(kernel, f.call.tiles * p.kv_heads * (packed ? 1 : p.batch), f, q, note);
}

// The compute capabilities that the kernels were compiled for, such as "80 90".
std::string archs() { return PK_CUDA_ARCHS; }

}  // namespace

#define PK_SCHEMA                                                                                               \
  "Tensor? distance, Tensor? dense, Tensor? q_spans, Tensor? k_spans, Tensor? prefix, Tensor? seed, int zero, " \
  "bool packed, float scale, float dropout, int[] band, Tensor(z!)? note=None) -> str"

PK_LIBRARY(PK_CUDA, m) {
  m.def("archs() -> str");
  m.def("band_forward(Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!) lse, " PK_SCHEMA);
  m.def(
      "band_dq(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, Tensor? dlse, Tensor lse, "
      "Tensor(a!) delta, Tensor(b!) dq, " PK_SCHEMA);
  m.def(
      "band_dkv(Tensor q, Tensor k, Tensor v, Tensor dout, Tensor lse, Tensor delta, Tensor(a!) dk, "
      "Tensor(b!) dv, " PK_SCHEMA);
}

PK_LIBRARY_IMPL(PK_CUDA, CompositeExplicitAutograd, m) {
  m.impl("archs", TORCH_BOX(&archs));
  m.impl("band_forward", TORCH_BOX(&band_forward));
  m.impl("band_dq", TORCH_BOX(&band_dq));
  m.impl("band_dkv", TORCH_BOX(&band_dkv));
}

#ifndef PK_ONE_MODULE
PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
#endif
