"""The calls every backend is tested with: one case per edge, each with a name.

``CASES`` is the whole list, ``CORE`` a short one that touches every feature once (for the
narrow dtypes and for each instruction set).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pkernels import INF, Band, Buckets, causal, dense, prefix_lm, window

from .cases import LAYOUTS, Case
from .shapes import BLOCKS, BUCKETS, listed, sorted_rows

# The patterns ---------------------------------------------------------------------------

PATTERNS = {
    "dense": dense,
    "causal": causal,
    "strict causal": Band(right=-1),
    "right to left": Band(left=0),
    "strict right to left": Band(left=-1),
    "window 0": window(0),
    "window 3": window(3),
    "window 2,7": window(2, 7),
    "window back": window(5, 0),
    "window ahead": window(0, 5),
    "window wider than S": window(1000),
    "window of the past": Band(left=9, right=-4),
    "window of the future": Band(left=-4, right=9),
    "far past": Band(right=-30),
    "far future": Band(left=-30),
    "nothing": Band(left=-1000, right=2000),
    "dilation 2": window(3, dilation=2),
    "dilation 3, back": window(4, 0, dilation=3),
    "dilation 2, unbounded": Band(dilation=2),
    "dilation 3, causal": Band(right=0, dilation=3),
    "dilation 3, strict": Band(right=-1, dilation=3),
    "dilation wider than S": window(2, dilation=50),
    "dilation 2, globals": window(2, dilation=2, globals=3),
    "dilation 3, globals": window(3, 1, dilation=3, globals=5),
    "globals": window(3, globals=4),
    "globals in the band": window(6, globals=1),
    "columns": Band(left=2, right=2, columns=5),
    "rows": Band(left=2, right=2, rows=5),
    "columns, rows": Band(left=1, right=0, columns=20, rows=3),
    "columns cover S": Band(left=0, right=0, columns=1000),
    "rows cover S": Band(left=0, right=0, rows=1000),
    "columns of nothing": Band(left=-1000, right=2000, columns=3),
    "prefix": prefix_lm(9),
    "prefix per row": prefix_lm(torch.tensor([0, 21])),
    "prefix per row, dilation": Band(left=2, right=1, columns=torch.tensor([100, 6]), dilation=2),
    "limits of int": Band(left=INF, right=INF, columns=INF, rows=INF, dilation=INF),
    "window of INF steps": Band(left=INF, right=0, dilation=INF),
}


def patterns() -> list[Case]:
    square = [Case(f"{name}", pattern, sq=67) for name, pattern in PATTERNS.items()]
    wide = [Case(f"{name}, 37x70", pattern, sq=37, sk=70) for name, pattern in PATTERNS.items()]
    tall = [Case(f"{name}, 70x37", pattern, sq=70, sk=37, lse_grad=False) for name, pattern in PATTERNS.items()]
    return square + wide + tall


# The edges of shapes --------------------------------------------------------------------


def shapes() -> list[Case]:
    lengths = [1, 2, 7, 15, 16, 17, 23, 24, 25, 31, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129, 211]
    pairs = [(1, 64), (64, 1), (1, 129), (17, 33), (33, 17), (5, 130), (130, 5), (24, 65), (65, 24)]
    few = {"batch": 1}
    many = {"batch": 4, "heads": 5}  # a tensor of two numbers has no typical error
    cases = [Case(f"S {n}", sq=n, **(few if n > 9 else many)) for n in lengths]
    cases += [Case(f"causal, S {n}", causal, sq=n, **(few if n > 9 else many)) for n in lengths]
    cases += [Case(f"window, S {n}", window(17, 3), sq=n, **few) for n in (24, 48, 65, 128, 211)]
    cases += [Case(f"S {n}x{m}", sq=n, sk=m, **(few if min(n, m) > 1 else many)) for n, m in pairs]
    cases += [Case(f"causal, S {n}x{m}", causal, sq=n, sk=m, **(few if min(n, m) > 1 else many)) for n, m in pairs]
    dims = [1, 2, 7, 8, 9, 15, 16, 17, 26, 41, 64, 80, 128, 255, 256]
    cases += [Case(f"D {d}", causal, sq=19, d=d, **few) for d in dims]
    widths = [(64, 32), (32, 64), (16, 1), (1, 16), (41, 26), (80, 128), (128, 256), (256, 8)]
    cases += [Case(f"D {d}, Dv {dv}", causal, sq=19, d=d, dv=dv, **few) for d, dv in widths]
    heads = [(4, 2), (4, 1), (3, 3), (6, 2), (1, 1)]
    cases += [Case(f"heads {h}:{kv}", window(9, 4), heads=h, kv_heads=kv) for h, kv in heads]
    cases += [
        Case("batch 5", causal, batch=5),
        Case("batch 1, head 1", causal, batch=1, heads=1),
        Case("scale 0.3", causal, scale=0.3),
        Case("scale 0", causal, scale=0.0),
        Case("scale negative", causal, scale=-0.5),
        Case("scale large", dense, scale=3.0),
        Case("gradient of out alone", causal, lse_grad=False),
    ]
    return cases + [Case(f"no {name}", causal, **sizes) for name, sizes in EMPTY.items()]


EMPTY = {
    "batch": {"batch": 0},
    "queries": {"sq": 0, "sk": 9},
    "keys": {"sq": 9, "sk": 0},
    "rows": {"sq": 0},
    "heads": {"heads": 0},
}


# Features, alone and together -----------------------------------------------------------

BIASES = {
    "distance": "distance",
    "distance, one head": "distance shared",
    "dense": "dense",
    "dense 1x1x1x37": "dense 1x1x1x37",
    "dense 2x1x1x37": "dense 2x1x1x37",
    "dense 1x2x37x37": "dense 1x2x37x37",
    "dense 2x1x37x1": "dense 2x1x37x1",
    "dense 1x1x1x1": "dense 1x1x1x1",
    "dense 37x37": "dense 37x37",
    "dense, hidden pairs": "dense hidden",
}

# One of each kind of loop and mask.
MASKS = {
    name: PATTERNS[name]
    for name in (
        "dense",
        "causal",
        "strict causal",
        "window 2,7",
        "window of the past",
        "dilation 3, globals",
        "globals",
        "prefix per row",
    )
}


def biases() -> list[Case]:
    alone = [Case(f"bias {name}", bias=bias) for name, bias in BIASES.items()]
    masked = [
        Case(f"bias {bias}, {name}", pattern, bias=bias, lengths=lengths, dtype=torch.float32)
        for bias, lengths in (("distance", None), ("dense hidden", [37, 22]))
        for name, pattern in MASKS.items()
    ]
    return (
        alone
        + masked
        + [
            Case("bias distance, 21x50", causal, sq=21, sk=50, bias="distance"),
            Case("bias distance, 50x21", causal, sq=50, sk=21, bias="distance"),
            Case("bias dense, 21x50", dense, sq=21, sk=50, bias="dense"),
            Case("bias dense, 50x21", causal, sq=50, sk=21, bias="dense hidden"),
            Case("bias distance, lengths", bias="distance", lengths=[11, 37]),
            Case("bias distance, heads 4:2", causal, heads=4, kv_heads=2, bias="distance"),
            Case("bias dense, heads 4:2", causal, heads=4, kv_heads=2, bias="dense"),
            Case("bias distance, S 1", batch=4, heads=5, sq=1, bias="distance"),
            Case("bias distance, S 130", window(40), sq=130, batch=1, bias="distance"),
            Case("bias distance, no rows", sq=0, bias="distance"),
            Case("bias dense, no rows", sq=0, bias="dense"),
        ]
    )


def relatives() -> list[Case]:
    masked = [Case(f"relative, {name}", pattern, sq=67, bias="relative") for name, pattern in MASKS.items()]
    packed = {"batch": 1, "sq": 60, "offsets": [0, 23, 24, 24, 57], "bias": "relative"}
    sizes = [(5, 130), (130, 5), (48, 97), (49, 96), (211, 211)]
    wide = [Case(f"relative, causal, {n}x{m}", causal, batch=1, sq=n, sk=m, bias="relative") for n, m in sizes]
    few = [Case(f"relative, S {n}x{m}", batch=4, heads=5, sq=n, sk=m, bias="relative") for n, m in ((1, 50), (50, 1))]
    return [
        *masked,
        *wide,
        *few,
        Case("relative, shared", bias="relative shared"),
        Case("relative, S 1", batch=4, heads=5, sq=1, bias="relative"),
        Case("relative, D 26", causal, d=26, bias="relative"),
        Case("relative, D 41", causal, d=41, bias="relative"),
        Case("relative, D 64, Dr 7", d=64, bias="relative 7", batch=1),
        Case("relative, D 8, Dr 256", causal, d=8, bias="relative 256", batch=1, scale=1 / 16),
        Case("relative, scale 0.3", scale=0.3, bias="relative"),
        Case("relative, heads 4:2", causal, heads=4, kv_heads=2, sk=60, bias="relative"),
        Case("relative, heads 4:1, shared", heads=4, kv_heads=1, bias="relative shared"),
        Case("relative, lengths", causal, lengths=[37, 11], bias="relative"),
        Case("relative, lengths pair", causal, sk=50, lengths=([37, 12], [50, 9]), bias="relative"),
        Case("relative, offsets", causal, **packed),
        Case("relative, offsets, window", window(5, 2), **packed),
        Case(
            "relative, offsets pair", batch=1, sq=40, sk=60, offsets=([0, 1, 20, 38], [0, 30, 30, 60]), bias="relative"
        ),
        Case("relative, columns, dilation", Band(2, 2, columns=40, dilation=3), sq=67, sk=80, bias="relative"),
        Case(
            "relative, column, dilation, S 99",
            Band(right=0, columns=1, dilation=2),
            sq=99,
            batch=1,
            heads=1,
            d=8,
            bias="relative",
        ),
        Case("relative, rows", Band(1, 0, columns=3, rows=9, dilation=2), sq=67, bias="relative"),
        Case("relative, dropout", causal, dropout=0.3, bias="relative"),
        Case(
            "relative, dilation, dropout",
            window(3, 2, dilation=3, globals=2),
            sq=40,
            batch=1,
            lengths=[31],
            dropout=0.3,
            bias="relative",
        ),
        Case("relative, blocks", listed(8, 37, 50, heads=2, most=2), sk=50, bias="relative"),
        Case(
            "relative, blocks of 24, lengths, dropout",
            listed(24, 70, 61, most=2),
            sq=70,
            sk=61,
            lengths=[61, 37],
            dropout=0.3,
            bias="relative",
            heads=4,
            kv_heads=2,
        ),
        Case("relative, rows before heads", causal, layout="rows before heads", bias="relative"),
        Case("relative, no rows", sq=0, bias="relative"),
        Case("relative, no keys", sq=9, sk=0, bias="relative"),
        Case("relative, no queries", sq=0, sk=9, bias="relative"),
    ]


def ragged() -> list[Case]:
    cases = [Case(f"lengths, {name}", pattern, sq=67, lengths=[67, 29]) for name, pattern in MASKS.items()]
    packed = {"batch": 1, "sq": 60, "offsets": [0, 23, 24, 24, 57]}
    per_sequence = prefix_lm(torch.tensor([3, 0, 1, 12]))
    cases += [
        Case(f"offsets, {name}", per_sequence if name == "prefix per row" else pattern, **packed)
        for name, pattern in MASKS.items()
    ]
    return [
        *cases,
        Case("lengths 0, 1, S", causal, batch=3, lengths=[0, 1, 37]),
        Case("lengths all 0", dense, lengths=[0, 0]),
        Case("lengths of keys", causal, sq=5, sk=37, lengths=[37, 3]),
        Case("lengths pair", causal, sq=37, sk=50, lengths=([37, 12], [50, 9])),
        Case("lengths pair, more queries", causal, sq=50, sk=37, lengths=([50, 40], [3, 37])),
        Case("lengths pair, queries alone", window(4), lengths=([30, 0], None)),
        Case("lengths pair, keys alone", window(4), lengths=(None, [30, 0])),
        Case("lengths, heads 4:2", window(9, 3), heads=4, kv_heads=2, lengths=[20, 37]),
        Case("lengths, globals, S 150", window(9, globals=3), sq=150, heads=1, lengths=[150, 77]),
        Case("offsets pair", causal, batch=1, sq=40, sk=60, offsets=([0, 1, 20, 38], [0, 30, 30, 60])),
        Case("offsets, heads 4:2", causal, batch=1, heads=4, kv_heads=2, sq=60, offsets=[0, 31, 60]),
        Case("offsets of none", causal, batch=1, sq=9, offsets=[0]),
        Case("offsets, bias distance", causal, bias="distance", **packed),
        Case("offsets, bias dense", window(5), bias="dense 4x2x60x60", **packed),
        Case("offsets, bias dense 1x2x1x33", window(5), bias="dense 1x2x1x33", **packed),
        Case("offsets, rows before heads", causal, layout="rows before heads", **packed),
    ]


def dropout() -> list[Case]:
    cases = [Case(f"dropout, {name}", pattern, dropout=0.3) for name, pattern in MASKS.items()]
    return [
        *cases,
        Case("dropout 0.9", dense, dropout=0.9),
        Case("dropout 2**-17", dense, dropout=2**-17),
        Case("dropout, S 131", causal, sq=131, batch=1, dropout=0.5),
        Case("dropout, 21x50", causal, sq=21, sk=50, dropout=0.5),
        Case("dropout, heads 4:2", dense, heads=4, kv_heads=2, dropout=0.5),
        Case("dropout, lengths", causal, lengths=[20, 37], dropout=0.5),
        Case("dropout, offsets", causal, batch=1, sq=60, offsets=[0, 23, 24, 60], dropout=0.5),
        Case("dropout, distance", window(9), bias="distance", dropout=0.5),
        Case("dropout, dense", window(9), bias="dense hidden", dropout=0.5, lengths=[37, 9]),
    ]


def layouts() -> list[Case]:
    return [Case(f"{name}, {shape}", window(9, 2), layout=name, **sizes)
            for name in list(LAYOUTS)[1:]
            for shape, sizes in (("D 16", {}), ("D 26", {"d": 26, "sq": 29}))]  # fmt: skip


def blocks() -> list[Case]:
    return [Case(name, pattern, **sizes) for name, (sizes, pattern) in BLOCKS.items()]


def buckets() -> list[Case]:
    return [Case(name, pattern, **sizes) for name, (sizes, pattern) in BUCKETS.items()]


EVERYTHING = Case(
    "everything",
    Band(left=9, right=4, columns=torch.tensor([3, 12]), rows=2, dilation=2),
    sq=67,
    heads=4,
    kv_heads=2,
    d=41,
    dv=26,
    bias="distance",
    lengths=[67, 40],
    dropout=0.2,
    scale=0.2,
    layout="rows before heads",
)

RELATIVE = replace(EVERYTHING, id="everything, relative", bias="relative 30")

CORE = [
    Case("dense, S 65", dense, sq=65),
    Case("causal, S 65, D 64", causal, sq=65, d=64, batch=1),
    Case("causal, 70x37", causal, sq=70, sk=37),
    Case("strict causal, D 80", Band(right=-1), d=80, batch=1),
    Case("window, heads 4:2", window(9, 3), heads=4, kv_heads=2),
    Case("dilation 3, globals, D 26", window(3, 1, dilation=3, globals=5), sq=67, d=26),
    Case("prefix per row", prefix_lm(torch.tensor([0, 21]))),
    Case("distance, causal, D 1", causal, d=1, bias="distance"),
    Case("dense bias with hidden pairs", dense, bias="dense hidden"),
    Case("dense bias of keys, lengths", dense, bias="dense 2x1x1x37", lengths=[37, 20]),
    Case("offsets, D 128", causal, batch=1, sq=60, offsets=[0, 23, 24, 57], d=128),
    Case("dropout, Dv 41", window(9), d=32, dv=41, dropout=0.3),
    Case("one row", batch=4, heads=5, sq=1),
    Case("blocks, D 64", listed(16, 67, 50, heads=2, most=3), sq=67, sk=50, d=64, dropout=0.2, lengths=[50, 31]),
    Case("buckets, D 64", Buckets(sorted_rows(67, 24, 2, 2), 24, True), sq=67, d=64, lengths=[67, 40]),
    Case("buckets, last resort, D 26", Buckets(sorted_rows(67, 24, 3, 2, 2), 24, own=-1e5), sq=67, d=26),
    Case("relative, causal, D 26", causal, sq=65, sk=90, d=26, bias="relative"),
    RELATIVE,
    EVERYTHING,
]


def narrow(dtype: torch.dtype, name: str) -> list[Case]:
    sizes = [Case(f"causal, D {d}", causal, sq=33, batch=1, d=d) for d in (7, 16, 26, 32, 64, 256)]
    layouts = [Case(name, window(9, 2), d=26, layout=name) for name in ("last dimension strided", "NaN border")]
    sizes += [Case("scale negative", window(9, 2), sq=33, batch=1, d=26, scale=-0.3)]
    long = [Case("causal, S 300", causal, sq=300, batch=1, heads=1, d=64)]
    wide = {"sq": 200, "sk": 300, "batch": 1, "heads": 1, "d": 64, "bias": "relative"}
    long += [Case("relative, S 200x300", **wide), Case("relative, S 200x300, scale 0.3", **wide, scale=0.3)]
    return [replace(case, id=f"{name}, {case.id}", dtype=dtype) for case in CORE + sizes + layouts + long]


CASES = [
    *patterns(),
    *shapes(),
    *biases(),
    *relatives(),
    *ragged(),
    *dropout(),
    *layouts(),
    *blocks(),
    *buckets(),
    EVERYTHING,
    *narrow(torch.bfloat16, "bf16"),
    *narrow(torch.float16, "fp16"),
]
