"""Drawing what a pattern keeps: ``python -m pkernels show "window(256, dilation=2)"``.

Kept pairs are counted in closed form per query and block of keys, so a drawing of a
million positions costs no more than its rows times its cells.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .patterns import INF, Band, causal, dense, prefix_lm, window

NAMES: dict[str, Band] = {"dense": dense, "causal": causal}
CALLS: dict[str, Callable[..., Band]] = {"window": window, "prefix_lm": prefix_lm, "Band": Band}
ALLOWED = "dense, causal, window(left, right, dilation=, globals=), prefix_lm(length), Band(left, right, ...)"


def parse(expression: str) -> Band:
    """The pattern that an expression names, without evaluating anything else.

    Args:
        expression: ``dense``, ``causal``, or a call of ``window``, ``prefix_lm`` or ``Band``
            with integers (``INF`` is one).

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> parse("window(2, dilation=3)").dilation
        3
    """
    try:
        node = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"pattern: {expression!r} is not an expression ({error.msg}); allowed: {ALLOWED}") from None
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS):
        raise ValueError(f"pattern: {expression!r} is not a pattern; allowed: {ALLOWED}")
    build = CALLS[node.func.id]
    positional = [_integer(argument) for argument in node.args]
    named = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(f"pattern: ** is not allowed in {expression!r}")
        named[keyword.arg] = _integer(keyword.value)
    try:
        inspect.signature(build).bind(*positional, **named)
    except TypeError as error:
        raise ValueError(f"pattern: {node.func.id}: {error}; allowed: {ALLOWED}") from None
    return build(*positional, **named)


def _integer(node: ast.expr) -> int:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if isinstance(node, ast.Name) and node.id == "INF":
        return sign * INF
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) <= INF:
        return sign * node.value
    raise ValueError(f"pattern: an integer of at most {INF} is allowed as an argument, got {ast.unparse(node)!r}")


def kept(pattern: Band, sq: int, sk: int, bm: int, bn: int) -> Tensor:
    """How many pairs each block of ``bm`` queries and ``bn`` keys keeps, exactly.

    Returns:
        int64 tensor of shape ``(ceil(sq / bm), ceil(sk / bn))``, in O(sq * sk / bn) time.

    Example:
        >>> kept(causal, 4, 4, 2, 2).tolist()
        [[3, 0], [4, 3]]
    """
    edges = torch.arange(0, sk + bn, bn).clamp(max=sk)
    counts = torch.zeros(-(-sq // bm), max(len(edges) - 1, 0), dtype=torch.int64)
    chunk = max(1, 4_000_000 // max(len(edges), 1))
    for first in range(0, sq, chunk):
        rows = torch.arange(first, min(first + chunk, sq))
        below = _below(pattern, rows[:, None] + sk - sq, edges[None, :])
        counts.index_add_(0, rows // bm, below.diff(dim=1))
    return counts


def _below(pattern: Band, q: Tensor, edge: Tensor) -> Tensor:
    """How many keys before ``edge`` a query at position ``q`` keeps."""
    if isinstance(pattern.columns, Tensor):
        raise ValueError("columns: one number is allowed here, got one per batch row")
    d = pattern.dilation
    first = (q - pattern.columns).div(d, rounding_mode="floor").neg().clamp(min=-pattern.left)
    last = (edge - 1 - q).div(d, rounding_mode="floor").clamp(max=pattern.right)
    count = edge.clamp(max=pattern.columns) + (last - first + 1).clamp(min=0)
    return torch.where((q >= 0) & (q < pattern.rows), edge, count)


def shares(pattern: Band, sq: int, sk: int, cells: int) -> tuple[Tensor, int]:
    """Share of kept pairs per block, with at most ``cells`` blocks a side, and the block size.

    Example:
        >>> shares(causal, 4, 4, 2)
        (tensor([[0.7500, 0.0000],
                [1.0000, 0.7500]]), 2)
    """
    size = max(1, -(-max(sq, sk) // cells))
    rows = torch.arange(0, sq, size).add(size).clamp(max=sq) - torch.arange(0, sq, size)
    columns = torch.arange(0, sk, size).add(size).clamp(max=sk) - torch.arange(0, sk, size)
    return kept(pattern, sq, sk, size, size) / (rows[:, None] * columns[None, :]), size


def text(pattern: Band, sq: int, sk: int, cells: int = 48) -> str:
    """The pattern as lines of characters: ``·`` nothing kept, ``■`` everything, ``░▒▓`` between.

    Example:
        >>> print(text(causal, 3, 3))
        ■··
        ■■·
        ■■■
    """
    share, _ = shares(pattern, sq, sk, cells)
    return "\n".join("".join(_shade(x) for x in row) for row in share.tolist())


def _shade(share: float) -> str:
    if share in (0.0, 1.0):
        return "■" if share else "·"
    return "░▒▓"[min(int(share * 3), 2)]


def summary(pattern: Band, sq: int, sk: int) -> str:
    """One line of figures.

    Example:
        >>> summary(causal, 4, 4)
        '4 queries x 4 keys: 10 of 16 pairs kept (62.5 %)'
    """
    pairs, every = pattern.pairs(sq, sk), sq * sk
    part = f" ({100 * pairs / every:.3g} %)" if every else ""
    return f"{sq:,} queries x {sk:,} keys: {pairs:,} of {every:,} pairs kept{part}"


def picture(pattern: Band, sq: int, sk: int, path: Path, title: str, cells: int = 512) -> None:
    """Write the drawing as an image (PNG by the suffix of ``path``).

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.figure import Figure

    share, size = shares(pattern, sq, sk, cells)
    figure = Figure(figsize=(6.4, 6.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        share.numpy(), cmap="Blues", vmin=0, vmax=1, extent=(0, sk, sq, 0), interpolation="nearest", aspect="equal"
    )
    axes.set(xlabel="key", ylabel="query")
    figure.suptitle(f"{title}\n{summary(pattern, sq, sk)}", fontsize=9)
    if size > 1:
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label(f"share of pairs kept, per block of {size} x {size}")
    figure.savefig(path)
