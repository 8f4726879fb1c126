// The CPU kernels of one instruction set against the definitions in double precision, meant
// to be built with sanitizers (`make sanitize`). Buffers end where the tensors end, so that
// AddressSanitizer sees every access past them.
//
//   -DTEST_UNIT='"cpu/isa_avx2.cpp"' -DTEST_KERNELS=kernels_avx2
#include TEST_UNIT

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace pkernels;

namespace {

struct Case {
  const char* name;
  int64_t n_q, n_k, d, dv, heads, kv_heads;
  Band band;
  int64_t columns;
  bool distance, dense;
  double dropout;
  int64_t parts;
  int64_t dr = 0;  // of a relative bias
};

constexpr int64_t far = 1 << 20;
constexpr int64_t batch = 2;

std::mt19937 random_bits(7);

std::vector<float> normal(int64_t n) {
  std::normal_distribution<float> draw;
  std::vector<float> x(n);
  for (float& value : x) value = draw(random_bits);
  return x;
}

// Rows (B, H, S, D), contiguous, over exactly as many floats as it has.
Rows rows(std::vector<float>& x, int64_t heads, int64_t s, int64_t d) { return {x.data(), heads * s * d, s * d, d}; }

bool kept(const Case& c, int64_t q, int64_t k) {
  const int64_t step = k - q, d = c.band.dilation;
  const bool near = modulo(step, d) == 0 && step >= -c.band.left * d && step <= c.band.right * d;
  return near || k < c.columns || (q >= 0 && q < c.band.rows);
}

bool survives(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  uint64_t c[4] = {(uint64_t)i, (uint64_t)j / 8, (uint64_t)h, (uint64_t)b};
  uint64_t k[2] = {p.seed & 0xFFFFFFFF, p.seed >> 32};
  for (int round = 0; round < 7; ++round) {
    const uint64_t x = 0xD2511F53u * c[0], y = 0xCD9E8D57u * c[2];
    const uint64_t next[4] = {(y >> 32) ^ c[1] ^ k[0], y & 0xFFFFFFFF, (x >> 32) ^ c[3] ^ k[1], x & 0xFFFFFFFF};
    for (int n = 0; n < 4; ++n) c[n] = next[n];
    k[0] = (k[0] + 0x9E3779B9u) & 0xFFFFFFFF, k[1] = (k[1] + 0xBB67AE85u) & 0xFFFFFFFF;
  }
  return ((c[j % 8 / 2] >> (16 * (j % 2))) & 0xFFFF) >= p.threshold;
}

struct Data {
  std::vector<float> q, k, v, out, lse, dout, dlse, dq, dk, dv, distance, dense, ddistance, ddense, query, table,
      dquery, dtable;

  explicit Data(const Case& c)
      : q(normal(batch * c.heads * c.n_q * c.d)),
        k(normal(batch * c.kv_heads * c.n_k * c.d)),
        v(normal(batch * c.kv_heads * c.n_k * c.dv)),
        out(batch * c.heads * c.n_q * c.dv, NAN),
        lse(batch * c.heads * c.n_q, NAN),
        dout(normal(out.size())),
        dlse(normal(lse.size())),
        dq(q.size(), NAN),
        dk(k.size(), NAN),
        dv(v.size(), NAN),
        distance(c.distance ? normal(c.heads * (c.n_q + c.n_k - 1)) : std::vector<float>{}),
        dense(c.dense ? normal(c.heads * c.n_q * c.n_k) : std::vector<float>{}),
        ddistance(c.distance ? c.parts * batch * distance.size() : 0, 0.0f),
        ddense(dense.size(), 0.0f),
        query(normal(batch * c.heads * c.n_q * c.dr)),
        table(normal(c.heads * (c.n_q + c.n_k - 1) * c.dr)),
        dquery(query.size(), NAN),
        dtable(c.parts * batch * c.heads * (c.n_q + c.n_k - 1) * round_up(c.dr), 0.0f) {}

  static int64_t round_up(int64_t dr) { return (dr + 15) / 16 * 16; }
};

double worst(const std::vector<double>& want, const std::vector<float>& got) {
  double error = 0, size = 1;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i]) && want[i] == got[i]) continue;
    error = std::fmax(error, std::isnan(got[i]) ? INFINITY : std::fabs(want[i] - got[i]));
    size = std::fmax(size, std::fabs(want[i]));
  }
  return error / size;
}

// The equations of pkernels/reference/band.py, one pair at a time.
double check(const Case& c, const Problem& p, const Data& x) {
  std::vector<double> out(x.out.size()), lse(x.lse.size()), dq(x.q.size()), dk(x.k.size()), dv(x.v.size());
  std::vector<double> ddistance(x.distance.size()), ddense(x.dense.size());
  std::vector<double> dquery(x.query.size()), dtable(x.table.size());
  const int64_t group = c.heads / c.kv_heads, width = c.n_q + c.n_k - 1;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t i = 0; i < c.n_q; ++i) {
        const int64_t row = (b * c.heads + h) * c.n_q + i, kv = (b * c.kv_heads + h / group) * c.n_k;
        std::vector<double> s(c.n_k, -INFINITY), dp(c.n_k), z(c.n_k);
        double top = -INFINITY, sum = 0, delta = -x.dlse[row];
        for (int64_t j = 0; j < c.n_k; ++j) {
          if (!kept(c, i + c.n_k - c.n_q, j)) continue;
          s[j] = 0;
          for (int64_t e = 0; e < c.d; ++e) s[j] += p.scale * x.q[row * c.d + e] * x.k[(kv + j) * c.d + e];
          if (c.distance) s[j] += x.distance[h * width + j - i + c.n_q - 1];
          if (c.dense) s[j] += x.dense[(h * c.n_q + i) * c.n_k + j];
          const int64_t apart = (h * width + j - i + c.n_q - 1) * c.dr;
          for (int64_t e = 0; e < c.dr; ++e) s[j] += p.scale * x.query[row * c.dr + e] * x.table[apart + e];
          top = std::fmax(top, s[j]);
        }
        for (double value : s) sum += std::isinf(value) ? 0 : std::exp(value - top);
        lse[row] = sum == 0 ? -INFINITY : top + std::log(sum);
        for (int64_t j = 0; j < c.n_k; ++j) {
          if (std::isinf(s[j])) continue;
          const double weight = std::exp(s[j] - lse[row]);
          z[j] = c.dropout == 0 || survives(p, b, h, i, j) ? 1 / (1 - c.dropout) : 0;
          for (int64_t e = 0; e < c.dv; ++e) {
            out[row * c.dv + e] += weight * z[j] * x.v[(kv + j) * c.dv + e];
            dp[j] += z[j] * x.dout[row * c.dv + e] * x.v[(kv + j) * c.dv + e];
            dv[(kv + j) * c.dv + e] += weight * z[j] * x.dout[row * c.dv + e];
          }
        }
        for (int64_t e = 0; e < c.dv; ++e) delta += out[row * c.dv + e] * x.dout[row * c.dv + e];
        for (int64_t j = 0; j < c.n_k; ++j) {
          if (std::isinf(s[j])) continue;
          const double ds = std::exp(s[j] - lse[row]) * (dp[j] - delta);
          for (int64_t e = 0; e < c.d; ++e) {
            dq[row * c.d + e] += p.scale * ds * x.k[(kv + j) * c.d + e];
            dk[(kv + j) * c.d + e] += p.scale * ds * x.q[row * c.d + e];
          }
          if (c.distance) ddistance[h * width + j - i + c.n_q - 1] += ds;
          if (c.dense) ddense[(h * c.n_q + i) * c.n_k + j] += ds;
          const int64_t apart = (h * width + j - i + c.n_q - 1) * c.dr;
          for (int64_t e = 0; e < c.dr; ++e) {
            dquery[row * c.dr + e] += p.scale * ds * x.table[apart + e];
            dtable[apart + e] += p.scale * ds * x.query[row * c.dr + e];
          }
        }
      }
    }
  }
  std::vector<float> summed(x.distance.size());
  for (size_t i = 0; i < x.ddistance.size(); ++i) summed[i % summed.size()] += x.ddistance[i];
  std::vector<float> of_table(x.table.size());
  const int64_t ld = Data::round_up(c.dr), table_rows = c.heads * width;
  for (int64_t i = 0; c.dr && i < c.parts * batch * table_rows; ++i) {
    for (int64_t e = 0; e < c.dr; ++e) of_table[i % table_rows * c.dr + e] += x.dtable[i * ld + e];
  }
  double error = 0;
  for (const double e :
       {worst(out, x.out), worst(lse, x.lse), worst(dq, x.dq), worst(dk, x.dk), worst(dv, x.dv),
        worst(ddistance, summed), worst(ddense, x.ddense), worst(dquery, x.dquery), worst(dtable, of_table)}) {
    error = std::fmax(error, e);
  }
  return error;
}

void run(const Kernels& kernels, const Case& c, const Problem& p, Data& x) {
  Forward f{};
  f.problem = p, f.tile = 2 * kernels.panel + 5;
  const int64_t group = p.group();
  f.heads = std::min<int64_t>(group, 2), f.panels = 3 * f.heads;
  f.q = rows(x.q, c.heads, c.n_q, c.d), f.k = rows(x.k, c.kv_heads, c.n_k, c.d);
  f.v = rows(x.v, c.kv_heads, c.n_k, c.dv), f.out = rows(x.out, c.heads, c.n_q, c.dv);
  f.lse = x.lse.data(), f.lse_batch = c.heads * c.n_q, f.lse_head = c.n_q;
  std::vector<float> scratch(kernels.forward_scratch(p, f.panels), NAN);
  if (c.n_q * group <= most_narrow && c.dropout == 0 && !c.dense && !c.dr) {
    const int64_t stride = c.n_q * group * narrow_row(p);
    scratch.assign(kernels.narrow_scratch(p, c.n_q * group), NAN);
    std::vector<float> states(2 * stride, NAN);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < c.kv_heads; ++h) {
        kernels.narrow(f, b, h, {0, c.n_k / 3}, states.data(), scratch.data());
        kernels.narrow(f, b, h, {c.n_k / 3, c.n_k}, states.data() + stride, scratch.data());
        kernels.narrow_finish(f, b, h, states.data(), 2, stride);
      }
    }
  } else {
    std::vector<Item> items;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < c.heads; h += f.heads) {
        for_each_query_tile(p, b, h, f.tile, [&](const QueryTile& tile) { items.push_back({b, h, f.heads, tile}); });
      }
    }
    for (size_t i = 0; i < items.size(); ++i) {
      kernels.forward(f, items[i], i + 1 < items.size() ? &items[i + 1] : nullptr, scratch.data());
    }
  }
  Backward g{};
  g.problem = p, g.tile = kernels.panel, g.pairs = false;
  g.q = f.q, g.k = f.k, g.v = f.v, g.out = f.out, g.dout = rows(x.dout, c.heads, c.n_q, c.dv);
  g.dq.to = rows(x.dq, c.heads, c.n_q, c.d), g.dq.width = c.d;
  if (c.dr) g.dquery.to = rows(x.dquery, c.heads, c.n_q, c.dr), g.dquery.width = c.dr, g.dtable = x.dtable.data();
  g.dk = rows(x.dk, c.kv_heads, c.n_k, c.d);
  g.dv = rows(x.dv, c.kv_heads, c.n_k, c.dv);
  g.lse = f.lse, g.lse_batch = f.lse_batch, g.lse_head = f.lse_head;
  g.dlse = x.dlse.data(), g.dlse_batch = f.lse_batch, g.dlse_head = f.lse_head, g.dlse_row = 1;
  g.parts = c.parts;
  std::vector<float> parts[] = {std::vector<float>(c.parts * x.q.size(), NAN),
                                std::vector<float>(c.parts * x.query.size(), NAN)};
  Shares* const shares[] = {&g.dq, &g.dquery};
  for (int i = 0; c.parts > 1 && i < 2; ++i) {
    shares[i]->parts = parts[i].data(), shares[i]->part = shares[i]->to, shares[i]->size = parts[i].size() / c.parts;
  }
  g.ddistance = c.distance ? x.ddistance.data() : nullptr;
  g.ddense = c.dense ? x.ddense.data() : nullptr;
  const int64_t size[4] = {1, c.heads, c.n_q, c.n_k};
  for (int i = 0; i < 4; ++i) g.ddense_size[i] = size[i];
  g.ddense_owned = false;  // one bias for all batch rows
  scratch.assign(kernels.backward_scratch(p, c.n_k), NAN);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < c.kv_heads; ++h) {
      for (int64_t part = 0; part < c.parts; ++part) {
        const KeyRange keys{c.n_k * part / c.parts, c.n_k * (part + 1) / c.parts};
        kernels.backward(g, b, h, part, keys, scratch.data());
      }
    }
  }
  for (int64_t i = 0; c.parts > 1 && i < batch * c.heads; ++i) kernels.sum_parts(g, i / c.heads, i % c.heads, 0, c.n_q);
  for (int64_t h = 0; c.dense && h < c.heads; ++h) kernels.dense_gradient(g, 0, h, {0, c.n_k}, scratch.data());
}

bool passes(const Kernels& kernels, const Case& c) {
  Data x(c);
  const std::vector<Span> queries(batch, Span{0, c.n_q}), keys(batch, Span{0, c.n_k});
  const std::vector<int64_t> columns(batch, c.columns);
  Problem p;
  p.batch = batch, p.heads = c.heads, p.kv_heads = c.kv_heads, p.d = c.d, p.dv = c.dv;
  p.queries = queries.data(), p.keys = keys.data(), p.columns = columns.data();
  p.band = c.band, p.scale = 1 / std::sqrt((float)c.d);
  if (c.distance) {
    p.distance = x.distance.data(), p.distance_width = c.n_q + c.n_k - 1;
    p.distance_head = p.distance_width, p.zero = c.n_q - 1;
  }
  if (c.dense) p.dense = x.dense.data(), p.dense_head = c.n_q * c.n_k, p.dense_row = c.n_k, p.dense_column = 1;
  if (c.dr) {
    p.dr = c.dr, p.table_rows = c.n_q + c.n_k - 1, p.zero = c.n_q - 1;
    p.query = rows(x.query, c.heads, c.n_q, c.dr), p.table = {x.table.data(), 0, p.table_rows * c.dr, c.dr};
  }
  p.threshold = (uint32_t)std::nearbyint(65536 * c.dropout), p.keep_scale = (float)(1 / (1 - c.dropout));
  p.seed = 0x123456789ABCDEFull;
  run(kernels, c, p, x);
  const double error = check(c, p, x);
  const bool good = error < 1e-5;
  std::printf("%-10s %-28s error %.1e %s\n", kernels.name, c.name, error, good ? "ok" : "FAILED");
  return good;
}

}  // namespace

int main() {
  const Case cases[] = {
      {"dense", 67, 67, 64, 64, 2, 1, {far, far, 0, 1}, 0, false, false, 0, 1},
      {"one row", 1, 131, 26, 41, 2, 2, {far, far, 0, 1}, 0, false, false, 0, 1},
      {"few queries, distance", 3, 200, 64, 32, 4, 2, {40, 9, 0, 3}, 5, true, false, 0, 1},
      {"few queries, causal", 4, 150, 16, 48, 3, 1, {far, 0, 2, 1}, 0, false, false, 0, 2},
      {"causal, more queries", 150, 40, 16, 8, 1, 1, {far, 0, 0, 1}, 0, false, false, 0, 1},
      {"causal, parts, dropout", 61, 149, 41, 26, 2, 2, {far, 0, 0, 1}, 0, false, false, 0.25, 3},
      {"window, distance", 147, 147, 32, 32, 2, 2, {9, 4, 0, 1}, 0, true, false, 0, 1},
      {"dilated, globals, distance", 101, 101, 8, 24, 2, 2, {3, 3, 5, 3}, 4, true, false, 0.5, 2},
      {"prefix, dense bias", 49, 57, 80, 64, 2, 1, {far, 0, 0, 1}, 7, false, true, 0.1, 1},
      {"strictly ahead", 33, 33, 1, 1, 1, 1, {-2, far, 0, 1}, 0, false, false, 0, 1},
      {"widest head", 20, 25, 256, 256, 1, 1, {far, far, 0, 1}, 0, false, true, 0, 1},
      {"relative, causal, parts", 61, 149, 32, 32, 4, 2, {far, 0, 0, 1}, 0, false, false, 0, 3, 41},
      {"relative, more queries", 200, 51, 16, 16, 1, 1, {far, far, 0, 1}, 0, false, false, 0, 1, 16},
      {"relative, dilated, dropout", 101, 101, 8, 24, 2, 2, {3, 3, 5, 3}, 4, false, false, 0.5, 2, 26},
      {"relative, one row", 1, 131, 16, 16, 2, 2, {far, far, 0, 1}, 0, false, false, 0, 1, 7},
      {"no keys", 5, 0, 16, 16, 1, 1, {far, far, 0, 1}, 0, false, false, 0, 1},
  };
  int failed = 0;
  for (const Case& c : cases) failed += !passes(*TEST_KERNELS(), c);
  std::printf("%d failed\n", failed);
  return failed != 0;
}
