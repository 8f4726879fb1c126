"""What a chip has: how many blocks run on a multiprocessor at once, and how fast each kind of instruction is.

Limits are those of the CUDA C++ programming guide, section "Compute Capabilities", table of technical
specifications. Rates are those of its section "Arithmetic Instructions", results per clock and
multiprocessor, as the cycles for which a warp's instruction keeps a pipe of one of the four
sub-partitions busy: 32 lanes over a quarter of the rate. Tensor cores: NVIDIA's A100 whitepaper, 1024
dense 16-bit multiply-adds per clock and multiprocessor (312 TFLOP/s at 1.41 GHz on 108), and H100
whitepaper, 2048 (989 TFLOP/s at 1.83 GHz on 132); there ``mma.sync`` reaches about 62 % of it
(Luo et al. 2024, arXiv:2402.13499, section IV).
"""

from __future__ import annotations

from dataclasses import dataclass

WARPS, BLOCKS, REGISTERS, PARTITIONS = 64, 32, 65_536, 4
"""Of a multiprocessor of any chip here: warps and blocks at once, registers, sub-partitions."""
_UNIT = 256  # registers are given to a warp by so many


@dataclass(frozen=True)
class Rates:
    """Cycles of a sub-partition per warp's instruction, and the tensor cores' 16-bit multiply-adds per cycle.

    Attributes:
        fma: Of fp32 multiply, add and both; integer multiply-adds take one of these pipes, 2 cycles.
        alu: Of integer addition, comparison, logic, selection, and conversions to 16 bits.
        mufu: Of exp2, log2 and reciprocals.
        dense: Multiply-adds per cycle at best.
        sync: The same by ``mma.sync``.
    """

    fma: float
    alu: float
    mufu: float
    dense: float
    sync: float


@dataclass(frozen=True)
class Chip:
    """A chip.

    Attributes:
        shared: Bytes of shared memory of a multiprocessor.
        block: Those that one block may have.
        rates: None where too little is published.
    """

    shared: int
    block: int
    rates: Rates | None

    def at_once(self, registers: int, warps: int, shared: int) -> int:
        """Blocks that a multiprocessor runs at once.

        Args:
            registers: Of a thread.
            warps: Of a block.
            shared: Bytes of a block, static and dynamic.
        """
        of_warp = -(-registers * 32 // _UNIT) * _UNIT
        by_registers = REGISTERS // PARTITIONS // of_warp * PARTITIONS // warps
        taken = -(-(shared + 1024) // 128) * 128  # the system takes 1 KiB of each block
        return min(WARPS // warps, BLOCKS, by_registers, self.shared // taken)


CHIPS = {
    "sm_80": Chip(167_936, 166_912, Rates(fma=2, alu=2, mufu=8, dense=256, sync=256)),
    "sm_90": Chip(233_472, 232_448, Rates(fma=1, alu=2, mufu=8, dense=512, sync=512 * 0.62)),
    "sm_100": Chip(233_472, 232_448, None),
}
