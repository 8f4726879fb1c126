"""Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context (Dai, Yang, Yang, Carbonell, Le,
Salakhutdinov 2019, arXiv:1901.02860).

What differs from the Transformer's decoder (Vaswani et al. 2017, arXiv:1706.03762):

- Section 3.2: a text is read in segments. Each layer looks back at what went into it for the
  segments before, its memories, through which no gradient flows.
- Section 3.3: no position embeddings, but scores by distance, whose encodings have a
  projection of their own, and two learned vectors that stand for the query's place
  (``parts.recurrence``).
- The authors' code: words in clusters by frequency, embedded in vectors ``div_val`` times narrower
  from one to the next (``parts.adaptive``); ``same_length`` lets every token see as many others as
  the next, and ``clamp_len`` is the largest distance told apart, both of evaluation.

Memories are 0 where there was no text, and seen: so have the authors' TensorFlow program and
transformers, whose weights are the published ones. ``mems`` of no tokens start without, as the
authors' PyTorch program does.

Example:
    >>> import torch
    >>> from pkernels.models import build, transformer_xl
    >>> sizes = {"d_model": 12, "d_embed": 12, "n_head": 2, "d_head": 6, "d_inner": 24, "n_layer": 1, "mem_len": 4}
    >>> config = transformer_xl.Config(vocab_size=99, cutoffs=(20, 50), div_val=2, **sizes)
    >>> model = build("TransfoXLLMHeadModel", config).eval()
    >>> first = model(torch.tensor([[5, 60, 7]]))
    >>> model(torch.tensor([[8, 9]]), mems=first.mems).logits.shape
    torch.Size([1, 2, 99])
    >>> model.generate(torch.tensor([[5, 60, 7]]), max_new_tokens=2, eos_token_id=()).shape
    torch.Size([1, 5])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import Band, causal, window
from .parts.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, NextWord
from .parts.config import BaseConfig
from .parts.gpt import last_word
from .parts.heads import PROBLEMS, Bare, LastScore, SequenceClassification
from .parts.keys import KeyMap, Same
from .parts.layers import FeedForward, PostNorm, PreNorm
from .parts.model import Family
from .parts.recurrence import Biases, rates
from .parts.recurrent_layers import Attention, Layer
from .parts.segments import Body


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 4 and the authors' scripts; the defaults are the published model's of WikiText-103, as it
    is evaluated.

    Args:
        cutoffs: First words of the clusters after the first.
        d_embed: Width of the first cluster's vectors; of each further one ``div_val`` times less.
        mem_len: Tokens that are remembered.
        clamp_len: Distances beyond it count as this one; 0 or less for no such limit.
        same_length: Every token sees ``mem_len`` others, its own among them.
        untie_r: Each layer has vectors of its own for the query's place.
        tie_projs: For each cluster whether the softmax has the embedding's projection; by default all
            but the first.
    """

    model_type: ClassVar[str] = "transfo-xl"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "attn_type": (0,),
        "init": ("normal",),
        "tie_word_embeddings": (True,),
        "tie_weight": (True,),
        "sample_softmax": (-1, 0),
    }

    vocab_size: int = 267735
    cutoffs: tuple[int, ...] = (20000, 40000, 200000)
    d_model: int = 1024
    d_embed: int = 1024
    n_head: int = 16
    d_head: int = 64
    d_inner: int = 4096
    div_val: int = 4
    pre_lnorm: bool = False
    n_layer: int = 18
    mem_len: int = 1600
    clamp_len: int = 1000
    same_length: bool = True
    untie_r: bool = True
    tie_projs: tuple[bool, ...] | None = None
    dropout: float = 0.1
    dropatt: float = 0.0
    init_std: float = 0.02
    proj_init_std: float = 0.01
    layer_norm_epsilon: float = 1e-5
    eos_token_id: int | tuple[int, ...] | None = 0
    pad_token_id: int | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "d_model", "d_embed", "n_head", "d_head", "d_inner", "div_val", "n_layer")
        self.check_probability("dropout", "dropatt")
        self.check_choice("problem_type", (None, *PROBLEMS))
        edges = (0, *self.cutoffs, self.vocab_size)
        if sorted(set(edges)) != list(edges):
            raise ValueError(f"cutoffs: must rise between 0 and vocab_size ({self.vocab_size}), got {self.cutoffs}")
        if self.d_embed < self.div_val ** len(self.cutoffs):
            raise ValueError(f"d_embed: at least div_val ** {len(self.cutoffs)} is allowed, got {self.d_embed}")
        if self.tie_projs is None:  # written out: transformers reads a null as none
            object.__setattr__(self, "tie_projs", (False, *[True] * len(self.cutoffs)))
        elif len(self.tie_projs) != len(self.cutoffs) + 1:
            raise ValueError(
                f"tie_projs: {len(self.cutoffs) + 1} values, one a cluster, are allowed, got {self.tie_projs}"
            )
        if self.mem_len < self.same_length:
            raise ValueError(f"mem_len: at least {int(self.same_length)} is allowed here, got {self.mem_len}")

    @property
    def pattern(self) -> Band:
        """What a token sees."""
        return window(self.mem_len - 1, 0) if self.same_length else causal

    @property
    def softmax(self) -> dict[str, Any]:
        """Sizes that embedding and softmax share."""
        return {
            "cutoffs": self.cutoffs, "words": self.vocab_size,
            "width": self.d_model, "narrow": self.d_embed, "div": self.div_val,
        }  # fmt: skip

    @classmethod
    def wikitext103(cls) -> Config:
        return cls()

    @classmethod
    def wikitext103_base(cls) -> Config:
        """As it is trained (run_wt103_base.sh)."""
        return cls(
            d_model=410, d_embed=410, n_head=10, d_head=41, d_inner=2100, div_val=1, n_layer=16,
            mem_len=150, clamp_len=-1, same_length=False, untie_r=False,
        )  # fmt: skip

    @classmethod
    def enwik8(cls, **sizes: Any) -> Config:
        """12 layers, as it is trained (run_enwik8_base.sh)."""
        published = {"d_model": 512, "d_embed": 512, "n_head": 8, "d_inner": 2048, "n_layer": 12, "mem_len": 512}
        trained = {"clamp_len": -1, "same_length": False, "untie_r": False}
        return cls(**{"vocab_size": 204, "cutoffs": (), "div_val": 1, **published, **trained, **sizes})

    @classmethod
    def enwik8_large(cls) -> Config:
        """24 layers (table 2)."""
        return cls.enwik8(d_model=1024, d_embed=1024, d_head=128, d_inner=3072, n_layer=24, mem_len=768)


def _layer(c: Config, biases: Biases) -> Layer:
    attention = Attention(c.d_model, biases, dropout=c.dropatt, pattern=c.pattern)
    network = FeedForward(c.d_model, c.d_inner, "relu", dropout=c.dropout)
    if c.pre_lnorm:
        norm = partial(nn.LayerNorm, c.d_model, eps=c.layer_norm_epsilon)
        return Layer(*(PreNorm(x, norm(), dropout=c.dropout) for x in (attention, network)))
    return Layer(*(PostNorm(x, c.d_model, eps=c.layer_norm_epsilon, dropout=c.dropout) for x in (attention, network)))


def body(c: Config) -> Body:
    """Section 3: embeddings, and layers that may share the vectors for the query's place."""
    shared = None if c.untie_r else Biases(c.n_head, c.d_head)
    layers = [_layer(c, shared or Biases(c.n_head, c.d_head)) for _ in range(c.n_layer)]
    embeddings = AdaptiveEmbedding(**c.softmax)
    return Body(embeddings, layers, shared, memory=c.mem_len, clamp=c.clamp_len, dropout=c.dropout)


HEADS: dict[str, Callable[[Config], nn.Module]] = {
    "TransfoXLModel": lambda c: Bare(),
    "TransfoXLLMHeadModel": lambda c: NextWord(AdaptiveSoftmax(**c.softmax, tied=c.tie_projs or ())),
    "TransfoXLForSequenceClassification": lambda c: SequenceClassification(
        LastScore(c.d_model, c.num_labels), nn.Identity(), dropout=0.0, problem=c.problem_type
    ),
}

ARGUMENTS = {"TransfoXLForSequenceClassification": lambda c, given: last_word(c.pad_token_id, given)}


def initialise(model: nn.Module, c: Config) -> None:
    """The authors' ``weights_init``: normal weights, those of norms around 1; biases 0."""
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            nn.init.normal_(parameter, 1.0, c.init_std)
        elif name.endswith((".bias", "column_bias")):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=c.proj_init_std if ".projections." in name else c.init_std)


def stored(architecture: str, c: Config, tensors: dict[str, Tensor]) -> tuple[Config, dict[str, Tensor]]:
    """What is shared may be in a file at each of its places, or at one alone; which are shared the config
    says."""
    out = {name if name.startswith(("transformer.", "crit.", "score.")) else f"transformer.{name}": x
           for name, x in tensors.items()}  # fmt: skip
    embedding = "transformer.word_emb.emb_{}.{}"
    copies = {
        f"crit.out_layers.{i}.weight": embedding.format("layers", f"{i}.weight") for i in range(len(c.cutoffs) + 1)
    }
    copies |= {
        f"crit.out_projs.{i}": embedding.format("projs", 0 if c.div_val == 1 else i)
        for i, tied in enumerate(c.tie_projs or ())
        if tied
    }
    for copy, original in copies.items():
        x = out.pop(copy, None)
        if x is not None and not torch.equal(out.setdefault(original, x), x):
            raise ValueError(f"{copy}: must equal {original}, to which it is tied; it differs")
    if not c.untie_r:
        for bias in ("r_w_bias", "r_r_bias"):
            names = [f"transformer.{bias}", *(f"transformer.layers.{i}.dec_attn.{bias}" for i in range(c.n_layer))]
            shared = next((out[name] for name in names if name in out), None)
            out |= {} if shared is None else dict.fromkeys(names, shared)
    out.setdefault("transformer.pos_emb.inv_freq", rates(c.d_model))
    return c, out


_LAYER = "transformer.layers.{}"

KEYS = KeyMap(
    prefix="transformer",
    rules={
        "body.biases.content": Same("transformer.r_w_bias"),
        "body.biases.position": Same("transformer.r_r_bias"),
        "body.rates": Same("transformer.pos_emb.inv_freq"),
        "body.embeddings.tables.{}": Same("transformer.word_emb.emb_layers.{}"),
        "body.embeddings.projections": Same("transformer.word_emb.emb_projs"),
        "body.layers.{}.attention.inner.qkv": Same(f"{_LAYER}.dec_attn.qkv_net"),
        "body.layers.{}.attention.inner.distances": Same(f"{_LAYER}.dec_attn.r_net"),
        "body.layers.{}.attention.inner.out": Same(f"{_LAYER}.dec_attn.o_net"),
        "body.layers.{}.attention.inner.biases.content": Same(f"{_LAYER}.dec_attn.r_w_bias"),
        "body.layers.{}.attention.inner.biases.position": Same(f"{_LAYER}.dec_attn.r_r_bias"),
        "body.layers.{}.attention.norm": Same(f"{_LAYER}.dec_attn.layer_norm"),
        "body.layers.{}.feed_forward.inner.up": Same(f"{_LAYER}.pos_ff.CoreNet.0"),
        "body.layers.{}.feed_forward.inner.down": Same(f"{_LAYER}.pos_ff.CoreNet.3"),
        "body.layers.{}.feed_forward.norm": Same(f"{_LAYER}.pos_ff.layer_norm"),
        "head.words.columns": Same("crit.cluster_weight"),
        "head.words.column_bias": Same("crit.cluster_bias"),
        "head.words.outs.{}": Same("crit.out_layers.{}"),
        "head.words.projections": Same("crit.out_projs"),
        "head.pooler.score": Same("score"),
    },
)

FAMILY = Family(Config, body, HEADS, KEYS, initialise, ARGUMENTS, stored=stored)
