"""Judging GPU kernels on a machine without a GPU.

``interpreter``: runs Triton kernels on CPU tensors and checks every memory access.
``compile``, ``static``: compile them for real GPUs and read the binaries.
"""
