// Threads that take items from a counter, each with its own scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace pkernels {

class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
    data_ = static_cast<float*>(std::aligned_alloc(4096, bytes ? bytes : 4096));
    if (!data_) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* get() const { return data_; }

 private:
  float* data_;
};

// Calls f(item, scratch) for every item, on all of torch's threads. Which thread takes an
// item never changes its result.
template <class F>
void for_each_item(int64_t items, int64_t scratch_floats, const F& f) {
  if (items <= 0) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t workers = items < threads ? items : threads;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      Scratch scratch(scratch_floats);
      for (int64_t item = next++; item < items; item = next++) f(item, scratch.get());
    }
  });
}

}  // namespace pkernels
