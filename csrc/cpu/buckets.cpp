#include <algorithm>
#include <vector>

#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace pkernels {
namespace {

// Into how many parts the chunks of each of `heads` heads are divided.
int64_t chunk_parts(const Problem& p, int64_t heads) {
  const int64_t threads = torch::stable::get_num_threads();
  int64_t parts = 1;
  while (heads * parts % threads != 0 && heads * parts < 4 * threads && parts < p.buckets.chunks) ++parts;
  return parts;
}

KeyRange chunks_of(const Problem& p, int64_t parts, int64_t part) {
  return {p.buckets.chunks * part / parts, p.buckets.chunks * (part + 1) / parts};
}

int64_t most_rows(const Problem& p) {
  int64_t most = 0;
  for (int64_t b = 0; b < p.batch; ++b) most = std::max(most, p.queries[b].count);
  return most;
}

// Queries of a tile: a chunk, or an even part of one.
int64_t tile_of(const Kernels& kernels, int64_t chunk, int64_t most) {
  const int64_t even = ceil_div(chunk, ceil_div(chunk, most));
  return std::min(most, ceil_div(even, kernels.width) * kernels.width);
}

// Runs work(head, part, memory) for every part, then finish(head, memory, stride) for every head.
// A worker's memory serves as that of a head which is not divided.
template <class Work, class Finish>
void divide(int64_t heads, int64_t parts, int64_t size, int64_t scratch, const Work& work, const Finish& finish) {
  std::vector<float> memory(parts > 1 ? heads * parts * size : 0);
  for_each_item(heads * parts, scratch + (parts > 1 ? 0 : size), [&](int64_t i, float* own) {
    float* state = parts > 1 ? memory.data() + i * size : own + scratch;
    work(i / parts, i % parts, state, own);
    if (parts == 1) finish(i, state, 0);
  });
  if (parts > 1) {
    for_each_item(heads, 0, [&](int64_t head, float*) { finish(head, memory.data() + head * parts * size, size); });
  }
}

}  // namespace

void chunks_forward(Forward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  call.tile = tile_of(kernels, p.buckets.chunk, 3 * kernels.panel);
  call.heads = 1, call.panels = ceil_div(call.tile, kernels.panel);
  call.pairs = kernels.pairs && p.type == Type::bf16 && p.d % 2 == 0 && whole_words(call.q) && whole_words(call.k);
  const int64_t heads = p.batch * p.heads, parts = chunk_parts(p, heads);
  divide(
      heads, parts, kernels.softmaxes_size(p, most_rows(p)), kernels.forward_scratch(p, call.panels),
      [&](int64_t head, int64_t part, float* state, float* scratch) {
        kernels.forward_chunks(call, head / p.heads, head % p.heads, chunks_of(p, parts, part), state, scratch);
      },
      [&](int64_t head, float* states, int64_t stride) {
        kernels.finish_chunks(call, head / p.heads, head % p.heads, states, parts, stride);
      });
}

void chunks_backward(Backward call) {
  const Problem& p = call.problem;
  const Kernels& kernels = current_kernels();
  call.tile = tile_of(kernels, p.buckets.chunk, 3 * kernels.panel);
  call.pairs = kernels.pairs && p.type == Type::bf16 && p.d % 2 == 0 && p.dv % 2 == 0 && whole_words(call.q) &&
               whole_words(call.k) && whole_words(call.v) && whole_words(call.dout);
  call.parts = 1;
  const int64_t heads = p.batch * p.kv_heads, parts = chunk_parts(p, heads);
  divide(
      heads, parts, kernels.sums_size(p, most_rows(p)), kernels.backward_scratch(p, kernels.keys),
      [&](int64_t head, int64_t part, float* sums, float* scratch) {
        kernels.backward_chunks(call, head / p.kv_heads, head % p.kv_heads, chunks_of(p, parts, part), sums, scratch);
      },
      [&](int64_t head, float* sums, int64_t stride) {
        kernels.finish_sums(call, head / p.kv_heads, head % p.kv_heads, sums, parts, stride);
      });
}

}  // namespace pkernels
