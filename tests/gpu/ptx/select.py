"""Moves, comparisons and selection (PTX ISA, sections 9.7.6 and 9.7.9)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .alu import INTEGER
from .instructions import Instruction, Kernel, Vec
from .machine import Cta
from .operands import pack, source, sources, unpack
from .program import Step, decodes
from .values import FLOATS, UNSIGNED, Array, widen, width


@decodes("mov")
def decode_move(i: Instruction, kernel: Kernel) -> Step:
    """Also packs and unpacks: ``mov.b32 {lo, hi}, r``."""
    target, given = i.operands
    name = i.parts[-1]
    if isinstance(given, Vec):
        part = f"b{8 * width(name) // len(given.items)}"
        read_all = sources(given, part, kernel)
        return lambda cta: cta.write(target, pack([r(cta) for r in read_all]).view(UNSIGNED[width(name)])[:, 0])
    read = source(given, name, kernel)
    if isinstance(target, Vec):
        targets = target.items

        def split(cta: Cta) -> None:
            for t, word in zip(targets, unpack(pack([read(cta)]), len(targets)), strict=True):
                cta.write(t, word)

        return split
    return lambda cta: cta.write(target, read(cta))


@decodes("selp")
def decode_select(i: Instruction, kernel: Kernel) -> Step:
    name, target = i.types[-1], i.operands[0]
    a, b, p = (
        source(i.operands[1], name, kernel),
        source(i.operands[2], name, kernel),
        source(i.operands[3], "pred", kernel),
    )
    return lambda cta: cta.write(target, np.where(p(cta), a(cta), b(cta)))


COMPARE: dict[str, Callable[[Array, Array], Array]] = {"eq": np.equal, "ne": np.not_equal}
COMPARE |= dict.fromkeys(("lt", "lo"), np.less) | dict.fromkeys(("le", "ls"), np.less_equal)
COMPARE |= dict.fromkeys(("gt", "hi"), np.greater) | dict.fromkeys(("ge", "hs"), np.greater_equal)


def comparison(word: str) -> Callable[[Array, Array], Array]:
    """A PTX comparison: ordered ones are false on NaN (``ne`` too), those with a ``u`` are true."""
    if word in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (word == "nan")
    if word == "ne":
        return lambda a, b: (a != b) & (a == a) & (b == b)
    if word in COMPARE:
        return COMPARE[word]
    base = COMPARE[word[:2]]
    return lambda a, b: base(a, b) | (a != a) | (b != b)


@decodes("setp")
def decode_compare(i: Instruction, kernel: Kernel) -> Step:
    """``setp.cmp{.and|or|xor}.type p{|q}, a, b{, c}``; q is the opposite of p, or of packed pairs the upper's."""
    name, compare = i.types[-1], comparison(i.parts[1])
    join = next((INTEGER[p] for p in i.parts[2:] if p in ("and", "or", "xor")), None)
    count = 3 if join else 2
    targets = i.operands[:-count]
    a, b = (source(o, name, kernel) for o in i.operands[-count:][:2])
    third = source(i.operands[-1], "pred", kernel) if join else None

    def step(cta: Cta) -> None:
        x, y = a(cta), b(cta)
        if name in FLOATS:
            x, y = widen(x, name), widen(y, name)
        p = compare(x, y)
        for target, value in zip(targets, p.T if name in ("f16x2", "bf16x2") else (p, ~p), strict=False):
            cta.write(target, value if join is None or third is None else join(value, third(cta)))

    return step
