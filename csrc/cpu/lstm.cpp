#include <algorithm>

#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace pkernels {
namespace {

constexpr int64_t most_rows = 64;  // of a worker: beyond that nothing is saved on reading weights

// Every worker reads all weights, so rows are split no further than there are threads.
template <class F>
void for_each_rows(const Lstm& call, int64_t rows, const F& f) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t share = std::min((rows + threads - 1) / threads, most_rows);
  if (share == 0) return;
  for_each_item((rows + share - 1) / share, lstm_scratch(call, share),
                [&](int64_t item, float* scratch) { f(item * share, std::min(rows, (item + 1) * share), scratch); });
}

}  // namespace

void lstm_forward(const Lstm& call, int64_t rows) {
  const Kernels& kernels = current_kernels();
  for_each_rows(call, rows,
                [&](int64_t begin, int64_t end, float* scratch) { kernels.lstm_forward(call, begin, end, scratch); });
}

void lstm_backward(const Lstm& call, int64_t rows) {
  const Kernels& kernels = current_kernels();
  for_each_rows(call, rows,
                [&](int64_t begin, int64_t end, float* scratch) { kernels.lstm_backward(call, begin, end, scratch); });
}

}  // namespace pkernels
