"""What compilers make of the GPU kernels, against the committed table and its goals; and the tool that counts.

If a kernel was changed on purpose, ``python -m benchmarks static --update`` writes the table again. Compared are
rows of bf16: of the extension those without a bias, of Triton's those over a Band and one of each other shape.
Of all others what is read at once, registers and stack.
"""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform, and brings the disassembler")
pytest.importorskip("rich", reason="the suite prints with rich")

from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.static import extension, show, steady, table
from benchmarks.static.chips import CHIPS, Rates
from benchmarks.static.estimate import utilisation
from benchmarks.static.goals import goals, missed
from benchmarks.static.listing import Code, Instruction
from benchmarks.static.loops import read
from benchmarks.static.published import PUBLISHED
from pkernels import cuda

ROWS = {(row["kernel"], row["chip"]): row for row in table.load()["rows"]}


def same_compiler(name: str) -> None:
    """Skip where another version made the code: its counts differ, and say nothing."""
    made, here = table.load()["versions"][name], table.versions().get(name)
    if here != made:
        pytest.skip(f"the table was written with {name} {made}, here it is {here or 'not built'}")


UPDATE = "python -m benchmarks static --update, if this is meant"
BARE = r"_bf16_(?:64|128)_none|_rows$"
ALONE = re.compile(r"cuda (hash_rows|sort_rows|merge_\w+)")  # they have no use for the tensor cores
PASSES = ("forward", "dq", "dkv")
TRITON = [
    (f"triton {name}_bf16_{width}", chip)
    for chip in table.TARGETS
    for name, width in (*((name, width) for name in PASSES for width in table.WIDTHS), ("buckets_dkv", 64))
] + [("triton blocks_forward_bf16_64", "sm_80"), ("triton dq_f32_64", "sm_80"), ("triton forward_f32_64", "sm_90")]


def parts_of(kernel: str) -> tuple[str, str, int]:
    """Pass, dtype and head dimension in a Triton kernel's name."""
    name, dtype, width = kernel.removeprefix("triton ").rsplit("_", 2)
    return name, dtype, int(width)


def test_every_kernel_has_a_row() -> None:
    if cuda.why_missing() is not None or not set(table.TARGETS) <= set(extension.chips()):
        pytest.skip("the extension was not built for all chips of the table")
    assert {(kernel.name, kernel.chip) for kernel in table.kernels()} == set(ROWS), UPDATE


@pytest.mark.parametrize(("kernel", "chip"), TRITON)
def test_triton_kernels_are_those_of_the_table(kernel: str, chip: str) -> None:
    same_compiler("triton")
    assert table.triton_row(*parts_of(kernel), chip) == ROWS[kernel, chip], UPDATE


@pytest.mark.parametrize("chip", table.TARGETS)
def test_cuda_kernels_are_those_of_the_table(chip: str) -> None:
    same_compiler("nvcc")
    names = extension.codes(chip, BARE)
    # Passes, shapes, head dimensions; and those that hash and sort; and the forward for sm_90 alone.
    assert len(names) == 3 * 3 * 2 + 2 + 2 * (chip == "sm_90")
    for name in names:
        assert table.cuda_row(name, chip, BARE) == ROWS[f"cuda {name}", chip], UPDATE


@pytest.mark.parametrize("chip", table.TARGETS)
def test_no_cuda_kernel_spills_and_registers_are_those_of_the_table(chip: str) -> None:
    same_compiler("nvcc")
    found = extension.usages(chip)
    assert set(extension.shapes()) == set(found) | {x for x in extension.shapes() if x.startswith("hopper_")}
    assert [name for name, taken in found.items() if taken.stack] == []
    held = {name: ROWS[f"cuda {name}", chip]["registers"] for name in extension.tabled(chip)}
    assert {name: found[name].registers for name in held} == held, UPDATE


def test_main_loops_neither_spill_nor_wait_for_memory() -> None:
    for row in ROWS.values():
        assert row["spills"] == 0 and row["barriers"] == 0, row
        assert row["shared"] <= CHIPS[row["chip"]].block and row["registers"] <= 255 and row["blocks"] > 0, row
        assert row["products"] > 0 or ALONE.fullmatch(row["kernel"]), row


def test_goals() -> None:
    """On sm_80 a forward's bound is 85 % and its estimate 60 %, a backward's 45 %; on sm_90 the forward of its own
    reaches 95 % and 65 %. A window costs at most 10 points."""
    held = [row for row in ROWS.values() if goals(row)]
    assert len(held) == 3 * 2 * 2 + 2
    for row in held:
        assert not missed(row) and "missed" not in row, row


def test_blocks_at_once() -> None:
    """Figures of NVIDIA's occupancy calculator (cuda_occupancy.h), for chips of compute capability 8.0 and 9.0."""
    for chip, registers, warps, shared, blocks in [
        ("sm_80", 255, 4, 48 << 10, 2),
        ("sm_80", 128, 4, 16 << 10, 4),
        ("sm_80", 32, 4, 0, 16),
        ("sm_80", 16, 1, 0, 32),
        ("sm_80", 64, 4, 80 << 10, 2),
        ("sm_90", 168, 12, 200 << 10, 1),
        ("sm_90", 64, 4, 100 << 10, 2),
        ("sm_80", 255, 16, 0, 0),
    ]:
        assert CHIPS[chip].at_once(registers, warps, shared) == blocks, (chip, registers, warps, shared)


RATES = Rates(fma=2, alu=2, mufu=8, dense=256, sync=256)


def some(opcode: str, times: int, stall: int = 1, **more: Any) -> list[Instruction]:
    return [Instruction(opcode, opcode, stall=stall, **more)] * times


def test_shares_of_a_loop() -> None:
    """Ten products of 8 cycles; whatever else there is takes what the table of rates says."""
    products = some("HMMA.16816.F32.BF16", 10)
    found = utilisation(products, 2, RATES)
    assert found is not None and (found.bound, found.limit) == (1, "tensor")
    assert utilisation([*products, *some("MUFU.EX2", 20)], 2, RATES).bound == 0.5  # type: ignore[union-attr]
    assert utilisation([*products, *some("LDSM.16.M88.4", 10)], 2, RATES).limit == "shared"  # type: ignore[union-attr]
    assert utilisation([*products, *some("LDS", 100, never=True)], 2, RATES).limit == "issue"  # type: ignore[union-attr]
    # One warp, 80 cycles of products and then 80 of exponentials: it does one after the other.
    alone = utilisation([*products, *some("MUFU.EX2", 10)], 1, RATES)
    assert alone is not None and alone.estimate == 0.5 < alone.bound == 1
    # Two of them: X(2) = 2 / (80 * 1.5 * 2), by hand.
    both = utilisation([*products, *some("MUFU.EX2", 10)], 2, RATES)
    assert both is not None and both.estimate == pytest.approx(2 / 3)
    waiting = utilisation([*products, *some("BRA", 1, stall=390)], 2, RATES)
    assert waiting is not None and (waiting.bound, waiting.limit) == (0.4, "stalls")
    assert utilisation(some("FFMA", 3), 2, RATES) is None
    exact = utilisation(some("HMMA.1688.F32.TF32", 10), 8, RATES)
    assert exact is not None and exact.cycles["tensor"] == 80 and exact.bound == 1  # half as fast as 16 bits
    group = utilisation(some("HGMMA.64x128x16.F32.BF16", 1), 2, CHIPS["sm_90"].rates)  # type: ignore[arg-type]
    assert group is not None and group.cycles["tensor"] == 64 * 128 * 16 / 4 / 512


def looping(text: str) -> Code:
    """A kernel of one opcode a line; "@" before those that may not run, ">n" behind jumps to line n."""
    code, labels = [], {}
    for i, line in enumerate(text.split()):
        opcode, _, to = line.lstrip("@").partition(">")
        code.append(Instruction(opcode, opcode, line.startswith("@"), to or None))
        labels[str(i)] = i
    return Code(code, labels, 32)


def test_turn_of_a_loop() -> None:
    """It copies wide, masks nothing, and leaves out the second product."""
    kernel = looping("""
        S2R
        @BRA>4 LDG.U16 BRA>5 LDGSTS.128
        HMMA @BRA>9 FSEL FSEL
        @BRA>11 HMMA
        @BRA>1 EXIT
    """)
    (loop,) = read(kernel).loops
    assert [i.opcode for i in steady.turn(loop)] == ["BRA", "LDGSTS.128", "HMMA", *["BRA"] * 3]
    masked = ["BRA", "LDGSTS.128", "HMMA", "BRA", "FSEL", "FSEL", "BRA", "BRA"]
    assert [i.opcode for i in steady.masked_turn(loop)] == masked


def test_the_main_loop_is_that_of_groups_of_warps() -> None:
    """Where some products are those of four warps together, a denser loop of others is a rare path."""
    kernel = looping("HGMMA FADD FADD FADD @BRA>0 HMMA HMMA @BRA>5 EXIT")
    assert [(loop.of_groups, loop.tensor) for loop in read(kernel).loops] == [(1, 1), (0, 2)]


def test_turn_has_no_loop_in_it_that_reads_row_by_row() -> None:
    (loop,) = read(looping("S2R LDGSTS.128 HMMA @BRA>6 LDG.U16 @BRA>4 @BRA>1 EXIT")).loops
    assert [i.opcode for i in steady.turn(loop)] == ["LDGSTS.128", "HMMA", "BRA", "BRA"]


def test_barriers_of_the_gpu_are_counted() -> None:
    (loop,) = read(looping("HMMA MEMBAR.SC.GPU ERRBAR MEMBAR.ALL.CTA CCTL.IVALL @BRA>0 EXIT")).loops
    assert loop.barriers == 3


def test_it_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["static", "--only", "triton dq"]) == 0
    said = capsys.readouterr().out
    assert "triton dq_bf16_128" in said and "cuda" not in said and "nothing was" in said
    for row in PUBLISHED:
        assert row["known"] in said
    out = io.StringIO()
    short = ROWS["triton forward_bf16_128", "sm_80"] | {"estimate": 0.5, "missed": ["estimate"]}
    show.show(Console(file=out, width=200), table.load() | {"rows": [short]}, "triton forward_bf16_128")
    assert out.getvalue().count("(missed)") == 1


def test_without_the_extension_the_table_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "why_missing", lambda: "not built")
    assert command.main(["static", "--update"]) == 2
    assert "update: the table has rows of the CUDA kernels: not built" in capsys.readouterr().err
