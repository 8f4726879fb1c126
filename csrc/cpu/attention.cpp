#include "cpu/attention.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace pkernels {
namespace {

int64_t threads() { return torch::stable::get_num_threads(); }

// The sequences of a call at a glance.
struct Extent {
  int64_t rows = 0, queries = 0, keys = 0;  // all queries; those and the keys of the longest sequence

  explicit Extent(const Problem& p) {
    for (int64_t b = 0; b < p.batch; ++b) {
      rows += p.queries[b].count;
      queries = std::max(queries, p.queries[b].count);
      keys = std::max(keys, p.keys[b].count);
    }
  }
};

// Queries of a tile: at most `most`, but few beside the keys they see (what sticks out of the band
// is wasted), enough tiles to keep all threads busy, and tiles of one size.
int64_t tile_size(const Kernels& kernels, const Problem& p, int64_t most) {
  if (p.blocks.size) {
    const int64_t even = ceil_div(p.blocks.size, ceil_div(p.blocks.size, most));
    return std::min(most, ceil_div(even, kernels.width) * kernels.width);
  }
  const Extent extent(p);
  const int64_t left = std::min(p.band.left * p.band.dilation, extent.keys);
  const int64_t right = std::min(p.band.right * p.band.dilation, extent.keys);
  const int64_t reach = std::max<int64_t>(0, std::min(extent.keys, left + right)) / p.band.dilation;
  const bool banded = left < extent.keys || right < extent.keys;
  int64_t size = most;
  // Rows that lie apart are copied, once for each tile: let that be shared by more queries.
  if (banded) size = std::min(size, std::max(kernels.panel, reach / (p.band.dilation > 1 ? 4 : 8)));
  size = std::min(size, std::max(kernels.panel, ceil_div(extent.rows * p.heads, 4 * threads())));
  const int64_t rows = std::max<int64_t>(1, ceil_div(extent.queries, p.band.dilation));
  const int64_t even = ceil_div(rows, ceil_div(rows, size));
  return std::min(size, ceil_div(even, kernels.width) * kernels.width);
}

struct Unit {
  int64_t batch, head, part;
  KeyRange keys;
};

// [0, n) in `parts` ranges of nearly the same size.
KeyRange range_of(int64_t n, int64_t parts, int64_t part) { return {n * part / parts, n * (part + 1) / parts}; }

// About how many queries of a sequence see a key.
int64_t queries_of(const Problem& p, int64_t b, int64_t key) {
  const int64_t n_q = p.queries[b].count, shift = p.keys[b].count - n_q, d = p.band.dilation;
  if (key < p.columns[b]) return n_q;
  const int64_t first = std::max(shift, key - p.band.right * d),
                last = std::min(shift + n_q - 1, key + p.band.left * d);
  return std::max(std::min(p.band.rows, n_q), (last - first) / d + 1);
}

// A sequence's keys in `parts` ranges that cost nearly the same.
std::vector<KeyRange> balanced_ranges(const Problem& p, int64_t b, int64_t parts) {
  const int64_t n = p.keys[b].count, grain = 16;
  if (parts == 1) return {{0, n}};
  if (p.blocks.size) {
    std::vector<KeyRange> ranges;
    for (int64_t part = 0; part < parts; ++part) ranges.push_back(range_of(n, parts, part));
    return ranges;
  }
  std::vector<int64_t> before{0};
  for (int64_t key = 0; key < n; key += grain) {
    before.push_back(before.back() + std::max<int64_t>(1, queries_of(p, b, key)) * std::min(grain, n - key));
  }
  std::vector<KeyRange> ranges;
  int64_t begin = 0;
  for (int64_t part = 1; part <= parts; ++part) {
    const auto at = std::lower_bound(before.begin(), before.end(), before.back() * part / parts);
    const int64_t end = part == parts ? n : std::min(n, (at - before.begin()) * grain);
    ranges.push_back({begin, std::max(begin, end)});
    begin = ranges.back().end;
  }
  return ranges;
}

// Sequences from the longest to the shortest: what is left at the end is small.
std::vector<int64_t> by_length(const Problem& p) {
  std::vector<int64_t> order(p.batch);
  for (int64_t b = 0; b < p.batch; ++b) order[b] = b;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return p.keys[a].count > p.keys[b].count; });
  return order;
}

void dense_gradient(const Kernels& kernels, const Backward& call) {
  const Problem& p = call.problem;
  const int64_t* size = call.ddense_size;
  const int64_t owners = size[0] * size[1];
  // A bias that is constant along the keys has one owner; otherwise each owns some keys.
  const int64_t parts = size[3] == 1 ? 1 : std::min(size[3], ceil_div(4 * threads(), std::max<int64_t>(1, owners)));
  int64_t longest = 0;
  for (int64_t b = 0; b < p.batch; ++b) longest = std::max(longest, p.keys[b].count);
  for_each_item(owners * parts, kernels.backward_scratch(p, 0), [&](int64_t item, float* scratch) {
    const int64_t owner = item / parts;
    kernels.dense_gradient(call, owner / size[1], owner % size[1], range_of(longest, parts, item % parts), scratch);
  });
}

// Whether rows of a relative bias are multiplied in pairs.
bool relative_in_pairs(const Kernels& kernels, const Problem& p) {
  const bool words = p.dr > 0 && p.dr % 2 == 0 && whole_words(p.query) && whole_words(p.table);
  return words && kernels.pairs && p.type == Type::bf16 && p.band.dilation == 1;
}

// Few queries: a worker takes all of a key head, over some of its keys if there are few heads.
void narrow_forward(const Kernels& kernels, const Forward& call, const Extent& extent) {
  const Problem& p = call.problem;
  const int64_t heads = p.batch * p.kv_heads, rows = extent.queries * p.group();
  const int64_t parts = std::clamp<int64_t>(ceil_div(2 * threads(), heads), 1, std::max<int64_t>(1, extent.keys / 512));
  const int64_t stride = heads * rows * narrow_row(p);
  std::vector<float> states(parts > 1 ? parts * stride : 0);
  const auto state = [&](int64_t part, int64_t head) {
    return parts > 1 ? states.data() + part * stride + head * rows * narrow_row(p) : nullptr;
  };
  for_each_item(heads * parts, kernels.narrow_scratch(p, rows), [&](int64_t i, float* scratch) {
    const int64_t head = i / parts, part = i % parts, batch = head / p.kv_heads;
    kernels.narrow(call, batch, head % p.kv_heads, range_of(p.keys[batch].count, parts, part), state(part, head),
                   scratch);
  });
  for (int64_t head = 0; parts > 1 && head < heads; ++head) {
    kernels.narrow_finish(call, head / p.kv_heads, head % p.kv_heads, state(0, head), parts, stride);
  }
}

}  // namespace

void attention_forward(Forward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  const Extent extent(p);
  // Short sequences may be trained on: their backward expects sums in the order of the tiles.
  const bool narrow = extent.queries * p.group() <= most_narrow && extent.keys >= 64;
  if (narrow && !p.blocks.size && p.batch * p.heads > 0 && p.keep_scale == 1 && !p.dense && !p.dr) {
    return narrow_forward(kernels, call, extent);
  }
  call.pairs = kernels.pairs && p.type == Type::bf16 && p.d % 2 == 0 && whole_words(call.q) && whole_words(call.k);
  call.relative_pairs = relative_in_pairs(kernels, p);
  // Heads that share their keys share a tile, a panel each, so that keys are read once for all.
  const bool alike = !p.blocks.size || p.blocks.lists == 1;  // heads visit the same keys
  const int64_t group = alike ? p.group() : 1, most = group > 1 ? 1 : p.type == Type::f32 ? 3 : max_panels;
  call.tile = tile_size(kernels, p, most * kernels.panel);
  const int64_t panels = ceil_div(call.tile, kernels.panel);
  call.heads = std::min(group, max_panels / panels);
  call.panels = call.heads * panels;
  std::vector<Item> items;
  for (const int64_t b : by_length(p)) {
    std::vector<QueryTile> tiles;
    for_each_query_tile(p, b, 0, call.tile, [&](const QueryTile& tile) { tiles.push_back(tile); });
    // The last tile of a causal pattern sees most keys: begin with it.
    std::reverse(tiles.begin(), tiles.end());
    for (int64_t first = 0; first < p.heads; first += group) {
      for (int64_t h = first; h < first + group; h += call.heads) {
        for (const QueryTile& tile : tiles) items.push_back({b, h, std::min(call.heads, first + group - h), tile});
      }
    }
  }
  const int64_t n = items.size();
  for_each_item_and_next(n, kernels.forward_scratch(p, call.panels), [&](int64_t i, int64_t next, float* scratch) {
    kernels.forward(call, items[i], next < n ? &items[next] : nullptr, scratch);
  });
}

int64_t key_parts(const Problem& p) {
  const int64_t units = p.batch * p.kv_heads, workers = threads();
  int64_t longest = 0;
  for (int64_t b = 0; b < p.batch; ++b) longest = std::max(longest, p.keys[b].count);
  int64_t parts = 1;
  while (units * parts % workers != 0 && units * parts < 4 * workers && parts < longest / 128) ++parts;
  return parts;
}

void attention_backward(Backward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  call.tile = tile_size(kernels, p, 3 * kernels.panel);
  call.pairs = kernels.pairs && p.type == Type::bf16 && p.d % 2 == 0 && p.dv % 2 == 0 && whole_words(call.q) &&
               whole_words(call.k) && whole_words(call.v) && whole_words(call.dout);
  call.relative_pairs = relative_in_pairs(kernels, p);
  call.parts = key_parts(p);
  const Extent extent(p);
  const int64_t* size = call.ddense_size;
  call.ddense_owned =
      call.ddense && size[0] == p.batch && size[1] == p.heads && size[2] >= extent.queries && size[3] >= extent.keys;
  std::vector<Unit> units;
  int64_t most = 0, rows = 0;
  for (const int64_t b : by_length(p)) {
    rows = std::max(rows, p.queries[b].first + p.queries[b].count);
    const std::vector<KeyRange> ranges = balanced_ranges(p, b, call.parts);
    for (int64_t h = 0; h < p.kv_heads; ++h) {
      for (int64_t part = 0; part < call.parts; ++part) {
        units.push_back({b, h, part, ranges[part]});
        most = std::max(most, ranges[part].end - ranges[part].begin);
      }
    }
  }
  std::vector<float> dq_parts, dquery_parts;
  const int64_t storage = p.packed ? 1 : p.batch;
  const auto share = [&](Shares& x, std::vector<float>& memory) {
    if (call.parts == 1) return;
    x.part = Rows{nullptr, p.heads * rows * x.width, rows * x.width, x.width};
    x.size = storage * x.part.batch;
    memory.assign(call.parts * x.size, 0.0f);
    x.parts = memory.data();
  };
  share(call.dq, dq_parts), share(call.dquery, dquery_parts);
  for_each_item(units.size(), kernels.backward_scratch(p, most), [&](int64_t i, float* scratch) {
    const Unit& unit = units[i];
    kernels.backward(call, unit.batch, unit.head, unit.part, unit.keys, scratch);
  });
  if (call.parts > 1) {
    for_each_item(storage * p.heads, 0, [&](int64_t i, float*) {
      const int64_t b = i / p.heads;
      const Span span = p.packed ? Span{0, rows} : p.queries[b];
      kernels.sum_parts(call, b, i % p.heads, span.first, span.first + span.count);
    });
  }
  if (call.ddense && !call.ddense_owned) dense_gradient(kernels, call);
}

double peak_rate(double seconds, bool in_pairs) {
  const Kernels& kernels = current_kernels();
  const int64_t workers = threads();
  std::vector<double> done(workers);
  const auto clock = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const double start = clock();
  for_each_item(workers, 0, [&](int64_t i, float*) {
    while (clock() - start < seconds) done[i] += kernels.peak(100000, in_pairs);
  });
  const double elapsed = clock() - start;
  double total = 0;
  for (const double flops : done) total += flops;
  return total / elapsed;
}

}  // namespace pkernels
