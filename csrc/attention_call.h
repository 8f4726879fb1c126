// Tensors of an attention call to plain numbers, as the kernels take them. Arguments were checked in Python.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "cpu/attention.h"
#include "tensors.h"

namespace pkernels {

inline const float* floats(const std::optional<Tensor>& x) {
  return x ? static_cast<const float*>(x->data_ptr()) : nullptr;
}

// What the operators take beside their tensors; owns the arrays that a Problem points into.
struct Call {
  Problem problem;
  std::vector<Span> queries, keys;
  std::vector<int64_t> columns;
  std::vector<float> added;
  std::vector<int32_t> rows, starts;

  Call(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& distance,
       const std::optional<Tensor>& dense, const std::optional<Tensor>& query, const std::optional<Tensor>& table,
       const std::vector<int64_t>& q_rows, const std::vector<int64_t>& k_rows, int64_t zero, bool packed, double scale,
       double dropout, int64_t seed) {
    Problem& p = problem;
    p.type = type_of(q);
    p.batch = q_rows.size() / 2, p.heads = q.size(1), p.kv_heads = std::max<int64_t>(1, k.size(1));
    p.d = q.size(3), p.dv = v.size(3), p.packed = packed;
    for (int64_t b = 0; b < p.batch; ++b) {
      queries.push_back({q_rows[2 * b], q_rows[2 * b + 1] - q_rows[2 * b]});
      keys.push_back({k_rows[2 * b], k_rows[2 * b + 1] - k_rows[2 * b]});
    }
    columns.assign(p.batch, 0);
    p.queries = queries.data(), p.keys = keys.data(), p.columns = columns.data();
    p.scale = static_cast<float>(scale);
    set_added(p, distance, dense, query, table, zero, dropout);
    p.seed = static_cast<uint64_t>(seed);
    set_band({longest(), longest(), 0, 1});
  }

  int64_t longest() const {
    int64_t rows = 0;
    for (size_t b = 0; b < queries.size(); ++b) rows = std::max(rows, queries[b].count + keys[b].count);
    return rows;
  }

  void set_band(const std::vector<int64_t>& band) {
    const int64_t most = longest();
    problem.band = {std::clamp(band[0], -most, most), std::clamp(band[1], -most, most), band[2],
                    std::min(band[3], most + 1)};
  }

  // Contiguous (L, M + 1), (E,) and (E,).
  void set_blocks(const Tensor& offsets, const Tensor& listed, const Tensor& counts, int64_t size) {
    const auto* count = static_cast<const int32_t*>(counts.data_ptr());
    for (int64_t e = 0; e < counts.size(0); ++e) added.push_back(count[e] == 1 ? 0 : std::log((float)count[e]));
    problem.blocks = {static_cast<const int32_t*>(offsets.data_ptr()),
                      static_cast<const int32_t*>(listed.data_ptr()),
                      added.data(),
                      size,
                      offsets.size(1) - 1,
                      offsets.size(0)};
  }

  // (B or 1, H or 1, R, N): entries of -1 are left out.
  void set_buckets(const Tensor& order, const std::vector<int64_t>& numbers, std::optional<double> own) {
    Buckets& x = problem.buckets;
    const int64_t size = order.size(2) * order.size(3), heads = order.size(1), lists = order.size(0) * heads;
    x.chunk = numbers[0], x.causal = numbers[1], x.before = numbers[2], x.after = numbers[3];
    x.chunks = size / x.chunk, x.given = own.has_value(), x.own = static_cast<float>(own.value_or(0));
    x.rows_head = size, x.starts_head = x.chunks + 1;
    x.rows_batch = order.size(0) == 1 ? 0 : heads * x.rows_head;
    x.starts_batch = order.size(0) == 1 ? 0 : heads * x.starts_head;
    rows.resize(lists * size + 64), starts.resize(lists * x.starts_head);  // whole vectors are read
    const auto* from = static_cast<const int32_t*>(order.data_ptr());
    for (int64_t list = 0; list < lists; ++list) {
      const int32_t* entry = from + list / heads * order.stride(0) + list % heads * order.stride(1);
      int32_t *to = rows.data() + list * size, *start = starts.data() + list * x.starts_head, found = 0;
      for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
        start[chunk] = found;
        for (int64_t i = chunk * x.chunk; i < (chunk + 1) * x.chunk; ++i) {
          const int64_t round = i / order.size(3), place = i % order.size(3);
          const int32_t row = entry[round * order.stride(2) + place * order.stride(3)];
          if (row >= 0) to[found++] = row;
        }
      }
      start[x.chunks] = found;
    }
    if (heads == 1) x.rows_head = x.starts_head = 0;
    x.rows = rows.data(), x.starts = starts.data();
  }
};

inline Forward forward_of(const Call& call, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                          const Tensor& lse) {
  Forward f{};
  f.problem = call.problem;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out);
  f.lse = static_cast<float*>(lse.data_ptr()), f.lse_batch = lse.stride(0), f.lse_head = lse.stride(1);
  return f;
}

inline Backward backward_of(const Call& call, const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dq,
                            const Tensor& dk, const Tensor& dv, const std::optional<Tensor>& ddistance,
                            const std::optional<Tensor>& ddense, const std::optional<Tensor>& dquery,
                            const std::optional<Tensor>& dtable) {
  Backward f{};
  f.problem = call.problem;
  f.q = rows_of(q), f.k = rows_of(k), f.v = rows_of(v), f.out = rows_of(out), f.dout = rows_of(dout);
  f.dq.to = rows_of(dq), f.dq.width = dq.size(3), f.dk = rows_of(dk), f.dv = rows_of(dv);
  f.lse = static_cast<const float*>(lse.data_ptr()), f.lse_batch = lse.stride(0), f.lse_head = lse.stride(1);
  if (dlse) {
    f.dlse = floats(dlse), f.dlse_batch = dlse->stride(0), f.dlse_head = dlse->stride(1), f.dlse_row = dlse->stride(2);
  }
  f.ddistance = const_cast<float*>(floats(ddistance)), f.dtable = const_cast<float*>(floats(dtable));
  if (dquery) f.dquery.to = rows_of(*dquery), f.dquery.width = dquery->size(3);
  if (ddense) {
    f.ddense = const_cast<float*>(floats(ddense));
    for (int i = 0; i < 4; ++i) f.ddense_size[i] = ddense->size(i);
  }
  return f;
}

}  // namespace pkernels
