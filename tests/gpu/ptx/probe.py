"""A few instructions as a kernel of their own: what the emulator's unit tests run."""

from __future__ import annotations

from typing import Any

import numpy as np

from .launch import run
from .values import Array

KINDS = {8: "b64", 4: "b32", 2: "b16"}


def probe(
    body: str, *inputs: Array, out: str = "b32", count: int = 1, warps: int = 1, declare: str = "", **options: Any
) -> Array:
    """Run ``body`` with one element of each input per thread in %a0, %a1, ...

    Args:
        body: Instructions. %t is the thread; %x, %w, %h and %q are free registers of 32, 64, 16 bits and
            predicates, eight of each.
        inputs: Arrays of one element per thread, of 2, 4 or 8 bytes.
        out, count: Type and number of the results, which the body leaves in %d0, %d1, ...
        declare: Further declarations.
        options: For :func:`.launch.run`.

    Returns:
        Bits of the results as unsigned integers, ``(threads,)``, or ``(count, threads)`` for several.

    Example:
        >>> probe("add.u32 %d0, %t, 5;")[:3].tolist()
        [5, 6, 7]
    """
    threads, size = 32 * warps, int(out[1:]) // 8
    lines = [f".reg .{out} %d<{count}>;", declare]
    for n, x in enumerate(inputs):
        kind, step = KINDS[x.dtype.itemsize], x.dtype.itemsize
        lines.append(f".reg .{kind} %a{n}; ld.param.u64 %p, [in{n}]; mad.wide.u32 %p, %t, {step}, %p;")
        lines.append(f"ld.global.{kind} %a{n}, [%p];")
    lines += [body, f"ld.param.u64 %p, [out]; mad.wide.u32 %p, %t, {size}, %p;"]
    lines += [f"st.global.{out} [%p+{n * threads * size}], %d{n};" for n in range(count)]
    params = ", ".join(f".param .u64 {name}" for name in (*(f"in{n}" for n in range(len(inputs))), "out"))
    text = f""".visible .entry probe({params})
    {{
        .reg .b64 %p; .reg .b32 %t, %x<8>; .reg .b64 %w<8>; .reg .b16 %h<8>; .reg .pred %q<8>;
        mov.u32 %t, %tid.x;
        {" ".join(lines)}
        ret;
    }}"""
    result = np.zeros((count, threads), f"u{size}")
    run(text, (1,), [*inputs, result], num_warps=warps, **options)
    return result if count > 1 else result[0]
