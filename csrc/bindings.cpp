// The module pkernels._C. Importing it registers the operators; pkernels/native calls them.
// Only LibTorch's stable ABI and CPython's limited API may be used in this directory.
#include <Python.h>

#include <string>

#include "cpu/dispatch.h"
#include "names.h"

namespace {

using namespace pkernels;

std::string cpu_instruction_set() { return name_of(instruction_set()); }

std::string cpu_instruction_sets() {
  std::string names;
  for (const auto set : instruction_sets()) names += (names.empty() ? "" : " ") + name_of(set);
  return names;
}

// True if the name is one of cpu_instruction_sets() and is now in use.
bool use_cpu_instruction_set(std::string name) {
  for (const auto set : instruction_sets())
    if (name_of(set) == name) return use_instruction_set(set);
  return false;
}

}  // namespace

PK_LIBRARY(PK_NATIVE, m) {
  m.def("cpu_instruction_set() -> str");
  m.def("cpu_instruction_sets() -> str");
  m.def("use_cpu_instruction_set(str name) -> bool");
}

PK_LIBRARY_IMPL(PK_NATIVE, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&cpu_instruction_set));
  m.impl("cpu_instruction_sets", TORCH_BOX(&cpu_instruction_sets));
  m.impl("use_cpu_instruction_set", TORCH_BOX(&use_cpu_instruction_set));
}

PyMODINIT_FUNC PK_JOIN(PyInit_, PK_MODULE)() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
