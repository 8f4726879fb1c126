"""What single instructions do on the emulator, against numpy and Python integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.gpu.ptx.probe import probe

DRAW = np.random.default_rng(0)
EDGES = np.array([0, 1, 2, 31, 32, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFF, 0x10000], np.uint32)


def words(count: int = 32) -> np.ndarray:
    """Random 32-bit integers with the edges among them."""
    x = DRAW.integers(0, 2**32, count, dtype=np.uint32)
    x[: len(EDGES)] = DRAW.permutation(EDGES)
    return x


def signed(x: np.ndarray) -> list[int]:
    return x.view(f"i{x.dtype.itemsize}").tolist()


INTEGERS = {
    "add.u32": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "mul.hi.u32": lambda a, b: a * b >> 32,
    "mul.hi.s32": lambda a, b: a * b >> 32,
    "min.s32": min,
    "max.u32": max,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "shl.b32": lambda a, b: a << min(b, 32),
    "shr.u32": lambda a, b: a >> min(b, 32),
    "div.u32": lambda a, b: a // b if b else -1,
    "rem.u32": lambda a, b: a % b if b else a,
    "div.s32": lambda a, b: int(Fraction(a, b)) if b else -1,
    "rem.s32": lambda a, b: a - b * int(Fraction(a, b)) if b else a,
}


@pytest.mark.parametrize("opcode", INTEGERS)
def test_integers(opcode: str) -> None:
    a, b = words(), words()
    b[:8] &= 31
    plain = (lambda x: x.tolist()) if ".s" not in opcode else signed
    want = [INTEGERS[opcode](x, y) % 2**32 for x, y in zip(plain(a), plain(b), strict=True)]
    assert probe(f"{opcode} %d0, %a0, %a1;", a, b).tolist() == want


@pytest.mark.parametrize("kind", ["u", "s"])
def test_wide_products(kind: str) -> None:
    a, b = words(), words()
    x, y = (v.tolist() if kind == "u" else signed(v) for v in (a, b))
    wide = probe(f"mul.wide.{kind}32 %d0, %a0, %a1;", a, b, out="b64")
    assert wide.tolist() == [m * n % 2**64 for m, n in zip(x, y, strict=True)]
    a, b = DRAW.integers(0, 2**64, (2, 32), dtype=np.uint64)
    x, y = (v.tolist() if kind == "u" else signed(v) for v in (a, b))
    high = probe(f"mul.hi.{kind}64 %d0, %a0, %a1;", a, b, out="b64")
    assert high.tolist() == [(m * n >> 64) % 2**64 for m, n in zip(x, y, strict=True)]


def test_bit_fields() -> None:
    x, y, at, count = (
        words(),
        words(),
        DRAW.integers(0, 40, 32, dtype=np.uint32),
        DRAW.integers(0, 40, 32, dtype=np.uint32),
    )
    rows = list(zip(x.tolist(), y.tolist(), at.tolist(), count.tolist(), strict=True))
    mask = [(1 << n) - 1 for n in count.tolist()]
    got = probe("bfe.u32 %d0, %a0, %a1, %a2;", x, at, count)
    assert got.tolist() == [(v >> p) & m for (v, _, p, _), m in zip(rows, mask, strict=True)]
    got = probe("bfe.s32 %d0, %a0, %a1, %a2;", x, at, count)
    wide = [((v ^ 1 << 31) - (1 << 31)) >> min(p, 31) & m for (v, _, p, _), m in zip(rows, mask, strict=True)]
    tops = [min(31, p + n - 1) for _, _, p, n in rows]
    want = [
        0 if n == 0 else (f | -1 << n if v >> t & 1 else f) % 2**32
        for f, (v, _, _, n), t in zip(wide, rows, tops, strict=True)
    ]
    assert got.tolist() == want
    got = probe("bfi.b32 %d0, %a0, %a1, %a2, %a3;", y, x, at, count)
    want = [(v & ~(m << p) | (w & m) << p) % 2**32 for (v, w, p, _), m in zip(rows, mask, strict=True)]
    assert got.tolist() == want


def test_permute_and_lop3() -> None:
    a, b, c = words(), words(), words()
    pick = []
    for x, y, s in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        source = (x | y << 32).to_bytes(8, "little")
        chosen = [(source[s >> 4 * n & 7], s >> 4 * n & 8) for n in range(4)]
        pick.append(int.from_bytes(bytes((255 if v & 128 else 0) if sign else v for v, sign in chosen), "little"))
    assert probe("prmt.b32 %d0, %a0, %a1, %a2;", a, b, c).tolist() == pick
    assert (probe("lop3.b32 %d0, %a0, %a1, %a2, 0xE8;", a, b, c) == (a & b | b & c | a & c)).all()
    assert (probe("lop3.b32 %d0, %a0, %a1, %a2, 0x96;", a, b, c) == a ^ b ^ c).all()
    assert (probe("lop3.b32 %d0, %a0, %a1, %a2, 0x20;", a, b, c) == a & ~b & c).all()


def test_counts() -> None:
    x = words()
    assert probe("popc.b32 %d0, %a0;", x).tolist() == [v.bit_count() for v in x.tolist()]
    assert probe("clz.b32 %d0, %a0;", x).tolist() == [32 - v.bit_length() for v in x.tolist()]
    assert probe("brev.b32 %d0, %a0;", x).tolist() == [int(f"{v:032b}"[::-1], 2) for v in x.tolist()]
    assert probe("shf.l.wrap.b32 %d0, %a0, %a0, 7;", x).tolist() == [(v << 7 | v >> 25) % 2**32 for v in x.tolist()]


FLOATS = np.array(
    [
        0.0,
        -0.0,
        1.0,
        1.00390625,
        1.01171875,
        3.3e38,
        -3.4e38,
        1e-40,
        np.inf,
        -np.inf,
        np.nan,
        65504,
        65519.9,
        65520,
        6e-8,
        2.5,
    ]
)
X = np.concatenate([FLOATS, DRAW.standard_normal(16)]).astype(np.float32)


def test_rounding_to_narrow_floats() -> None:
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        want = torch.from_numpy(X).to(dtype)
        got = torch.from_numpy(probe(f"cvt.rn.{name}.f32 %d0, %a0;", X, out="b16").view(np.int16)).view(dtype)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        back = probe(f"cvt.f32.{name} %d0, %a0;", want.view(torch.int16).numpy().view(np.uint16)).view(np.float32)
        np.testing.assert_array_equal(back, want.float().numpy())
        pair = probe(f"cvt.rn.{name}x2.f32 %d0, %a0, %a1;", X, X[::-1].copy())
        upper, lower = (torch.from_numpy((pair >> s).astype(np.uint16).view(np.int16)).view(dtype) for s in (16, 0))
        torch.testing.assert_close(upper, want, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(lower, want.flip(0), rtol=0, atol=0, equal_nan=True)


def test_rounding_towards_zero() -> None:
    x = X[np.isfinite(X)]
    x = np.resize(x, 32)
    assert (probe("cvt.rz.bf16.f32 %d0, %a0;", x, out="b16") == (x.view(np.uint32) >> 16)).all()


def test_tf32_keeps_ten_bits() -> None:
    x = np.resize(X[16:], 32)
    got = probe("cvt.rna.tf32.f32 %d0, %a0;", x)
    assert (got & 0x1FFF == 0).all()
    np.testing.assert_allclose(got.view(np.float32), x, rtol=2.0**-11)


def test_floats_to_integers() -> None:
    x = np.array([0.5, 1.5, -0.5, -1.5, 2.5, 3e9, -3e9, np.nan, np.inf, -7.9, 7.9, 1e20] + [0.0] * 20, np.float32)
    low, high = -(2**31), 2**31 - 1
    for mode, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        want = [0 if np.isnan(v) else int(np.clip(function(float(v)), low, high)) for v in x]
        assert signed(probe(f"cvt.{mode}.s32.f32 %d0, %a0;", x)) == want
    n = words()
    np.testing.assert_array_equal(
        probe("cvt.rn.f32.s32 %d0, %a0;", n).view(np.float32), n.view(np.int32).astype(np.float32)
    )
    assert signed(probe("cvt.s64.s32 %d0, %a0;", n, out="b64")) == signed(n)
    assert probe("cvt.u64.u32 %d0, %a0;", n, out="b64").tolist() == n.tolist()
    assert signed(probe("cvt.s32.s8 %d0, %a0;", n)) == signed(n.astype(np.uint8))
    short = probe("cvt.sat.s16.s32 %h0, %a0; cvt.s32.s16 %d0, %h0;", n)
    assert signed(short) == np.clip(n.view(np.int32), -(2**15), 2**15 - 1).tolist()


def test_fma_rounds_once() -> None:
    a, b = (1 + DRAW.integers(0, 2**23, (2, 32)) * 2.0**-23).astype(np.float32)
    c = (-(a.astype(np.float64) * b) * (1 + DRAW.integers(-2, 3, 32) * 2.0**-25)).astype(np.float32)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    got = probe("fma.rn.f32 %d0, %a0, %a1, %a2;", a, b, c).view(np.float32)
    for value, want in zip(got, exact, strict=True):
        beside = [np.nextafter(value, d, dtype=np.float32) for d in (np.float32(np.inf), np.float32(-np.inf))]
        assert all(abs(Fraction(float(value)) - want) <= abs(Fraction(float(n)) - want) for n in beside)


def test_functions() -> None:
    x = np.abs(X[16:]).repeat(2) + np.float32(0.1)
    near = {"ex2.approx.ftz.f32": np.exp2, "lg2.approx.f32": np.log2, "rcp.approx.f32": np.reciprocal}
    near |= {"sqrt.rn.f32": np.sqrt, "rsqrt.approx.f32": lambda v: 1 / np.sqrt(v)}
    for opcode, function in near.items():
        got = probe(f"{opcode} %d0, %a0;", x).view(np.float32)
        np.testing.assert_allclose(got, function(x.astype(np.float64)), rtol=2**-22)
    tiny = np.full(32, 1e-40, np.float32)
    assert (probe("mul.ftz.f32 %d0, %a0, 0f3F800000;", tiny) == 0).all()
    assert (probe("mul.f32 %d0, %a0, 0f3F800000;", tiny).view(np.float32) == tiny).all()
    assert (probe("max.f32 %d0, %a0, 0fFF800000;", X).view(np.float32)[10] == -np.inf).all()
    assert np.isnan(probe("max.NaN.f32 %d0, %a0, 0fFF800000;", X).view(np.float32)[10])


def test_comparisons_with_nan() -> None:
    y = np.roll(X, 3)
    nan = np.isnan(X) | np.isnan(y)
    for name, function in (("lt", np.less), ("ge", np.greater_equal), ("eq", np.equal), ("ne", np.not_equal)):
        ordered = probe(f"setp.{name}.f32 %q0, %a0, %a1; selp.b32 %d0, 1, 0, %q0;", X, y)
        either = probe(f"setp.{name}u.f32 %q0, %a0, %a1; selp.b32 %d0, 1, 0, %q0;", X, y)
        assert (ordered == (function(X, y) & ~nan)).all()
        assert (either == (function(X, y) | nan)).all()


def test_comparison_joined_with_a_predicate() -> None:
    x = words()
    body = "setp.gt.u32 %q0, %a0, 9; setp.lt.and.s32 %q1|%q2, %a0, 0, %q0;"
    yes, no = probe(body + "selp.b32 %d0, 1, 0, %q1; selp.b32 %d1, 1, 0, %q2;", x, count=2)
    assert (yes == ((x > 9) & (x.view(np.int32) < 0))).all()
    assert (no == ((x > 9) & (x.view(np.int32) >= 0))).all()


def test_comparison_of_pairs_has_a_predicate_for_each() -> None:
    a, b = words(), words()
    b[::3] = a[::3]
    body = "setp.eq.bf16x2 %q0|%q1, %a0, %a1; selp.b32 %d0, 1, 0, %q0; selp.b32 %d1, 1, 0, %q1;"
    low, high = probe(body, a, b, count=2)
    pairs = [torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16).view(-1, 2) for x in (a, b)]
    equal = (pairs[0] == pairs[1]).int()
    assert low.tolist() == equal[:, 0].tolist() and high.tolist() == equal[:, 1].tolist() and 0 < equal.sum() < 64
