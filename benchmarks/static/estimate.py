"""How busy the tensor cores can be in a main loop: a bound, and an estimate. Nothing here was measured.

One turn of the loop (:mod:`.steady`) asks each part of a sub-partition for so many cycles: the tensor
cores, the units of exp2, of fp32, of integers, shared memory (128 bytes per clock for the whole
multiprocessor, so a quarter of it here), and the scheduler, which issues one instruction per cycle.

The *bound* is the share of time for which the tensor cores work if all of that overlaps perfectly: their
cycles at best over those of the busiest part, or over the cycles that the compiler's stall counts keep a
warp from issuing, divided among the warps that are there.

The *estimate* lets the resident warps queue. It is the closed network of two stations, the tensor cores
and the busiest other part, through which W warps circulate, with the remaining stalls as time spent
elsewhere; its throughput comes from mean value analysis (Reiser and Lavenberg 1980, J. ACM 27(2)):

    R_k(w) = D_k (1 + Q_k(w - 1))    X(w) = w / (Z + R_1(w) + R_2(w))    Q_k(w) = X(w) R_k(w)

with D the cycles of a turn at a station, Z the time elsewhere. The estimate is D_tensor (at best) times X.

Left out: latency and bandwidth of memory beyond shared memory, bank conflicts, what comes before and after
the loop, blocks that end at different times, and clocks that sink under load. So both are for comparing
kernels with one another; of kernels whose speed is known the estimate was within about 10 points.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .chips import PARTITIONS, Rates
from .listing import Instruction
from .loops import TENSOR

_INTEGER_FMA = re.compile(r"IMAD")
_FMA = re.compile(r"FFMA|FADD|FMUL")
_ALU = re.compile(
    r"FMNMX|FSEL|FSET|ISET|IADD|LOP3|SHF|SEL|LEA|PRMT|IMNMX|VIADD|VIMNMX|PLOP3|F2FP|MOV|IABS|BMSK|SGXT|VOTE|P2R|R2P|CS2R"
    r"|HADD2|HFMA2|HMUL2|HMNMX2|HSET|I2FP|FCHK"
)
_MUFU = re.compile(r"MUFU|I2F(?!P)|F2I|F2F(?!P)|POPC|FRND|BREV|FLO")
_SHARED = re.compile(r"LDSM|STSM|LDS|STS|ATOMS|LDGSTS|SHFL")
_SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)")
_SYNC = {".16816": 16 * 8 * 16, ".1688": 16 * 8 * 8}


@dataclass(frozen=True)
class Utilisation:
    """Of the tensor cores, as a share of their best.

    Attributes:
        bound: What is possible if all overlaps.
        estimate: What is likely.
        limit: The busiest part.
        cycles: Of a turn, by part.
    """

    bound: float
    estimate: float
    limit: str
    cycles: dict[str, float]


def utilisation(turn: Sequence[Instruction], warps: float, rates: Rates) -> Utilisation | None:
    """The bound and the estimate of a loop, None if it does not use the tensor cores.

    Args:
        turn: What one warp runs in a turn.
        warps: Those that share a sub-partition.
        rates: Of the chip.
    """
    best = sum(multiply_adds(i) for i in turn) / rates.dense
    if not best:
        return None
    cycles = _cycles(turn, rates)
    stalls = float(sum(i.stall for i in turn))
    limit = max(cycles, key=lambda part: cycles[part])
    waits = max(stalls, cycles["tensor"]) / warps
    bound = best / max(cycles[limit], waits)
    products = sum(TENSOR.match(i.opcode) is not None for i in turn)
    rest = max(n - products if part == "issue" else n for part, n in cycles.items() if part != "tensor")
    speed = _throughput((cycles["tensor"], rest), max(0.0, stalls - rest), max(1, int(warps)))
    return Utilisation(bound, best * speed, limit if waits <= cycles[limit] else "stalls", cycles)


def multiply_adds(instruction: Instruction) -> float:
    """Those of one warp; of ``wgmma``, in which four warps take part, a quarter. One of tf32 takes the time of
    two of 16 bits (A100 whitepaper: 156 TFLOP/s), and counts as two."""
    opcode = instruction.opcode
    if not TENSOR.match(opcode):
        return 0
    if m := _SHAPE.search(opcode):
        return int(m[1]) * int(m[2]) * int(m[3]) / 4
    return next((n for part, n in _SYNC.items() if part in opcode), 0) * (2 if "TF32" in opcode else 1)


def _cycles(turn: Sequence[Instruction], rates: Rates) -> dict[str, float]:
    run = [i for i in turn if not i.never]
    count = Counter(
        part
        for i in run
        for part, kind in (("integer", _INTEGER_FMA), ("fp32", _FMA), ("alu", _ALU), ("mufu", _MUFU))
        if kind.match(i.opcode)
    )
    shared = sum(_wavefronts(i) for i in run)
    return {
        "tensor": sum(multiply_adds(i) / (rates.dense if _SHAPE.search(i.opcode) else rates.sync) for i in run),
        "fma": max(2 * count["integer"], rates.fma * (count["integer"] + count["fp32"])),
        "alu": rates.alu * count["alu"],
        "mufu": rates.mufu * count["mufu"],
        "shared": PARTITIONS * shared,
        "issue": len(turn),
    }


def _wavefronts(instruction: Instruction) -> float:
    """Times that shared memory gives or takes its 128 bytes, without bank conflicts."""
    opcode = instruction.opcode
    if opcode.startswith(("HGMMA", "QGMMA")) and (m := _SHAPE.search(opcode)):
        # Four warps read the right operand together, each its rows of the left one if that is there too.
        size = 2 if opcode.startswith("HGMMA") else 1
        columns = int(m[2]) + (int(m[1]) if instruction.text.count("gdesc") > 1 else 0)
        return columns * int(m[3]) * size / 128 / 4
    if not _SHARED.match(opcode):
        return 0
    if opcode.startswith(("LDSM", "STSM")):
        return next((n for part, n in ((".4", 4), (".2", 2)) if opcode.endswith(part)), 1)
    return next((n for part, n in ((".128", 4), (".64", 2)) if part in opcode), 1)


def _throughput(demands: tuple[float, float], elsewhere: float, warps: int) -> float:
    """Turns per cycle of ``warps`` that circulate."""
    queues, speed = [0.0, 0.0], 0.0
    for w in range(1, warps + 1):
        times = [d * (1 + q) for d, q in zip(demands, queues, strict=True)]
        speed = w / (elsewhere + sum(times))
        queues = [speed * t for t in times]
    return speed
