"""Calls over Blocks and Buckets, as ``edges.py`` has them over a Band."""

from __future__ import annotations

import torch

from pkernels import Blocks, Buckets

LAST = -1e5


def listed(size: int, sq: int, sk: int, heads: int = 1, most: int = 1, seed: int = 0) -> Blocks:
    """Each block of keys is listed up to ``most`` times, or not; some blocks of queries see none."""
    draw = torch.Generator().manual_seed(seed)
    shape = (heads, -(-sq // size), -(-sk // size))
    counts = torch.randint(0, most + 1, shape, generator=draw)
    empty = torch.rand(shape[:2], generator=draw) < 0.2
    return Blocks.from_mask(counts.masked_fill(empty[..., None], 0), size)


def sorted_rows(
    rows: int, chunk: int, rounds: int = 1, heads: int = 1, batch: int = 1, missing: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """Each round in an order of its own; some rows are in none of its entries."""
    draw = torch.Generator().manual_seed(seed)
    entries = -(-rows // chunk) * chunk
    order = torch.full((batch * heads * rounds, entries), -1)
    for i in range(len(order)):
        order[i, :rows] = torch.randperm(rows, generator=draw)
    order.masked_fill_(torch.rand(order.shape, generator=draw) < missing, -1)
    return order.to(torch.int32).view(batch, heads, rounds, entries)


BLOCKS = {
    "blocks of 1": ({"sq": 19, "sk": 23}, listed(1, 19, 23)),
    "blocks of 16": ({"sq": 67}, listed(16, 67, 67)),
    "blocks of 16, per head": ({"sq": 67}, listed(16, 67, 67, heads=2)),
    "blocks of 24, 70x37": ({"sq": 70, "sk": 37}, listed(24, 70, 37, heads=2, most=3)),
    "blocks of 24, 37x70": ({"sq": 37, "sk": 70}, listed(24, 37, 70, most=2)),
    "blocks of 64": ({"sq": 150, "d": 64, "batch": 1}, listed(64, 150, 150, heads=2, most=2, seed=1)),
    "blocks of 200": ({"sq": 230, "batch": 1, "heads": 1}, listed(200, 230, 230, most=2, seed=4)),
    "blocks wider than S": ({"sq": 19}, listed(64, 19, 19, seed=1)),
    "blocks of nothing": ({"sq": 19}, Blocks.of([[], [], []], 8)),
    "blocks counted": ({"sq": 37}, Blocks.of([[0, 0, 0, 2], [1, 1, 4], [3], [2, 2], [4, 4, 0]], 8)),
    "blocks, heads 4:2": ({"heads": 4, "kv_heads": 2}, listed(16, 37, 37, heads=4, most=2)),
    "blocks, heads 4:2, one list": ({"heads": 4, "kv_heads": 2}, listed(16, 37, 37, most=2)),
    "blocks, D 26": ({"d": 26}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, D 41, Dv 80": ({"d": 41, "dv": 80}, listed(8, 37, 37, most=2)),
    "blocks, lengths": ({"lengths": [37, 22]}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, lengths 0 and 1": ({"lengths": [0, 1]}, listed(8, 37, 37)),
    "blocks, lengths pair": ({"sq": 37, "sk": 50, "lengths": ([37, 12], [50, 9])}, listed(8, 37, 50, most=2)),
    "blocks, dropout": ({"dropout": 0.3}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, distance": ({"bias": "distance"}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, distance, 21x50": ({"sq": 21, "sk": 50, "bias": "distance"}, listed(8, 21, 50, most=2)),
    "blocks, dense": ({"bias": "dense"}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, dense hidden": ({"bias": "dense hidden", "lengths": [37, 20]}, listed(8, 37, 37, most=2)),
    "blocks, dense of keys": ({"bias": "dense 2x1x1x37"}, listed(8, 37, 37, heads=2)),
    "blocks, rows before heads": ({"layout": "rows before heads"}, listed(8, 37, 37, heads=2, most=2)),
    "blocks, NaN border": ({"layout": "NaN border"}, listed(8, 37, 37, heads=2, most=2)),
    "blocks of no rows": ({"sq": 0}, Blocks.of([], 8)),
}

BUCKETS = {
    "buckets, one round": ({"sq": 60}, Buckets(sorted_rows(60, 20), 20)),
    "buckets of local rows": ({"sq": 50}, Buckets(torch.arange(-6, 50).clamp(-1).int().view(1, 1, 1, 56), 8, True)),
    "buckets, 3 rounds": ({"sq": 60}, Buckets(sorted_rows(60, 20, 3, 2, 2), 20)),
    "buckets, 4 rounds, causal": ({"sq": 61}, Buckets(sorted_rows(61, 8, 4, 2, 2), 8, True)),
    "buckets, last resort": ({"sq": 61}, Buckets(sorted_rows(61, 8, 3, 2, 2), 8, own=LAST)),
    "buckets, last resort, causal": ({"sq": 61}, Buckets(sorted_rows(61, 8, 3, 2, 2), 8, True, own=LAST)),
    "buckets, own 0.5": ({"sq": 37}, Buckets(sorted_rows(37, 8, 2), 8, own=0.5)),
    "buckets of 1": ({"sq": 19}, Buckets(sorted_rows(19, 1, 2), 1, before=2, own=LAST)),
    "buckets of 64": ({"sq": 150, "d": 64, "batch": 1}, Buckets(sorted_rows(150, 64, 2, 2), 64, True, own=LAST)),
    "buckets of 200": ({"sq": 230, "batch": 1, "heads": 1}, Buckets(sorted_rows(230, 200, 2), 200, True)),
    "buckets, one chunk": ({"sq": 37}, Buckets(sorted_rows(37, 37), 37, True, 0, 0, LAST)),
    "buckets, both neighbours": ({"sq": 60}, Buckets(sorted_rows(60, 12, 2, 2), 12, before=1, after=1)),
    "buckets, neighbours ahead": ({"sq": 60}, Buckets(sorted_rows(60, 12, 2, 2), 12, before=0, after=2)),
    "buckets, more neighbours than chunks": ({"sq": 30}, Buckets(sorted_rows(30, 16), 16, before=3, after=1)),
    "buckets, rows missing": ({"sq": 60}, Buckets(sorted_rows(60, 12, 2, 2, 2, 0.4), 12, own=LAST)),
    "buckets of nothing": ({"sq": 16}, Buckets(torch.full((1, 1, 2, 16), -1, dtype=torch.int32), 8)),
    "buckets, heads 4:2": ({"heads": 4, "kv_heads": 2}, Buckets(sorted_rows(37, 8, 2, 4, 2), 8, True)),
    "buckets, D 26": ({"d": 26}, Buckets(sorted_rows(37, 8, 2, 2), 8, own=LAST)),
    "buckets, D 41, Dv 80": ({"d": 41, "dv": 80}, Buckets(sorted_rows(37, 8, 2), 8, True)),
    "buckets, lengths": ({"lengths": [37, 22]}, Buckets(sorted_rows(37, 8, 2, 2), 8, own=LAST)),
    "buckets, lengths 0 and 9": ({"lengths": [0, 9]}, Buckets(sorted_rows(37, 8, 2), 8, True)),
    "buckets, dropout": ({"dropout": 0.3}, Buckets(sorted_rows(37, 8, 3, 2, 2), 8, own=LAST)),
    "buckets, rows before heads": ({"layout": "rows before heads"}, Buckets(sorted_rows(37, 8, 2, 2), 8)),
    "buckets, NaN border": ({"layout": "NaN border"}, Buckets(sorted_rows(37, 8, 2, 2), 8, True)),
    "buckets of no rows": ({"sq": 0}, Buckets(torch.zeros(1, 1, 2, 0, dtype=torch.int32), 8)),
}
