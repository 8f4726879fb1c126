// Threads that take items from a counter, each with its own scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace pkernels {

// Memory of a thread, which has one of these at a time. A little of it stays for the next call: an
// allocator that gives pages back and asks for them again takes longer than a short call.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
    static thread_local Memory kept;
    Memory& memory = bytes <= most_kept ? kept : own_;
    if (memory.bytes < bytes) memory.take(bytes);
    data_ = memory.data;
  }
  float* get() const { return data_; }

 private:
  static constexpr size_t most_kept = size_t{2} << 20;

  struct Memory {
    float* data = nullptr;
    size_t bytes = 0;

    Memory() {}
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { std::free(data); }

    void take(size_t more) {
      std::free(data);
      bytes = 0;
      data = static_cast<float*>(std::aligned_alloc(4096, more));
      if (!data) throw std::bad_alloc();
      bytes = more;
    }
  };

  Memory own_;
  float* data_;
};

// Calls f(item, next, scratch) for every item, on all of torch's threads; `next` is the item that
// the thread will likely take then. Which thread takes an item never changes its result.
template <class F>
void for_each_item_and_next(int64_t items, int64_t scratch_floats, const F& f) {
  if (items <= 0) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t workers = items < threads ? items : threads;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      Scratch scratch(scratch_floats);
      for (int64_t item = next++; item < items; item = next++) f(item, item + workers, scratch.get());
    }
  });
}

// Calls f(item, scratch) for every item.
template <class F>
void for_each_item(int64_t items, int64_t scratch_floats, const F& f) {
  for_each_item_and_next(items, scratch_floats, [&](int64_t item, int64_t, float* scratch) { f(item, scratch); });
}

}  // namespace pkernels
