"""Triton kernels for NVIDIA (sm_80 and newer) and AMD GPUs; also run by Triton's interpreter.

``step`` and ``philox`` are the parts of a tile step, ``band``, ``band_backward`` and
``band_bias`` the loops, ``arguments`` what a launch passes, ``tune`` the tile shapes.
"""
