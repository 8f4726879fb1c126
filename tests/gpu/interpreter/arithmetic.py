"""What the interpreter computes wrongly, put right.

bfloat16 is held as uint16 by the interpreter. Upstream, arithmetic and ``tl.dot`` run on those
integers and the cast from fp32 truncates. Here they widen to fp32, compute, and round to
nearest, ties to even. ``tl.dot`` of fp32 takes "tf32" and "tf32x3" as NVIDIA's tensor cores do
(Triton hands them the fp32 bits, of which they read the upper 19), and ``tl.maximum`` drops a
NaN operand, as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

Builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
# Builder methods that take and give bfloat16 as numbers; the rest move bits.
ARITHMETIC = ("binary_op", "unary_op", "ternary_op", "create_fma", "create_rsqrt", "create_erf")


def widen(bits: np.ndarray) -> np.ndarray:
    """fp32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(bits.shape)


def narrow(x: np.ndarray) -> np.ndarray:
    """bfloat16 bits of fp32 values, rounded to nearest even."""
    x = np.ascontiguousarray(x, np.float32).reshape(np.shape(x))
    bits = np.atleast_1d(x).view(np.uint32).reshape(x.shape)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def tf32(x: np.ndarray) -> np.ndarray:
    """What a tensor core sees of fp32 values: ten bits of mantissa, the rest cut off."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def is_bf16(x: Any) -> bool:
    return isinstance(x, Handle) and x.dtype.scalar == tl.bfloat16 and x.data.dtype == np.uint16


def as_fp32(x: Any) -> Any:
    return Handle(widen(x.data), tl.float32) if is_bf16(x) else x


def mend() -> None:
    """Replace the interpreter's methods, once for the process."""
    for name in ARITHMETIC:
        setattr(Builder, name, _in_fp32(getattr(Builder, name)))
    Builder.cast_impl = _cast(Builder.cast_impl)
    Builder.create_fp_to_fp = _cast(Builder.create_fp_to_fp)
    Builder.create_dot = _dot(Builder.create_dot)
    Builder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    Builder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)
    Builder.get_bf16 = lambda self, value: Handle(narrow(np.array([value], np.float32)), tl.bfloat16)


def _in_fp32(method: Callable) -> Callable:
    def computed(self: Any, *args: Any) -> Any:
        if not any(is_bf16(x) for x in args) or args[-1] is np.where:
            return method(self, *args)
        result = method(self, *map(as_fp32, args))
        return result if result.data.dtype == np.bool_ else Handle(narrow(result.data), tl.bfloat16)

    return computed


def _cast(method: Callable) -> Callable:
    def cast(self: Any, source: Any, target: Any, *rounding: Any) -> Any:
        if tl.bfloat16 not in (source.dtype.scalar, target.scalar) or source.dtype.scalar == target.scalar:
            return method(self, source, target, *rounding)
        values = as_fp32(source).data
        if target.scalar == tl.bfloat16:
            return Handle(narrow(values.astype(np.float32)), tl.bfloat16)
        return Handle(values.astype(interpreter._get_np_dtype(target.scalar)), target.scalar)

    return cast


def product(a: np.ndarray, b: np.ndarray, acc: np.ndarray | float = 0.0) -> np.ndarray:
    """``a @ b + acc`` as tensor cores sum: exact products, 16 at a time, each sum rounded to fp32.

    BLAS sums ``a @ b`` and ``(b.T @ a.T).T`` in different orders; tensor cores do not. They do cut
    the terms of a sum to about 24 bits, which is not modelled, so this errs a little less.
    """
    total = np.asarray(acc, np.float32)
    for k in range(0, a.shape[-1], 16):
        few = slice(k, k + 16)
        total = (total + a[..., few].astype(np.float64) @ b[..., few, :].astype(np.float64)).astype(np.float32)
    return total


def _dot(method: Callable) -> Callable:
    def dot(self: Any, a: Any, b: Any, acc: Any, precision: Any, imprecise: Any) -> Any:
        kind = str(precision).rpartition(".")[2]
        if a.data.dtype == np.float32 and kind in ("TF32", "TF32x3"):
            large = [tf32(x.data) for x in (a, b)]
            if kind == "TF32x3":
                small = [tf32(x.data - whole) for x, whole in zip((a, b), large, strict=True)]
                acc = Handle(product(small[0], large[1]) + product(large[0], small[1]) + acc.data, tl.float32)
            a, b = (Handle(x, tl.float32) for x in large)
        if a.data.dtype == np.float32 and acc.data.dtype == np.float32:
            return Handle(product(a.data, b.data, acc.data), tl.float32)
        if a.data.dtype == np.float16 or is_bf16(a):  # products are exact in fp32, and BLAS is fast
            a, b = (Handle(as_fp32(x).data.astype(np.float32), tl.float32) for x in (a, b))
        return method(self, a, b, acc, precision, imprecise)

    return dot
