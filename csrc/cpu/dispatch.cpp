#include "cpu/dispatch.h"

#include <algorithm>
#include <atomic>

namespace pkernels {
namespace {

// The best one, but on Intel's cores: those multiply bfloat16 pairs at half the rate of float32
// (vdpbf16ps at 85 GFLOP/s beside 174 of fused multiply-adds on an Emerald Rapids).
InstructionSet fastest() {
  const InstructionSet best = instruction_sets().back();
#if defined(__x86_64__)
  if (best == InstructionSet::avx512bf16 && __builtin_cpu_is("intel")) return InstructionSet::avx512;
#endif
  return best;
}

std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> set{fastest()};
  return set;
}

}  // namespace

std::string name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::portable:
      return "portable";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx512bf16:
      return "avx512bf16";
  }
  return "unknown";
}

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets{InstructionSet::portable};
#if defined(__x86_64__)
  // Each set contains the one before it, as its kernels do. __builtin_cpu_supports asks the
  // operating system too, whether it saves the wide registers.
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))) return sets;
  sets.push_back(InstructionSet::avx2);
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")))
    return sets;
  sets.push_back(InstructionSet::avx512);
  if (!__builtin_cpu_supports("avx512bf16")) return sets;
  sets.push_back(InstructionSet::avx512bf16);
#endif
  return sets;
}

InstructionSet instruction_set() { return chosen().load(std::memory_order_relaxed); }

bool use_instruction_set(InstructionSet set) {
  const auto sets = instruction_sets();
  if (std::find(sets.begin(), sets.end(), set) == sets.end()) return false;
  chosen().store(set, std::memory_order_relaxed);
  return true;
}

const Kernels& current_kernels() {
  switch (instruction_set()) {
#if defined(__x86_64__)
    case InstructionSet::avx2:
      return *kernels_avx2();
    case InstructionSet::avx512:
      return *kernels_avx512();
    case InstructionSet::avx512bf16:
      return *kernels_avx512bf16();
#endif
    default:
      return *kernels_portable();
  }
}

}  // namespace pkernels
