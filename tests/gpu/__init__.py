"""Judging GPU kernels on a machine without a GPU.

``interpreter``: runs Triton kernels on CPU tensors and checks every memory access.
``ptx``: runs what the compilers made of a kernel. ``benchmarks.static`` reads the machine code.
"""
