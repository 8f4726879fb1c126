"""Transformer-XL written out, from the paper's equations and the names in its files: every pair has its
encoding, every word its score. Plain torch, and none of pkernels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    heads: int
    layers: int
    mem_len: int
    clamp_len: int
    same_length: bool
    pre_lnorm: bool
    eps: float
    cutoffs: tuple[int, ...]
    div_val: int


def encoding(distance: int, width: int) -> Tensor:
    rates = [10000 ** (-2 * i / width) for i in range(width // 2)]
    angles = torch.tensor([distance * rate for rate in rates], dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()]).float()


def embed(t: Tensors, s: Sizes, ids: Tensor) -> Tensor:
    """``(B, S)`` -> ``(B, S, width)``, word by word."""
    width = t["transformer.layers.0.dec_attn.o_net.weight"].shape[0]
    rows = []
    for word in ids.flatten().tolist():
        cluster = 0 if s.div_val == 1 else sum(word >= edge for edge in s.cutoffs)
        first = (0, *s.cutoffs)[cluster]
        row = t[f"transformer.word_emb.emb_layers.{cluster}.weight"][word - first]
        projection = t.get(f"transformer.word_emb.emb_projs.{cluster}")
        rows.append(row if projection is None else projection @ row)
    return torch.stack(rows).view(*ids.shape, width) * width**0.5


def norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)


def attend(t: Tensors, s: Sizes, layer: int, x: Tensor, memory: Tensor) -> Tensor:
    """``x (B, S, width)`` over ``memory (B, M, width)`` and itself, the scores as section 3.3 has them."""
    name = f"transformer.layers.{layer}.dec_attn"
    (batch, size, width), before = x.shape, memory.shape[1]
    all_ = torch.cat([memory, x], 1)
    head = t[f"{name}.r_w_bias"].shape[1]
    q, k, v = (
        (y @ w.t()).view(batch, -1, s.heads, head)
        for y, w in zip((x, all_, all_), t[f"{name}.qkv_net.weight"].chunk(3), strict=True)
    )
    out = torch.zeros(batch, size, s.heads, head)
    for i in range(size):
        distances = [before + i - j for j in range(before + size)]
        seen = [d >= 0 and (not s.same_length or d < s.mem_len) for d in distances]
        clamped = [min(d, s.clamp_len) if s.clamp_len > 0 else d for d in distances]
        r = torch.stack([encoding(d, width) for d in clamped]) @ t[f"{name}.r_net.weight"].t()
        r = r.view(-1, s.heads, head)
        scores = torch.einsum("bhd,bjhd->bhj", q[:, i] + t[f"{name}.r_w_bias"], k)
        scores = scores + torch.einsum("bhd,jhd->bhj", q[:, i] + t[f"{name}.r_r_bias"], r)
        scores = (scores / head**0.5).masked_fill(~torch.tensor(seen), float("-inf"))
        row = torch.einsum("bhj,bjhd->bhd", scores.softmax(-1), v)
        out = torch.cat([out[:, :i], row[:, None], out[:, i + 1 :]], 1)
    return out.flatten(2) @ t[f"{name}.o_net.weight"].t()


def read(t: Tensors, s: Sizes, ids: Tensor, mems: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
    """Last hidden states ``(B, S, width)``, and memories ``(M, B, width)`` for the next segment."""
    x, new = embed(t, s, ids), []
    for layer in range(s.layers):
        zeros = torch.zeros(s.mem_len, x.shape[0], x.shape[2])
        memory = (zeros if mems is None else mems[layer]).transpose(0, 1)
        new.append(torch.cat([memory, x], 1)[:, memory.shape[1] + x.shape[1] - s.mem_len :].detach().transpose(0, 1))
        attention, network = (f"transformer.layers.{layer}.{part}.layer_norm" for part in ("dec_attn", "pos_ff"))
        core = f"transformer.layers.{layer}.pos_ff.CoreNet"

        def feed(y: Tensor, core: str = core) -> Tensor:
            inner = (y @ t[f"{core}.0.weight"].t() + t[f"{core}.0.bias"]).relu()
            return inner @ t[f"{core}.3.weight"].t() + t[f"{core}.3.bias"]

        if s.pre_lnorm:
            x = x + attend(t, s, layer, norm(t, attention, x, s.eps), norm(t, attention, memory, s.eps))
            x = x + feed(norm(t, network, x, s.eps))
        else:
            x = norm(t, attention, x + attend(t, s, layer, x, memory), s.eps)
            x = norm(t, network, x + feed(x), s.eps)
    return x, new


def log_probabilities(t: Tensors, s: Sizes, x: Tensor, words: int) -> Tensor:
    """``(..., words)``: of a rare word that of its cluster, whose columns stand in order behind the frequent
    words, and its own within it."""
    edges = (0, *s.cutoffs, words)
    scores = []
    for i, (first, last) in enumerate(itertools.pairwise(edges)):
        table = t["transformer.word_emb.emb_layers.0.weight"][first:last] if s.div_val == 1 else None
        table = t[f"transformer.word_emb.emb_layers.{i}.weight"] if table is None else table
        bias = t["crit.out_layers.0.bias"][first:last] if s.div_val == 1 else t[f"crit.out_layers.{i}.bias"]
        shared = t.get(f"transformer.word_emb.emb_projs.{0 if s.div_val == 1 else i}")
        projection = t.get(f"crit.out_projs.{i}", shared)
        y = x if projection is None else x @ projection
        if i == 0 and s.cutoffs:
            table = torch.cat([table, t["crit.cluster_weight"]])
            bias = torch.cat([bias, t["crit.cluster_bias"]])
        scores.append((y @ table.t() + bias).log_softmax(-1))
    size = edges[1]
    rare = [scores[0][..., size + i - 1, None] + scores[i] for i in range(1, len(scores))]
    return torch.cat([scores[0][..., :size], *rare], -1)
