"""What compiled kernels show before any GPU runs them: ``python -m benchmarks static``.

``listing`` reads machine code, ``loops`` finds its loops and ``steady`` what a turn of one runs; ``chips`` says what a
GPU has, and ``estimate`` makes shares of it. ``launches`` compiles Triton kernels for GPUs that are not there,
``shipped`` lists those that the library launches, ``extension`` those of ``csrc/cuda``. ``table`` is what is
committed, ``goals`` what it shall reach, ``published`` what others reach by the same count, ``show`` prints.
"""
