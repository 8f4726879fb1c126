"""GPT-3: Language Models are Few-Shot Learners (Brown et al. 2020, arXiv:2005.14165).

What differs from GPT-2 (Radford et al. 2019), whose norms, initial values and words it keeps:

- Section 2.1: "alternating dense and locally banded sparse attention patterns in the layers",
  after the Sparse Transformer (Child et al. 2019, arXiv:1904.10509). Neither the order nor the
  width of the band is published: here dense layers come first, as in GPT-Neo, and
  ``window_size`` says the width.
- Section 2.1: feed-forward networks are four times as wide as the model; 2048 positions.
- Table 2.1: eight sizes, from 125M to 175B. Heads there need not fill the model's width. The 13B
  row has a width of 5140 and 40 heads of 128, which are 5120; attention then projects from
  5140 to 5120 and back, as ``head_size`` allows (12,936,488,380 parameters; of width 5120 they would
  be 12,853,386,240: "13.0B" does not tell which was trained). The XL row's 24 heads of 128 for
  a width of 2048 would make 1.52B parameters; its name, 1.3B, is met by 16 heads.

Weights are not published; files have GPT-2's names.

Example:
    >>> import torch
    >>> from pkernels.models import build, gpt3
    >>> config = gpt3.Config(hidden_size=12, num_layers=2, num_heads=3, window_size=4)
    >>> config.patterns[1]
    Band(left=3, right=0)
    ■·······
    ■■······
    ■■■·····
    ■■■■····
    ·■■■■···
    ··■■■■··
    ···■■■■·
    ····■■■■
    >>> build("GPT3LMHeadModel", config).eval().generate(torch.tensor([[464, 3290]]), max_new_tokens=9).shape
    torch.Size([1, 11])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .parts.decoder import Decoder, initialise
from .parts.gpt import BandedConfig, answers, banded, conv_rules, last_word, next_word, of_sequences, of_tokens
from .parts.heads import Bare
from .parts.keys import KeyMap
from .parts.model import Family


@dataclass(frozen=True)
class Config(BandedConfig):
    """Table 2.1.

    Args:
        head_size: If not ``hidden_size / num_heads``.
        window_size: Tokens that a "local" layer sees, or one number for each layer.
    """

    model_type: ClassVar[str] = "gpt3"

    window_size: int | tuple[int, ...] = 256  # type: ignore[assignment]
    head_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_size is None:
            self.check_heads("hidden_size", "num_heads")
        else:
            self.check_positive("head_size")

    @classmethod
    def small(cls) -> Config:
        return cls(hidden_size=768, num_layers=12, num_heads=12)

    @classmethod
    def medium(cls) -> Config:
        return cls(hidden_size=1024, num_layers=24, num_heads=16)

    @classmethod
    def large(cls) -> Config:
        return cls(hidden_size=1536, num_layers=24, num_heads=16)

    @classmethod
    def xl(cls) -> Config:
        return cls(hidden_size=2048, num_layers=24, num_heads=16)

    @classmethod
    def of_2_7b(cls) -> Config:
        return cls(hidden_size=2560, num_layers=32, num_heads=32)

    @classmethod
    def of_6_7b(cls) -> Config:
        return cls(hidden_size=4096, num_layers=32, num_heads=32)

    @classmethod
    def of_13b(cls) -> Config:
        return cls(hidden_size=5140, num_layers=40, num_heads=40, head_size=128)

    @classmethod
    def of_175b(cls) -> Config:
        return cls(hidden_size=12288, num_layers=96, num_heads=96)


def body(c: Config) -> Decoder:
    return banded(c, head=c.head_size)


HEADS = {
    "GPT3Model": lambda c: Bare(),
    "GPT3LMHeadModel": next_word,
    "GPT3ForSequenceClassification": of_sequences,
    "GPT3ForTokenClassification": of_tokens,
    "GPT3ForQuestionAnswering": answers,
}

ARGUMENTS = {"GPT3ForSequenceClassification": lambda c, given: last_word(c.pad_token_id, given)}

KEYS = KeyMap("transformer", conv_rules(), tied={"lm_head.weight": "transformer.wte.weight"})

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
