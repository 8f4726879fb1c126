#include <algorithm>
#include <vector>

#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace pkernels {
namespace {

// Rows in the order of (hash, row).
void sort_rows(const std::vector<int32_t>& hashes, int64_t values, int32_t* to) {
  const auto rows = static_cast<int32_t>(hashes.size());
  if (values > 4 * static_cast<int64_t>(rows) + 1024) {
    for (int32_t r = 0; r < rows; ++r) to[r] = r;
    std::stable_sort(to, to + rows, [&](int32_t a, int32_t b) { return hashes[a] < hashes[b]; });
    return;
  }
  std::vector<int32_t> place(values + 1);
  for (const int32_t value : hashes) ++place[value + 1];
  for (int64_t value = 0; value < values; ++value) place[value + 1] += place[value];
  for (int32_t r = 0; r < rows; ++r) to[place[hashes[r]]++] = r;
}

}  // namespace

void lsh_order(const Hash& call, const bool* mask, int32_t* order, int64_t entries) {
  const Kernels& kernels = current_kernels();
  int64_t buckets = 1;
  for (int64_t i = 0; i < call.factors; ++i) buckets *= call.buckets[i];
  for_each_item(call.batch * call.heads * call.rounds, kernels.hash_scratch(call), [&](int64_t i, float* scratch) {
    const int64_t round = i % call.rounds, head = i / call.rounds % call.heads, b = i / call.rounds / call.heads;
    std::vector<int32_t> hashes(call.rows);
    kernels.hash(call, b, head, round, hashes.data(), scratch);
    const bool* real = mask ? mask + b * call.rows : nullptr;
    int64_t count = call.rows;
    for (int64_t r = 0; real && r < call.rows; ++r) {
      if (!real[r]) hashes[r] = static_cast<int32_t>(buckets), --count;
    }
    sort_rows(hashes, buckets + 1, order + i * entries);
    std::fill(order + i * entries + count, order + (i + 1) * entries, -1);
  });
}

}  // namespace pkernels
