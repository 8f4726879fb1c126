"""GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow (Black, Gao, Wang, Leahy,
Biderman 2021, doi:10.5281/zenodo.5297715).

A model like GPT-3 (Brown et al. 2020, arXiv:2005.14165) whose weights are public. What differs
(EleutherAI/gpt-neo, ``models/gpt2/gpt2.py``; transformers' names):

- Every other layer sees the last 256 tokens alone, a token's own among them.
- Scores are not divided by the root of a head's size.
- Queries, keys and values have no biases.

Example:
    >>> import torch
    >>> from pkernels.models import build, gpt_neo
    >>> model = build("GPTNeoForCausalLM", gpt_neo.Config(hidden_size=12, num_layers=2, num_heads=3)).eval()
    >>> model.generate(torch.tensor([[464, 3290]]), max_new_tokens=3).shape
    torch.Size([1, 5])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .parts.decoder import Decoder, initialise
from .parts.gpt import BandedConfig, answers, banded, gpt_rules, last_word, next_word, of_sequences, of_tokens
from .parts.heads import Bare
from .parts.keys import KeyMap, Same, Stacked
from .parts.model import Family


@dataclass(frozen=True)
class Config(BandedConfig):
    """The defaults are the 1.3B model's."""

    model_type: ClassVar[str] = "gpt_neo"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_heads("hidden_size", "num_heads")

    def to_dict(self) -> dict[str, Any]:
        # What transformers reads must name the kinds: its own default is 24 layers'.
        types = [[list(self.kinds), 1]] if self.attention_types is None else self.attention_types
        return {**super().to_dict(), "attention_types": types}

    @classmethod
    def of_125m(cls) -> Config:
        return cls(hidden_size=768, num_layers=12, num_heads=12)

    @classmethod
    def of_1_3b(cls) -> Config:
        return cls()

    @classmethod
    def of_2_7b(cls) -> Config:
        return cls(hidden_size=2560, num_layers=32, num_heads=20)


def body(c: Config) -> Decoder:
    return banded(c, scale=1.0, bias=False, out_bias=True)


HEADS = {
    "GPTNeoModel": lambda c: Bare(),
    "GPTNeoForCausalLM": next_word,
    "GPTNeoForSequenceClassification": of_sequences,
    "GPTNeoForTokenClassification": of_tokens,
    "GPTNeoForQuestionAnswering": answers,
}

ARGUMENTS = {"GPTNeoForSequenceClassification": lambda c, given: last_word(c.pad_token_id, given)}

_ATTENTION = "transformer.h.{}.attn.attention"
KEYS = KeyMap(
    prefix="transformer",
    rules={
        **gpt_rules(Same),
        "body.layers.{}.attention.inner.qkv": Stacked(tuple(f"{_ATTENTION}.{x}_proj" for x in "qkv")),
        "body.layers.{}.attention.inner.out": Same(f"{_ATTENTION}.out_proj"),
    },
    tied={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attention\.bias$", r"\.attention\.masked_bias$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
