"""Bad input names the argument, what was given and what is allowed, and never crashes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, Buckets, Dense, Distance, Relative, prefix_lm, window

Q, K, V = (torch.zeros(2, h, 10, 8) for h in (4, 2, 2))
PACKED = torch.zeros(1, 2, 10, 8)


def call(q=Q, k=K, v=V, pattern=pkernels.dense, bias=None, **options) -> Callable:
    return lambda: pkernels.attention(q, k, v, pattern, bias, **options)


def packed(offsets, q=PACKED, k=PACKED, **options) -> Callable:
    return lambda: pkernels.attention(q, k, k, offsets=offsets, **options)


# name: (the call, what the message says)
WRONG: dict[str, tuple[Callable, str]] = {
    "q is a list": (call(q=[1.0]), "q: a tensor is allowed, got list"),
    "q has 3 dimensions": (call(q=Q[0]), r"q: shape \(B, H, S, D\) is allowed, got \(4, 10, 8\)"),
    "q holds integers": (call(q=Q.long()), "q: float32.* is allowed, got torch.int64"),
    "k has another dtype": (call(k=K.half()), "k: q's dtype and device are allowed, got torch.float16"),
    "v lies on another device": (call(v=V.to("meta")), "v: q's dtype and device are allowed, got .* on meta"),
    "v has fewer rows": (call(v=V[:, :, :9]), r"v: k's batch, heads and rows are allowed, got .*\(2, 2, 9, 8\)"),
    "v has fewer heads": (call(v=V[:, :1]), r"v: k's batch, heads and rows are allowed, got .*\(2, 1, 10, 8\)"),
    "k has another batch": (call(k=K[:1], v=V[:1]), r"k: q's batch size is allowed, got .*\(1, 2, 10, 8\)"),
    "k has another width": (call(k=K[..., :7]), r"k: q's head dimension is allowed, got .*\(2, 2, 10, 7\)"),
    "no width": (call(Q[..., :0], K[..., :0]), "q, v: a head dimension of at least 1 is allowed, got"),
    "heads that do not divide": (call(q=Q[:, :3]), r"k: a number of heads that divides q's is allowed, got .*\(2, 3"),
    "no key heads": (call(k=K[:, :0], v=V[:, :0]), "k: a number of heads that divides q's is allowed, got"),
    "pattern is a name": (call(pattern="causal"), "pattern: a Band, Blocks or Buckets is allowed, got 'causal'"),
    "bias is a tensor": (
        call(bias=torch.zeros(10, 10)),
        "bias: a Distance, Dense, Relative or None is allowed, got Tensor",
    ),
    "distances of other heads": (call(bias=Distance(torch.zeros(3, 19))), r"bias: .*\(4 or 1, 19\).*, got \(3, 19\)"),
    "too few distances": (call(bias=Distance(torch.zeros(4, 18))), r"bias: .*\(4 or 1, 19\).*, got \(4, 18\)"),
    "a bias that does not broadcast": (
        call(bias=Dense(torch.zeros(2, 3, 10, 10))),
        r"bias: .*broadcast to \(2, 4, 10, 10\).*, got \(2, 3, 10, 10\)",
    ),
    "a bias on another device": (call(bias=Dense(torch.zeros(1, device="meta"))), "bias: q's device cpu .*, got meta"),
    "distances of three dimensions": (lambda: Distance(torch.zeros(1, 2, 3)), r"Distance.values: 2 dim.*\(1, 2, 3\)"),
    "integer distances": (lambda: Distance(torch.zeros(1, 2).long()), "Distance.values: a floating .*torch.int64"),
    "another number of positions": (
        call(bias=Relative(torch.zeros(2, 4, 10, 8), torch.zeros(4, 18, 8))),
        r"bias: Relative table of shape \(4 or 1, 19, Dr\) are allowed, got \(4, 18, 8\)",
    ),
    "positions of other heads": (
        call(bias=Relative(torch.zeros(2, 4, 10, 8), torch.zeros(2, 19, 8))),
        r"bias: .*\(4 or 1, 19, Dr\).*, got \(2, 19, 8\)",
    ),
    "position queries of key heads": (
        call(bias=Relative(torch.zeros(2, 2, 10, 8), torch.zeros(4, 19, 8))),
        r"bias: a Relative query of shape \(2, 4, 10\) and Dr is allowed, got \(2, 2, 10, 8\)",
    ),
    "position queries of another dtype": (
        call(bias=Relative(torch.zeros(2, 4, 10, 8).half(), torch.zeros(4, 19, 8))),
        "bias: a Relative query in q's dtype torch.float32 is allowed, got torch.float16",
    ),
    "positions of another dtype": (
        call(bias=Relative(torch.zeros(2, 4, 10, 8), torch.zeros(4, 19, 8).half())),
        "bias: a Relative table in q's dtype torch.float32 is allowed, got torch.float16",
    ),
    "positions on another device": (
        call(bias=Relative(torch.zeros(2, 4, 10, 8), torch.zeros(4, 19, 8, device="meta"))),
        "bias: q's device cpu is allowed, got meta",
    ),
    "positions too near for packed sequences": (
        packed(torch.tensor([0, 10]), bias=Relative(torch.zeros(1, 2, 10, 8), torch.zeros(2, 17, 8))),
        "bias: must reach the longest sequence, 10 queries; its values reach 9",
    ),
    "positions of three dimensions": (
        lambda: Relative(torch.zeros(2, 10, 8), torch.zeros(4, 19, 8)),
        r"Relative.query: 4 dim.*\(2, 10, 8\)",
    ),
    "a table of two dimensions": (
        lambda: Relative(torch.zeros(2, 4, 10, 8), torch.zeros(19, 8)),
        r"Relative.table: 3 dim.*\(19, 8\)",
    ),
    "a table of another width": (
        lambda: Relative(torch.zeros(2, 4, 10, 8), torch.zeros(4, 19, 7)),
        r"Relative.table: query's last dimension.*\(4, 19, 7\) beside \(2, 4, 10, 8\)",
    ),
    "a relative bias with buckets": (
        call(
            k=Q,
            v=Q,
            pattern=Buckets(torch.arange(10, dtype=torch.int32).view(1, 1, 1, 10), 5),
            bias=Relative(torch.zeros(2, 4, 10, 8), torch.zeros(4, 19, 8)),
        ),
        "bias: none is allowed with Buckets",
    ),
    "a bias in a list": (lambda: Dense([1.0]), "Dense.values: a floating tensor is allowed, got list"),  # type: ignore
    "a bias of five dimensions": (lambda: Dense(torch.zeros(1, 1, 1, 1, 1)), "Dense.values: 1 to 4 dim.*, got 5"),
    "scale is a name": (call(scale="large"), "scale: a finite number is allowed, got 'large'"),
    "scale is not finite": (call(scale=float("nan")), "scale: a finite number is allowed, got nan"),
    "dropout below 0": (call(dropout=-0.1), r"dropout: in \[0, 1\) is allowed, got -0.1"),
    "dropout 1": (call(dropout=1.0), r"dropout: in \[0, 1\) is allowed, got 1.0"),
    "dropout is not a number": (call(dropout=float("nan")), r"dropout: in \[0, 1\) is allowed, got nan"),
    "dropout is a name": (call(dropout="some"), r"dropout: in \[0, 1\) is allowed, got 'some'"),
    "seed of fractions": (call(dropout=0.5, seed=1.5), "seed: an int of 64 bits is allowed, got 1.5"),
    "seed too wide": (call(dropout=0.5, seed=2**63), f"seed: an int of 64 bits is allowed, got {2**63}"),
    "two seeds": (call(dropout=0.5, seed=torch.tensor([1, 2])), r"seed: .* one element is allowed, got .*\(2,\)"),
    "seed of floats": (call(dropout=0.5, seed=torch.tensor(1.0)), "seed: an int64 tensor .*, got torch.float32"),
    "unknown backend": (call(backend="cuda-graphs"), "backend: one of reference, .* is allowed, got 'cuda-graphs'"),
    "lengths of another batch": (
        call(lengths=torch.tensor([1, 2, 3])),
        r"lengths: shape \(2,\) is allowed, got \(3,\)",
    ),
    "lengths of two dimensions": (
        call(lengths=torch.ones(2, 1).long()),
        r"lengths: shape \(2,\) is allowed, got \(2, 1\)",
    ),
    "lengths of floats": (
        call(lengths=torch.ones(2)),
        "lengths: an integer tensor is allowed, got dtype torch.float32",
    ),
    "lengths of names": (call(lengths=["a", "b"]), "lengths.*: integers of shape .* are allowed, got"),
    "negative lengths": (call(lengths=torch.tensor([3, -1])), r"lengths: between 0 and 10 is allowed, got \[3, -1\]"),
    "lengths past the end": (
        call(lengths=torch.tensor([3, 11])),
        r"lengths: between 0 and 10 is allowed, got \[3, 11\]",
    ),
    "lengths past 32 bits": (call(lengths=torch.tensor([3, 2**32])), "lengths: between 0 and 10 is allowed, got"),
    "query lengths past the end": (
        call(lengths=(torch.tensor([3, 11]), None)),
        r"lengths\[0\]: between 0 and 10 is allowed, got \[3, 11\]",
    ),
    "key lengths past the end": (
        call(lengths=(None, torch.tensor([3, 11]))),
        r"lengths\[1\]: between 0 and 10 is allowed, got \[3, 11\]",
    ),
    "lengths and offsets": (packed(torch.tensor([0, 10]), lengths=torch.tensor([1])), "lengths, offsets: one of them"),
    "offsets that fall": (packed(torch.tensor([0, 6, 4, 10])), r"offsets: must .* never fall .*, got \[0, 6, 4, 10\]"),
    "offsets that start late": (packed(torch.tensor([1, 10])), r"offsets: must start at 0.*, got \[1, 10\]"),
    "offsets past the end": (packed(torch.tensor([0, 11])), r"offsets: .*end at most at 10.*, got \[0, 11\]"),
    "no offsets": (packed(torch.tensor([], dtype=torch.int64)), r"offsets: shape \(B \+ 1,\) is allowed, got \(0,\)"),
    "offsets of floats": (packed(torch.tensor([0.0, 10.0])), "offsets: an integer tensor is allowed, got dtype"),
    "offsets of a padded batch": (packed(torch.tensor([0, 10]), q=Q[:, :2], k=K), r"q: packed .*, got \(2, 2, 10, 8\)"),
    "offsets of different batches": (
        packed((torch.tensor([0, 10]), torch.tensor([0, 5, 10]))),
        "offsets: the pair must name as many sequences .*, got 1 and 2",
    ),
    "distances too near for packed sequences": (
        packed(torch.tensor([0, 10]), bias=Distance(torch.zeros(2, 17))),
        "bias: must reach the longest sequence, 10 queries; its values reach 9",
    ),
    "a bias too small for packed sequences": (
        packed(torch.tensor([0, 10]), bias=Dense(torch.zeros(1, 1, 9, 9))),
        "bias: must reach the longest sequence, 10 queries; its values reach 9",
    ),
    "a bias with too few keys for packed sequences": (
        packed(torch.tensor([0, 10]), bias=Dense(torch.zeros(1, 1, 1, 9))),
        "bias: must reach the longest sequence, 10 keys; its values reach 9",
    ),
    "columns of another batch": (
        call(pattern=prefix_lm(torch.tensor([1, 2, 3]))),
        r"pattern: columns of shape \(2,\) are allowed, got \(3,\)",
    ),
    "negative columns of a batch row": (
        call(pattern=prefix_lm(torch.tensor([1, -2]))),
        r"pattern: columns must not be negative, got \[1, -2\]",
    ),
    "columns of floats": (lambda: prefix_lm(torch.tensor([1.0])), "columns: .*integer tensor .* got .*float32"),
    "columns of two dimensions": (
        lambda: Band(columns=torch.ones(1, 1).long()),
        r"columns: .*\(B,\).*got shape \(1, 1\)",
    ),
    "negative window": (lambda: window(-1), "left: must not be negative, got -1"),
    "negative window ahead": (lambda: window(1, -1), "right: must not be negative, got -1"),
    "negative globals": (lambda: window(1, globals=-2), "globals: must not be negative, got -2"),
    "negative columns": (lambda: Band(columns=-1), "columns: must not be negative, got -1"),
    "negative rows": (lambda: Band(rows=-1), "rows: must not be negative, got -1"),
    "no dilation": (lambda: Band(dilation=0), "dilation: must be at least 1, got 0"),
    "an empty interval": (lambda: Band(left=-3, right=2), "left, right: .*-left = 3 .*right = 2"),
    "half a step": (lambda: Band(left=1.5), "left: an int is allowed, got 1.5"),  # type: ignore[arg-type]
    "a truth value": (lambda: Band(right=True), "right: an int is allowed, got True"),
    "sides past 31 bits": (lambda: Band(left=2**31), f"left: .* allowed, got {2**31}"),
    "no heads": (lambda: pkernels.alibi(0, 4), "heads: must be at least 1, got 0"),
    "an unknown backend in why_not": (lambda: pkernels.why_not("gpu", Q, K, V), "backend: one of .*, got 'gpu'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_message(name: str) -> None:
    attempt, message = WRONG[name]
    with pytest.raises(ValueError, match=f"(?s)^{message}"):
        attempt()


def test_a_device_without_kernels_is_no_silent_fallback() -> None:
    q = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    for name in ("cpu", "triton"):
        with pytest.raises(NotImplementedError, match=f"backend '{name}': dtype float64: .*\"reference\" alone"):
            pkernels.attention(q, q, q, backend=name)
        wide = torch.zeros(1, 1, 4, 257)
        with pytest.raises(NotImplementedError, match=f"backend '{name}': head dimension 257 of q: 1 to 256"):
            pkernels.attention(wide, wide, wide, backend=name)


def test_the_default_backend_says_once_that_it_is_slow() -> None:
    wide = torch.randn(1, 1, 4, 263)
    with pytest.warns(UserWarning, match='"reference", which is slow: .*head dimension 263'):
        out = pkernels.attention(wide, wide, wide)
    assert torch.equal(out, pkernels.attention(wide, wide, wide, backend="reference"))


# The ops below the public function --------------------------------------------------------

ARGUMENTS = (
    "q", "k", "v", "distance", "dense", "query", "table", "prefix", "q_spans", "k_spans", "seed", "left", "right",
    "columns", "rows", "dilation", "zero", "packed", "scale", "dropout", "backend",
)  # fmt: skip


def arguments(name: str, **changes: object) -> dict:
    """Arguments of ``band_fwd`` that are right but for ``changes``."""
    q, k, v = (torch.randn(2, h, 10, 8) for h in (4, 2, 2))
    right = dict.fromkeys(ARGUMENTS) | {
        "q": q, "k": k, "v": v, "left": 3, "right": 3, "columns": 0, "rows": 0, "dilation": 1, "zero": 0,
        "packed": False, "dropout": 0.0, "backend": name,
    }  # fmt: skip
    return right | changes


def spans(*rows: tuple[int, int], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


GOOD = spans((0, 10), (0, 10))
OP_WRONG: dict[str, dict] = {
    "keys past the end": {"k_spans": spans((0, 10), (0, 11))},
    "keys far past the end": {"k_spans": spans((0, 10), (0, 2**30))},
    "keys that start past the end": {"k_spans": spans((0, 10), (11, 0))},
    "keys before the start": {"k_spans": spans((-1, 5), (0, 10))},
    "fewer keys than none": {"k_spans": spans((0, 10), (5, -3))},
    "a sum that overflows": {"k_spans": spans((0, 10), (2**31 - 1, 2**31 - 1))},
    "queries past the end": {"q_spans": spans((0, 10), (0, 11)), "k_spans": GOOD},
    "queries before the start": {"q_spans": spans((-4, 8), (0, 10)), "k_spans": GOOD},
    "too few spans": {"k_spans": spans((0, 10))},
    "too many spans": {"q_spans": spans((0, 1), (0, 1), (0, 1)), "k_spans": spans((0, 1), (0, 1), (0, 1))},
    "spans of one dimension": {"k_spans": torch.tensor([10, 10], dtype=torch.int32)},
    "spans of three columns": {"k_spans": torch.zeros(2, 3, dtype=torch.int32)},
    "spans of floats": {"k_spans": GOOD.float()},
    "packed without spans": {"packed": True},
    "packed past the end": {"q_spans": spans((0, 4), (4, 7)), "k_spans": spans((0, 4), (4, 7)), "packed": True},
    "packed with queries alone": {"q_spans": spans((0, 4), (4, 2), (6, 1)), "packed": True},
    "prefixes of another batch": {"prefix": torch.tensor([1, 2, 3], dtype=torch.int32)},
    "prefixes of floats": {"prefix": torch.tensor([1.0, 2.0])},
    "negative columns": {"columns": -1},
    "negative rows": {"rows": -1},
    "no dilation": {"dilation": 0},
    "negative dilation": {"dilation": -2},
    "an empty interval": {"left": -3, "right": 2},
    "too few distances": {"distance": torch.zeros(4, 18), "zero": 9},
    "a zero outside of the distances": {"distance": torch.zeros(4, 19), "zero": 40},
    "a negative zero of the distances": {"distance": torch.zeros(4, 19), "zero": -1},
    "distances of other heads": {"distance": torch.zeros(3, 19), "zero": 9},
    "distances of bf16": {"distance": torch.zeros(4, 19, dtype=torch.bfloat16), "zero": 9},
    "distances of one dimension": {"distance": torch.zeros(19), "zero": 9},
    "position queries alone": {"query": torch.zeros(2, 4, 10, 8), "zero": 9},
    "positions alone": {"table": torch.zeros(4, 19, 8), "zero": 9},
    "position queries of fewer rows": {"query": torch.zeros(2, 4, 9, 8), "table": torch.zeros(4, 19, 8), "zero": 9},
    "too few positions": {"query": torch.zeros(2, 4, 10, 8), "table": torch.zeros(4, 18, 8), "zero": 9},
    "a zero outside of the positions": {
        "query": torch.zeros(2, 4, 10, 8),
        "table": torch.zeros(4, 19, 8),
        "zero": 40,
    },
    "positions of one head": {"query": torch.zeros(2, 4, 10, 8), "table": torch.zeros(1, 19, 8), "zero": 9},
    "positions of another width": {"query": torch.zeros(2, 4, 10, 8), "table": torch.zeros(4, 19, 7), "zero": 9},
    "positions of bf16": {"query": torch.zeros(2, 4, 10, 8), "table": torch.zeros(4, 19, 8).bfloat16(), "zero": 9},
    "two biases": {
        "query": torch.zeros(2, 4, 10, 8),
        "table": torch.zeros(4, 19, 8),
        "zero": 9,
        "distance": torch.zeros(4, 19),
    },
    "a bias of other heads": {"dense": torch.zeros(2, 3, 10, 10)},
    "a bias of fewer rows": {"dense": torch.zeros(2, 4, 9, 10)},
    "a bias of fewer columns": {"dense": torch.zeros(2, 4, 10, 9)},
    "a bias of another batch": {"dense": torch.zeros(3, 4, 10, 10)},
    "a bias of two dimensions": {"dense": torch.zeros(10, 10)},
    "a bias of integers": {"dense": torch.zeros(2, 4, 10, 10, dtype=torch.int32)},
    "k of three dimensions": {"k": torch.zeros(2, 10, 8)},
    "k of other heads": {"k": torch.zeros(2, 3, 10, 8), "v": torch.zeros(2, 3, 10, 8)},
    "k without heads": {"k": torch.zeros(2, 0, 10, 8), "v": torch.zeros(2, 0, 10, 8)},
    "k of another batch": {"k": torch.zeros(1, 2, 10, 8), "v": torch.zeros(1, 2, 10, 8)},
    "k of another width": {"k": torch.zeros(2, 2, 10, 9)},
    "k of another dtype": {"k": torch.zeros(2, 2, 10, 8).half()},
    "v of fewer rows": {"v": torch.zeros(2, 2, 9, 8)},
    "v of another dtype": {"v": torch.zeros(2, 2, 10, 8).half()},
    "q of integers": {"q": torch.zeros(2, 4, 10, 8).long()},
    "dropout without a seed": {"dropout": 0.5},
    "dropout 1": {"dropout": 1.0, "seed": torch.tensor([1])},
    "dropout below 0": {"dropout": -0.5, "seed": torch.tensor([1])},
    "seed of floats": {"dropout": 0.5, "seed": torch.tensor([1.0])},
    "seeds": {"dropout": 0.5, "seed": torch.tensor([1, 2])},
    "an unknown backend": {"backend": "gpu"},
}
CPU_WRONG: dict[str, dict] = {
    "float64": {name: torch.zeros(2, 2, 10, 8).double() for name in "qkv"},
    "too wide": {name: torch.zeros(2, 2, 10, 257) for name in "qkv"},
    "values too wide": {"v": torch.zeros(2, 2, 10, 257)},
}
BACKWARD_WRONG: dict[str, dict] = {
    "a gradient of fewer rows": {"dout": torch.zeros(2, 4, 9, 8)},
    "a gradient of another width": {"dout": torch.zeros(2, 4, 10, 9)},
    "a gradient of fewer heads": {"dout": torch.zeros(2, 3, 10, 8)},
    "a gradient of another dtype": {"dout": torch.zeros(2, 4, 10, 8).half()},
    "a gradient of two dimensions": {"dout": torch.zeros(4, 10)},
    "an output of fewer rows": {"out": torch.zeros(2, 4, 9, 8)},
    "an lse of fewer rows": {"lse": torch.zeros(2, 4, 9)},
    "an lse of another dtype": {"lse": torch.zeros(2, 4, 10).half()},
    "a gradient of fewer lses": {"dlse": torch.zeros(2, 4, 9)},
    "a gradient of lses of two dimensions": {"dlse": torch.zeros(2, 4)},
    "keys past the end": {"k_spans": spans((0, 10), (0, 11))},
    "a bias of fewer columns": {"dense": torch.zeros(2, 4, 10, 9), "dense_grad": True},
    "too few distances": {"distance": torch.zeros(4, 18), "zero": 9, "distance_grad": True},
    "no bias to differentiate": {"dense_grad": True, "distance_grad": True, "query_grad": True, "left": -9, "right": 2},
}


def attempts(backend: str) -> dict[str, Callable]:
    """Every wrong call of the ops, by name."""
    wrong = OP_WRONG | (CPU_WRONG if backend == "cpu" else {})
    forward = {
        name: lambda changes=c: torch.ops.pkernels.band_fwd(**arguments(backend, **changes))
        for name, c in wrong.items()
    }
    return forward | {
        f"backward, {name}": lambda changes=changes: _backward(backend, **changes)
        for name, changes in BACKWARD_WRONG.items()
    }


def _backward(backend: str, **changes: object) -> None:
    right = arguments(backend)
    out, lse = torch.ops.pkernels.band_fwd(**right)
    given = right | {"dout": torch.ones_like(out), "dlse": None, "out": out, "lse": lse}
    wanted = dict.fromkeys(("distance_grad", "dense_grad", "query_grad", "table_grad"), False)
    torch.ops.pkernels.band_bwd(**given | wanted | changes)


RUN_ALL = """
import sys
from tests.test_bad_input import attempts
for name, attempt in attempts(sys.argv[1]).items():
    print(name, end=": ", flush=True)
    try:
        attempt()
        print("no error", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0] if str(error) else "", flush=True)
"""


def test_wrong_calls_of_the_ops_raise_and_never_crash(backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, backend],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, f"the process died of {done.stdout.splitlines()[-1:]}: {done.stderr[-500:]}"
    assert list(said) == list(attempts(backend))
    silent = [name for name, outcome in said.items() if outcome == "no error"]
    assert not silent, f"accepted: {silent}"


def test_right_calls_of_the_ops_are_right(backend: str) -> None:
    """So that the wrong ones above fail for their own reasons."""
    out, lse = torch.ops.pkernels.band_fwd(**arguments(backend))
    assert torch.isfinite(out).all() and torch.isfinite(lse).all()
    _backward(backend)
    _backward(backend, distance=torch.zeros(4, 19), zero=9, distance_grad=True)
    _backward(backend, dense=torch.zeros(2, 4, 10, 10), dense_grad=True)
    relative = {"query": torch.zeros(2, 4, 10, 8), "table": torch.zeros(4, 19, 8), "zero": 9}
    _backward(backend, **relative, query_grad=True, table_grad=True)
    torch.ops.pkernels.band_fwd(**arguments(backend, dropout=0.5, seed=torch.tensor([1])))
    torch.ops.pkernels.band_fwd(**arguments(backend, q_spans=GOOD, k_spans=GOOD, prefix=spans((1, 2))[0]))
