"""UniLM written out in plain torch, after the papers and the authors' programs: who sees whom as a
matrix of pairs, made pair by pair; the oracle of the models on top of the kernels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WORDS, WIDTH, INNER, HEADS, LAYERS, PLACES = 97, 26, 37, 2, 2, 40
BINS, REACH = 8, 16  # buckets of distances, and where the last begins
CONFIG = {
    "model_type": "unilm",
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": PLACES,
    "type_vocab_size": 6,
    "source_type_id": 4,
    "target_type_id": 5,
}
RELATIVE = {"rel_pos_bins": BINS, "max_rel_pos": REACH}
PROJECTIONS = ("query", "key", "value")


def shapes(*, relative: bool, labels: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a file, split layout, of all heads."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        found.update({f"{name}.weight": (out, into), f"{name}.bias": (out,)})

    for name, rows in (("word", WORDS), ("position", PLACES), ("token_type", 6)):
        found[f"bert.embeddings.{name}_embeddings.weight"] = (rows, WIDTH)
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}"
        for name in PROJECTIONS:
            linear(f"{layer}.attention.self.{name}", WIDTH, WIDTH)
        linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        linear(f"{layer}.intermediate.dense", INNER, WIDTH)
        linear(f"{layer}.output.dense", WIDTH, INNER)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        found.update({f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)})
    for name, out in (("bert.pooler.dense", WIDTH), ("cls.predictions.transform.dense", WIDTH)):
        linear(name, out, WIDTH)
    linear("cls.seq_relationship", 2, WIDTH)
    linear("classifier", labels, WIDTH)
    found["cls.predictions.bias"] = (WORDS,)
    if relative:
        found["bert.rel_pos_bias.weight"] = (HEADS, BINS)
    return found


def weights(*, relative: bool, seed: int = 0) -> dict[str, Tensor]:
    """Noise in all of them."""
    draw = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(shape, generator=draw) * 0.3 + ("LayerNorm.weight" in name)
        for name, shape in shapes(relative=relative).items()
    }
    if relative:
        made["bert.rel_pos_bias.weight"] *= 3
    return made


def sees(mode: str, i: int, j: int, first: int) -> bool:
    """Whether token i sees token j; the first segment has ``first`` tokens."""
    if mode == "left_to_right":
        return j <= i
    if mode == "right_to_left":
        return j >= i
    if mode == "seq2seq":
        return j < first if i < first else j <= i
    return True


def pairs_of(mode: str, firsts: list[int], real: Tensor) -> Tensor:
    """``(B, S, S)``: pairs that attention keeps."""
    size = real.shape[1]
    rows = [[[sees(mode, i, j, first) for j in range(size)] for i in range(size)] for first in firsts]
    return torch.tensor(rows) & real[:, None, :].bool()


def bucket_of(step: int) -> int:
    """Of a key ``step`` places ahead of the query."""
    half, exact, far = BINS // 2, BINS // 4, abs(step)
    if far >= exact:
        far = min(half - 1, exact + int(math.log(far / exact) / math.log(REACH / exact) * (half - exact)))
    return far + (half if step > 0 else 0)


class Oracle:
    """``p`` are parameters under the names of files."""

    def __init__(self, p: dict[str, Tensor]) -> None:
        self.p = p

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / spread * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def attention(self, layer: str, x: Tensor, pairs: Tensor) -> Tensor:
        q, k, v = (
            self.linear(f"{layer}.self.{name}", x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in PROJECTIONS
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        if "bert.rel_pos_bias.weight" in self.p:
            size = x.shape[1]
            buckets = torch.tensor([[bucket_of(j - i) for j in range(size)] for i in range(size)])
            scores = scores + self.p["bert.rel_pos_bias.weight"][:, buckets]
        likely = scores.masked_fill(~pairs[:, None], -1e9).softmax(-1)
        return self.linear(f"{layer}.output.dense", (likely @ v).transpose(1, 2).flatten(2))

    def states(self, ids: Tensor, types: Tensor, pairs: Tensor) -> Tensor:
        tables = {
            name: self.p[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        }
        x = F.embedding(ids, tables["word"], padding_idx=0) + tables["token_type"][types]
        x = self.norm("bert.embeddings.LayerNorm", x + tables["position"][: ids.shape[1]])
        for i in range(LAYERS):
            layer = f"bert.encoder.layer.{i}"
            mixed = self.attention(f"{layer}.attention", x, pairs)
            x = self.norm(f"{layer}.attention.output.LayerNorm", x + mixed)
            inner = self.linear(f"{layer}.intermediate.dense", x)
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            x = self.norm(f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", inner))
        return x

    def words(self, states: Tensor) -> Tensor:
        x = self.linear("cls.predictions.transform.dense", states)
        x = self.norm("cls.predictions.transform.LayerNorm", x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))
        return x @ self.p["bert.embeddings.word_embeddings.weight"].T + self.p["cls.predictions.bias"]

    def pooled(self, states: Tensor) -> Tensor:
        return self.linear("bert.pooler.dense", states[:, 0]).tanh()

    def after(self, source: list[int], target: list[int], mask: int) -> Tensor:
        """Scores ``(V,)`` of the word that a [MASK] behind the target stands for, all anew."""
        ids = torch.tensor([[*source, *target, mask]])
        types = torch.tensor([[4] * len(source) + [5] * (len(target) + 1)])
        pairs = pairs_of("seq2seq", [len(source)], torch.ones_like(ids))
        return self.words(self.states(ids, types, pairs))[0, -1]
