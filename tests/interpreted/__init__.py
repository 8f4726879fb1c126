"""Tests of Triton kernels on the CPU; see ``tests.gpu.launcher`` for how they are run."""
