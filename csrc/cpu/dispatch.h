// The instruction sets that the CPU kernels are compiled for, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace pkernels {

// From the least to the most able. Each is a translation unit of its own, isa_<name>.cpp.
enum class InstructionSet { portable, avx2, avx512, avx512bf16 };

std::string name_of(InstructionSet set);

// Those that this build contains and this CPU can run, the best one last.
std::vector<InstructionSet> instruction_sets();

// The one in use: the fastest one, unless use_instruction_set() said otherwise.
InstructionSet instruction_set();

// Returns false, and changes nothing, if this CPU cannot run it.
bool use_instruction_set(InstructionSet set);

// The kernels of the one in use.
const Kernels& current_kernels();

}  // namespace pkernels
