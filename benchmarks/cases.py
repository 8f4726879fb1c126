"""The list of cases. Quick ones fit a coffee break, ``--full`` ones an hour or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from pkernels import Band, causal, dense, prefix_lm, window

from .case import Case, Entry, variants, versus
from .contenders import Contender, Flash, Flex, Longformer, Masked, Pkernels, Sdpa, SdpaEach
from .workload import Workload

FP32, BF16 = torch.float32, torch.bfloat16
SHORT = Workload(queries=128, batch=8)
SIZES = (128, 512, 2048, 4096, 16384, 65536)
RAGGED = (512, 37, 300, 451, 129, 64, 508, 220)


@dataclass(frozen=True)
class Family:
    """A table and a figure."""

    name: str
    title: str
    axis: str | None = "sequence length S"


FAMILIES = {
    family.name: family
    for family in (
        Family("dense", "Dense attention"),
        Family("causal", "Causal attention"),
        Family("short", "Short sequences, larger batches"),
        Family("head dim", "Dense attention by head dimension, S = 2,048", "head dimension D"),
        Family("window", "Sliding window of 256 each side"),
        Family("dilated", "Window of 64 steps each side, dilation 4"),
        Family("prefix", "Prefix-LM, prefix S / 4"),
        Family("globals", "Window of 128 each side, 16 leading globals"),
        Family("scattered", "Window of 128 each side, 16 scattered globals"),
        Family("distance", "Distance bias with its gradient (T5)"),
        Family("relative", "Relative bias with its gradients (Transformer-XL, XLNet)"),
        Family("bias", "Dense bias with its gradient"),
        Family("dropout", "Dense attention, dropout 0.1"),
        Family("gqa", "Causal attention, 8 query heads a key head"),
        Family("ragged", "Ragged batches, padded and packed"),
        Family("decode", "Decoding: one query against a cache", "keys Sk"),
        Family("costs", "What a feature costs, per useful pair", None),
        Family("threads", "Two threads over one", None),
        Family("text", "Sentence embedding of real text with real weights", None),
        Family("long text", "Models over a long real text, base width, one row of bytes"),
        Family("encoders", "BERT and its kin at published widths, a padded batch of bytes"),
        Family("long attention", "Their attention alone, projections included"),
        Family("decoding", "One word after another behind a context, with caches", None),
        Family("training", "Steps of training a small model on real text", None),
        Family("distillation", "Steps of students that learn from all-MiniLM-L6-v2 on real text", None),
    )
}


def cases(full: bool) -> list[Case]:
    """All cases of a mode, in the order of the families."""
    chosen = list(_full() if full else _quick())
    order = list(FAMILIES)
    return sorted(chosen, key=lambda case: order.index(case.family))


def _label(workload: Workload, **shown: object) -> str:
    parts = [workload.dtype_name] + [f"{name}={value}" for name, value in shown.items()]
    return " ".join(parts)


def _quick() -> Iterator[Case]:
    for dtype, long in ((FP32, 2048), (BF16, 1024)):
        yield from _sized("dense", dtype, (512, long), Workload(), Sdpa())
        yield from _sized("causal", dtype, (long,), Workload(pattern=causal), Sdpa())
    yield versus("short", _label(SHORT, B=8, S=128), 128, SHORT, Sdpa(), Masked())
    bf16 = replace(SHORT, dtype=BF16)
    yield versus("short", _label(bf16, B=8, S=128), 128, bf16, Sdpa())
    yield from _window(FP32, (2048,), Flex(), Longformer(), Sdpa())
    yield from _window(FP32, (4096,), Longformer())
    yield from _patterns(FP32, (1024,), heads=4, others=(Sdpa(),))
    yield from _features(FP32, (512,), heads=8)
    yield from _ragged(FP32, RAGGED, heads=8)
    yield from _decode(FP32, (16384,))
    yield _costs(FP32, 512)


def _full() -> Iterator[Case]:
    every = (Sdpa(), Flex(), Masked())
    for dtype in (FP32, BF16):
        yield from _sized("dense", dtype, SIZES, Workload(), *every)
        yield from _sized("causal", dtype, SIZES, Workload(pattern=causal), *every)
        yield from _window(dtype, SIZES, Flex(), Longformer(), Sdpa(), Masked())
        yield from _short(dtype, ((1, 64), (17, 32), (64, 16), (128, 8), (128, 64)))
        for dim in (26, 64, 80, 128, 256):
            workload = Workload(dim=dim, dtype=dtype)
            yield versus("head dim", _label(workload, D=dim), dim, workload, Sdpa(), Masked())
        yield from _patterns(dtype, SIZES[1:], heads=12, others=every)
        yield from _features(dtype, SIZES[1:5], heads=12)
        yield from _ragged(dtype, RAGGED * 2, heads=12)
        yield from _decode(dtype, (1024, 8192, 65536, 131072))
        yield _costs(dtype, 2048)
        yield _rates(dtype)
        for heads, size in ((1, 8192), (12, 2048)):
            workload = Workload(heads=heads, queries=size, dtype=dtype)
            entries = tuple(Entry(Pkernels(f"threads={n}", threads=n), workload) for n in (2, 1))
            yield Case("threads", _label(workload, H=heads, S=size), None, entries)


def gpu() -> list[Case]:
    """What a quarter of an hour with a GPU is for: the most telling first, the CUDA kernels last, for a
    kernel that breaks takes the process's GPU with it."""
    return [*_on_gpu(), *_cuda()]


def _on_gpu() -> Iterator[Case]:
    every = (Sdpa(), Flash(), Flex())
    yield from _sized("dense", BF16, (4096,), Workload(), *every)
    yield from _sized("causal", BF16, (4096,), Workload(pattern=causal), *every)
    yield from _window(BF16, (16384,), Flash(), Flex(), Longformer(), Sdpa())
    yield from _features(BF16, (4096,), 8, Flash())
    yield from _ragged(BF16, RAGGED * 8, 12, Flash())
    yield from _patterns(BF16, (16384,), heads=12, others=(Flex(), Sdpa()))
    yield from _short(BF16, ((128, 64),))
    yield from _decode(BF16, (65536,))
    yield _costs(BF16, 2048)
    wide = Workload(dim=128, queries=4096, dtype=BF16)
    yield versus("head dim", _label(wide, D=128, S=4096), 128, wide, *every)
    yield from _sized("dense", BF16, (512, 16384), Workload(), *every)
    yield from _sized("causal", BF16, (16384,), Workload(pattern=causal), *every)
    yield from _window(BF16, (4096, 65536), Flash(), Flex(), Longformer())
    yield from _sized("dense", FP32, (2048,), Workload(), Sdpa())
    yield from _window(FP32, (4096,), Flex(), Longformer())


def _cuda() -> Iterator[Case]:
    """The kernels in CUDA C++ beside Triton's."""
    for family, pattern, size in (("dense", dense, 4096), ("causal", causal, 4096), ("window", window(256), 16384)):
        for dim in (64, 128):
            workload = Workload(pattern=pattern, queries=size, dim=dim, dtype=BF16)
            entries = tuple(Entry(ours, workload) for ours in (Pkernels(), Pkernels("cuda", backend="cuda")))
            yield Case(family, _label(workload, S=size, D=dim, kernels="CUDA"), size, entries, ("forward", "backward"))


def _sized(family: str, dtype: torch.dtype, sizes: tuple[int, ...], base: Workload, *others) -> Iterator[Case]:
    """One case per S; from 16,384 on with fewer heads, for quadratic work must end."""
    for size in sizes:
        heads = base.heads if size <= 4096 else max(1, base.heads * 4096 // size // 2)
        workload = replace(base, dtype=dtype, queries=size, heads=heads)
        yield versus(family, _label(workload, H=heads, S=size), size, workload, *others)


def _window(dtype: torch.dtype, sizes: tuple[int, ...], *others) -> Iterator[Case]:
    for size in sizes:
        workload = Workload(pattern=window(256), queries=size, dtype=dtype)
        yield versus("window", _label(workload, H=12, S=size), size, workload, *others)


def _short(dtype: torch.dtype, shapes: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    for size, batch in shapes:
        workload = Workload(queries=size, batch=batch, dtype=dtype)
        yield versus("short", _label(workload, B=batch, S=size), size, workload, Sdpa(), Masked())


def _patterns(dtype: torch.dtype, sizes: tuple[int, ...], heads: int, others: tuple) -> Iterator[Case]:
    for size in sizes:
        spread = tuple(range(0, size, size // 16))
        linear = {
            "dilated": Workload(pattern=window(64, dilation=4)),
            "globals": Workload(pattern=window(128, globals=16)),
            "scattered": Workload(pattern=window(128), positions=spread),
        }
        for family, base in linear.items():
            workload = replace(base, queries=size, dtype=dtype, heads=heads)
            yield versus(family, _label(workload, H=heads, S=size), size, workload, *others)
        yield from _sized("prefix", dtype, (size,), Workload(pattern=prefix_lm(size // 4), heads=heads), *others)


def _features(dtype: torch.dtype, sizes: tuple[int, ...], heads: int, *more: Contender) -> Iterator[Case]:
    for size in sizes:
        plain = Workload(heads=heads)
        yield from _sized("distance", dtype, (size,), replace(plain, bias="distance"), Sdpa(), Flex(), Masked())
        if size <= 4096:
            yield from _sized("relative", dtype, (size,), replace(plain, bias="relative"), Sdpa(), Masked())
            yield from _sized("bias", dtype, (size,), replace(plain, bias="dense"), Sdpa(), Masked())
        yield from _sized("dropout", dtype, (size,), replace(plain, dropout=0.1), Sdpa(), Masked(), *more)
        grouped = Workload(pattern=causal, heads=16, kv_heads=2, queries=size, dtype=dtype)
        yield versus("gqa", _label(grouped, H=16, Hkv=2, S=size), size, grouped, Sdpa(), Masked(), *more)


def _ragged(dtype: torch.dtype, lengths: tuple[int, ...], heads: int, *more: Contender) -> Iterator[Case]:
    longest, total = max(lengths), sum(lengths)
    padded = Workload(batch=len(lengths), queries=longest, lengths=lengths, heads=heads, dtype=dtype)
    packed = replace(padded, batch=1, queries=total, packed=True)
    yield versus("ragged", _label(padded, padded=longest), longest, padded, SdpaEach(), Sdpa(), Masked())
    yield versus("ragged", _label(packed, packed=total), total, packed, SdpaEach(), Sdpa(), Masked(), *more)


def _decode(dtype: torch.dtype, sizes: tuple[int, ...]) -> Iterator[Case]:
    for size in sizes:
        workload = Workload(queries=1, keys=size, dtype=dtype)
        name = _label(workload, Sk=size)
        yield versus("decode", name, size, workload, Sdpa(), Masked(), directions=("forward",), unit="GB/s")


def _costs(dtype: torch.dtype, size: int) -> Case:
    plain = Workload(heads=8, queries=size, dtype=dtype)
    lengths = (size, size // 2, size // 4 + 3, size - 5)
    return variants(
        "costs",
        _label(plain, H=8, S=size),
        plain,
        dropout=replace(plain, dropout=0.1),
        Distance=replace(plain, bias="distance"),
        Relative=replace(plain, bias="relative"),
        Dense=replace(plain, bias="dense"),
        GQA_8_to_1=replace(plain, kv_heads=1),
        lengths=replace(plain, batch=4, lengths=lengths),
        strided=replace(plain, strided=True),
    )


def _rates(dtype: torch.dtype) -> Case:
    """The rate of useful pairs that narrow patterns keep of the dense rate."""
    size, plain = 16384, Workload(queries=4096, dtype=dtype)
    return variants(
        "costs",
        _label(plain, H=12, window="256 each side", S=size),
        plain,
        window=replace(plain, pattern=window(256), queries=size),
        dilation_4=replace(plain, pattern=window(256, dilation=4), queries=size),
        causal_window=replace(plain, pattern=Band(511, 0), queries=size),
    )
