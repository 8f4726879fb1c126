#include "cpu/band.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace pkernels {
namespace {

int64_t threads() { return torch::stable::get_num_threads(); }

// Queries of a tile: as many as the kernels hold, but few beside the keys they see (what
// sticks out of the band is wasted), and enough tiles to keep all threads busy.
int64_t tile_size(const Kernels& kernels, const Problem& p) {
  int64_t rows = 0, longest = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    rows += p.queries[b].count;
    longest = std::max(longest, p.keys[b].count);
  }
  const int64_t left = std::min(p.band.left * p.band.dilation, longest);
  const int64_t right = std::min(p.band.right * p.band.dilation, longest);
  const int64_t reach = std::max<int64_t>(0, std::min(longest, left + right)) / p.band.dilation;
  const bool banded = left < longest || right < longest;
  int64_t size = kernels.lanes;
  if (banded) size = std::min(size, std::max(kernels.block, reach / 8));
  const int64_t items = 2 * threads();
  size = std::min(size, std::max(kernels.block, ceil_div(rows * p.heads, items)));
  return std::min(kernels.lanes, ceil_div(size, kernels.block) * kernels.block);
}

struct Item {
  int64_t batch, head;
  QueryTile queries;
};

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
  const int64_t first = std::max(shift, key - p.band.right * d), last = std::min(shift + n_q - 1, key + p.band.left * d);
  return std::max(std::min(p.band.rows, n_q), (last - first) / d + 1);
}

// A sequence's keys in `parts` ranges that cost nearly the same.
std::vector<KeyRange> balanced_ranges(const Problem& p, int64_t b, int64_t parts) {
  const int64_t n = p.keys[b].count, grain = 16;
  if (parts == 1) return {{0, n}};
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

}  // namespace

void band_forward(Forward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  call.tile = tile_size(kernels, p);
  std::vector<Item> items;
  for (const int64_t b : by_length(p)) {
    const size_t first = items.size();
    for_each_query_tile(p.band, p.queries[b].count, p.keys[b].count, call.tile,
                        [&](const QueryTile& tile) { items.push_back({b, 0, tile}); });
    // The last tile of a causal pattern sees most keys: begin with it.
    std::reverse(items.begin() + first, items.end());
    const size_t tiles = items.size() - first;
    for (int64_t h = 1; h < p.heads; ++h) {
      for (size_t i = 0; i < tiles; ++i) {
        Item item = items[first + i];
        item.head = h;
        items.push_back(item);
      }
    }
  }
  for_each_item(items.size(), kernels.forward_scratch(p), [&](int64_t i, float* scratch) {
    kernels.forward(call, items[i].batch, items[i].head, items[i].queries, scratch);
  });
}

int64_t band_parts(const Problem& p) {
  const int64_t units = p.batch * p.kv_heads, workers = threads();
  int64_t longest = 0;
  for (int64_t b = 0; b < p.batch; ++b) longest = std::max(longest, p.keys[b].count);
  int64_t parts = 1;
  while (units * parts % workers != 0 && units * parts < 4 * workers && parts < longest / 128) ++parts;
  return parts;
}

void band_backward(Backward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  call.tile = tile_size(kernels, p);
  call.parts = band_parts(p);
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
  std::vector<float> parts;
  const int64_t storage = p.packed ? 1 : p.batch;
  if (call.parts > 1) {
    call.dq_part = Rows{nullptr, p.heads * rows * p.d, rows * p.d, p.d};
    call.dq_part_size = storage * call.dq_part.batch;
    parts.assign(call.parts * call.dq_part_size, 0.0f);
    call.dq_parts = parts.data();
  }
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
  if (call.ddense) dense_gradient(kernels, call);
}

double peak_rate(double seconds) {
  const Kernels& kernels = current_kernels();
  const int64_t workers = threads();
  std::vector<double> done(workers);
  const auto clock = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  const double start = clock();
  for_each_item(workers, 0, [&](int64_t i, float*) {
    while (clock() - start < seconds) done[i] += kernels.peak(100000);
  });
  const double elapsed = clock() - start;
  double total = 0;
  for (const double flops : done) total += flops;
  return total / elapsed;
}

}  // namespace pkernels
