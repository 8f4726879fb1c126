"""The tile step that every kernel shares: rows in, scores, what is kept, online softmax.

A program owns a tile of rows (queries in the forward and dq, keys in dk/dv) and visits
tiles of the other side. Both directions use the same functions: a band seen from the keys
is the band with left and right, and rows and columns, swapped.

Positions: query i of n_q stands at ``i + shift``, ``shift = n_k - n_q``. All row numbers
below are raw rows of a sequence; a ``band`` is the tuple

    (low, high, shift, near, far, own_near, own_far)

    own row a keeps other row b iff  low <= b - a - shift <= high, on b's residue class,
                                 or  near <= b < far, or own_near <= a < own_far.

Scores of 16-bit inputs count in units of log 2, so that the softmax is exp2 of a difference;
those of fp32 (PRECISION is given) in units of 1, so that equal scores give exactly 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import product

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.constexpr_function
def unit(precision):
    """A score of 1, as it is counted."""
    return 1.4426950408889634 if precision is None else 1.0


@triton.jit
def power(x, PRECISION: tl.constexpr):
    """e to the difference x of two scores."""
    return tl.exp2(x) if PRECISION is None else tl.exp2(x * LOG2E)


@triton.constexpr_function
def padded(d):
    """Width of a tile that holds d features: tensor cores want at least 16."""
    return max(16, 1 << (d - 1).bit_length())


# Where a program works ------------------------------------------------------------------


@triton.jit
def stride_of(dilation):
    """Rows of a class lie this far apart; ``dilation`` is None for 1, which then costs nothing."""
    if dilation is None:
        return 1
    else:
        return dilation


@triton.jit
def stride_of_globals(dilation, bias):
    """The same in tiles of global rows: neighbours, unless a Relative asks that all tiles step alike."""
    if bias[2] is None:
        return 1
    else:
        return stride_of(dilation)


@triton.jit
def first_of(tile, step, N: tl.constexpr):
    """First row of a tile of N rows, ``step`` apart; ``step`` tiles, a class each, hold N * step neighbours."""
    return tile % step + tile // step * N * step


@triton.jit
def place(work, rows, heads, dilation, BLOCK: tl.constexpr):
    """(sequence, storage row, head, first row of the tile) of this program.

    Even batches: a flat grid of sequences x heads x classes x tiles. Packed ones: ``work``
    = (list of (sequence, tile) pairs, its length). The sequence is -1 where the list ends.
    """
    program = tl.program_id(0)
    step = stride_of(dilation)
    classes = tl.minimum(step, tl.maximum(rows, 1))
    tiles = tl.cdiv(tl.cdiv(rows, step), BLOCK) if work is None else work[1]
    unit = program % (tiles * classes)
    head = program // (tiles * classes) % heads
    tile = unit // classes
    if work is None:
        sequence = program // (tiles * classes) // heads
        storage = sequence
    else:
        sequence = tl.load(work[0] + 2 * tile)
        tile = tl.load(work[0] + 2 * tile + 1)
        storage = sequence * 0
    return sequence, storage, head, unit % classes + tile * BLOCK * step


@triton.jit
def span(spans, sequence, size):
    """First row and number of rows of a sequence; whatever spans say, inside the tensor."""
    if spans is None:
        return sequence * 0, size
    else:
        first = tl.minimum(tl.maximum(tl.load(spans + 2 * sequence), 0), size)
        return first, tl.minimum(tl.maximum(tl.load(spans + 2 * sequence + 1), 0), size - first)


@triton.jit
def rows_of(x, storage, head, first):
    """(pointer to the first row, row stride) of one sequence and head of ``x`` = (pointer,
    batch stride, head stride, row stride). Only these offsets can pass 2**31."""
    base = x[0] + tl.cast(storage, tl.int64) * x[1] + tl.cast(head, tl.int64) * x[2]
    return base + tl.cast(first, tl.int64) * x[3], x[3]


# Rows in and out ------------------------------------------------------------------------


@triton.jit
def _addresses(rows, first, step, n, N: tl.constexpr, D: tl.constexpr, OFFSET: tl.constexpr):
    """Addresses (N, padded D) of rows first, first + step, ... and which of them are in [0, n)."""
    r = tl.arange(0, N) * step
    c = tl.arange(0, padded(D))
    pointers = rows[0] + tl.cast(first, tl.int64) * rows[1] + (r.to(OFFSET) * rows[1])[:, None] + c[None, :]
    exists = ((first + r).to(tl.uint32) < tl.cast(n, tl.uint32))[:, None]
    if padded(D) == D:
        return pointers, exists
    else:
        return pointers, exists & (c < D)[None, :]


@triton.jit
def load_tile(rows, first, step, n, N: tl.constexpr, D: tl.constexpr, OFFSET: tl.constexpr):
    """(N, padded D): rows first, first + step, ... below n; zero elsewhere."""
    pointers, exists = _addresses(rows, first, step, n, N, D, OFFSET)
    return tl.load(pointers, mask=exists, other=0.0)


@triton.jit
def store_tile(rows, first, step, n, tile, N: tl.constexpr, D: tl.constexpr, OFFSET: tl.constexpr):
    pointers, exists = _addresses(rows, first, step, n, N, D, OFFSET)
    tl.store(pointers, tile.to(rows[0].dtype.element_ty), mask=exists)


@triton.jit
def load_numbers(numbers, first, step, n, N: tl.constexpr):
    """(N,): one number per row, zero where there is none."""
    r = first + tl.arange(0, N) * step
    return tl.load(numbers[0] + r, mask=r < n, other=0.0)


@triton.jit
def store_numbers(numbers, first, step, n, values, N: tl.constexpr):
    r = first + tl.arange(0, N) * step
    tl.store(numbers[0] + r, values, mask=r < n)


# Which tiles, which pairs ---------------------------------------------------------------


@triton.jit
def band_of_queries(band, prefix, sequence, n_q, n_k):
    """The band as query rows see key rows; ``band`` = (low, high, columns, rows)."""
    low, high, columns, rows = band
    if prefix is not None:
        columns = tl.load(prefix + sequence)
    shift = n_k - n_q
    return low, high, shift, 0, tl.minimum(columns, n_k), -shift, rows - shift


@triton.jit
def band_of_keys(band, prefix, sequence, n_q, n_k):
    """The transpose: the band as key rows see query rows."""
    low, high, shift, near, far, own_near, own_far = band_of_queries(band, prefix, sequence, n_q, n_k)
    return -high, -low, -shift, own_near, own_far, near, far


@triton.jit
def schedule(first, last, n, band, dilation, bias, N: tl.constexpr):
    """Tiles of the other side that own rows first..last visit, each at most once.

    Returns (head, count, start): tiles 0..head of N rows (global ones), then up to ``count``
    in all from row ``start`` on; how far apart the rows are depends on ``dilation`` and ``bias``.
    """
    low, high, shift, _near, far, own_near, own_far = band
    far = tl.minimum(tl.maximum(far, 0), n)
    if_global = (first < own_far) & (last >= own_near)
    wide = stride_of_globals(dilation, bias)
    head = tl.cdiv(tl.where(if_global, n, far), N * wide) * wide
    at = first + shift
    start = tl.maximum(at + low, head * N)
    step = stride_of(dilation)
    if dilation is None:
        start = start // 8 * 8  # dropout draws for 8 keys at a time
    else:
        ahead = start - at
        start = at + tl.where(ahead > 0, tl.cdiv(tl.maximum(ahead, 0), step), -(tl.maximum(-ahead, 0) // step)) * step
    end = tl.minimum(last + shift + high, n - 1) + 1
    return head, head + tl.cdiv(tl.maximum(end - start, 0), N * step), start


@triton.jit
def visit(t, head, start, dilation, bias, N: tl.constexpr):
    """(first row, distance of its rows) of tile t of a schedule."""
    step, wide = stride_of(dilation), stride_of_globals(dilation, bias)
    first = tl.where(t < head, first_of(t, wide, N), start + (t - head) * N * step)
    return first, tl.where(t < head, wide, step)


@triton.jit
def is_full(first, last, other, other_step, n, band, dilation, N: tl.constexpr):
    """Whether own rows first..last keep all N other rows from ``other`` on."""
    low, high, shift, near, far, own_near, own_far = band
    end = other + (N - 1) * other_step
    inside = (other - last - shift >= low) & (end - first - shift <= high) & (other_step == stride_of(dilation))
    if dilation is not None:
        inside = inside & ((other - first - shift) % dilation == 0)
    wide = ((other >= near) & (end < far)) | ((first >= own_near) & (last < own_far))
    return (end < n) & (inside | wide)


@triton.jit
def kept(own, other, n, band, dilation):
    """(len(own), len(other)) bool: which pairs stay."""
    low, high, shift, near, far, own_near, own_far = band
    apart = other[None, :] - own[:, None] - shift
    keep = (apart >= low) & (apart <= high)
    if dilation is not None:
        at = (own + shift) % dilation
        at = tl.where(at < 0, at + dilation, at)
        keep = keep & (at[:, None] == (other % dilation)[None, :])
    keep = keep | ((other >= near) & (other < far))[None, :] | ((own >= own_near) & (own < own_far))[:, None]
    return keep & ((other >= 0) & (other < n))[None, :]


# Scores ---------------------------------------------------------------------------------


@triton.jit
def scores(a, b, i, j, sequence, head, scale, bias, PRECISION: tl.constexpr, step=1):
    """(scale * a bᵀ + bias, what of it a Dense added). i and j are the tile's query rows and key rows, one of them
    along each axis; for a Relative both lie ``step`` apart."""
    distance, dense, relative, limits = bias
    zero, width, m, n = limits
    added = 0.0
    if dense is not None:
        added = _dense_tile(dense, sequence, head, i, j, m, n)
    s = product(a, b, PRECISION) * (scale * unit(PRECISION))
    if distance is not None:
        s += _distance_tile(distance, head, i, j, zero, width) * unit(PRECISION)
    if dense is not None:
        s = tl.where(added == -float("inf"), added, s + added * unit(PRECISION))
    if relative is not None:
        s += _relative_tile(relative, sequence, head, i, j, step, zero, width, PRECISION) * (scale * unit(PRECISION))
    return s, added


@triton.constexpr_function
def reach_of(m, n):
    """Rows of a table that m queries and n keys meet, as a tile: all lie as far apart."""
    return 1 << (m + n - 2).bit_length()


@triton.jit
def table_rows(relative, head, first, step, width, c0, K: tl.constexpr, C: tl.constexpr):
    """(K, C): rows first, first + step, ... of a head's table, columns c0, ...; zero where there are none."""
    t, c = (first + tl.arange(0, K) * step)[:, None], (c0 + tl.arange(0, C))[None, :]
    base = relative[1][0] + tl.cast(head, tl.int64) * relative[1][1]
    return tl.load(
        base + t.to(tl.int64) * relative[1][2] + c, mask=(t >= 0) & (t < width) & (c < relative[5]), other=0.0
    )


@triton.jit
def _relative_tile(relative, sequence, head, i, j, step, zero, width, PRECISION: tl.constexpr):
    """Query times the table's row of each pair, in the shape of i and j, rows of which lie ``step`` apart;
    ``relative`` = (query, (table, head stride, row stride), q_spans, Sq, batch rows apart, Dr)."""
    query, _table, q_spans, sq, apart, dr = relative
    M: tl.constexpr = i.shape[0] * i.shape[1]
    N: tl.constexpr = j.shape[0] * j.shape[1]
    K: tl.constexpr = reach_of(M, N)
    q_first, n_q = span(q_spans, sequence, sq)
    rows = rows_of(query, sequence * apart, head, q_first)
    i0, j0 = tl.min(i), tl.min(j)
    at = (i0 + tl.arange(0, M) * step)[:, None]
    total = tl.zeros([M, K], tl.float32)
    for c0 in tl.range(0, dr, 32, num_stages=1):
        c = (c0 + tl.arange(0, 32))[None, :]
        # (M, 32), (K, 32)
        some = tl.load(rows[0] + at.to(tl.int64) * rows[1] + c, mask=(at < n_q) & (c < dr), other=0.0)
        table = table_rows(relative, head, j0 - i0 - (M - 1) * step + zero, step, width, c0, K, 32)
        total += product(some, table, PRECISION)
    # Key c of the tile and query r meet row c - r + M - 1.
    tile = tl.gather(total, tl.arange(0, N)[None, :] - tl.arange(0, M)[:, None] + (M - 1), 1)
    if i.shape[0] == 1:
        return tl.trans(tile)
    else:
        return tile


# Numbers are loaded in a branch, although it is always taken: those outside the compiler copies to shared memory for
# later tiles, a few bytes at a time, where they lie across the banks.


@triton.jit
def _distance_tile(distance, head, i, j, zero, width):
    t = tl.minimum(tl.maximum(j - i + zero, 0), width - 1)
    added = tl.zeros(t.shape, tl.float32)
    if width > 0:
        added = tl.load(distance[0] + tl.cast(head, tl.int64) * distance[1] + t)
    return added


@triton.jit
def _dense_tile(dense, sequence, head, i, j, m, n):
    base = dense[0] + tl.cast(sequence, tl.int64) * dense[1] + tl.cast(head, tl.int64) * dense[2]
    offsets = i.to(tl.int64) * dense[3] + j.to(tl.int64) * dense[4]
    added = tl.zeros(offsets.shape, tl.float32)
    if n > 0:
        added = tl.load(base + offsets, mask=(i < m) & (j < n), other=0.0).to(tl.float32)
    return added


@triton.jit
def not_hidden(keep, added, bias):
    """``keep`` without the pairs that a Dense bias of -inf masks out, as it was ``added``."""
    if bias[1] is not None:
        keep = keep & (added != -float("inf"))
    return keep


# Online softmax -------------------------------------------------------------------------


@triton.jit
def online_softmax(s, m, total, PRECISION: tl.constexpr, factor=1.0):
    """One step of the running maximum and sum: (p, factor of what was summed, maximum, sum); ``factor`` makes
    scores of s and of maxima.

    ``total`` is (M,); or (M, W): a sum for each W-th column, to be added up after the last tile. With 8 of them a
    thread adds what it holds itself, and asks no other; that takes registers.
    """
    m_new = tl.maximum(m, tl.max(s, 1))
    pivot = tl.maximum(m_new * factor, LOWEST)  # finite where a row has no key so far
    p = power(s * factor - pivot[:, None], PRECISION)
    alpha = power(m * factor - pivot, PRECISION)
    if len(total.shape) == 1:
        return p, alpha, m_new, total * alpha + tl.sum(p, 1)
    else:
        columns = tl.reshape(p, [s.shape[0], s.shape[1] // total.shape[1], total.shape[1]])
        return p, alpha, m_new, total * alpha[:, None] + tl.sum(columns, 1)


@triton.jit
def log_sum(m, total, PRECISION: tl.constexpr):
    """Natural log-sum-exp of rows; -inf where m is."""
    return m / unit(PRECISION) + tl.log2(total) * LN2


@triton.jit
def load_lse(numbers, first, step, n, N: tl.constexpr, PRECISION: tl.constexpr):
    """(N,) log-sum-exp as scores count, finite where a row has no key."""
    lse = load_numbers(numbers, first, step, n, N)
    return tl.where(lse == -float("inf"), 0.0, lse * unit(PRECISION))
