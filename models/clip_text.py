"""The text tower of CLIP: Learning Transferable Visual Models From Natural Language Supervision
(Radford et al. 2021, arXiv:2103.00020).

Section 2.4: a Transformer with the changes of GPT-2 (Radford et al. 2019): norms before the
sublayers and one after the last layer; a token sees those before it alone, and learned positions
number up to 76. The state of the end of text stands for the text; ``clip.py`` projects it.

The end of text is the first token ``eos_token_id``; where that is 2, which is what transformers
wrote into the files of the first models by mistake, it is the token of the highest id.

Example:
    >>> import torch
    >>> from pkernels.models import build, clip_text
    >>> config = clip_text.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> model = build("CLIPTextModel", config)
    >>> model(torch.tensor([[49406, 320, 49407], [49406, 49407, 49407]])).pooler_output.shape
    torch.Size([2, 12])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import causal
from .parts.embeddings import Embeddings, inputs_layout
from .parts.heads import Bare, States
from .parts.keys import KeyMap, Same, Stacked
from .parts.model import Family
from .parts.outputs import TextEmbedding
from .parts.tower import Projection, TowerConfig, layer_rules, layers_of, start_tower

HIGHEST = 2
"""As ``eos_token_id``: the end of text is the highest id."""


@dataclass(frozen=True)
class Config(TowerConfig):
    """The defaults are transformers', and those of the text tower beside ViT-B/32.

    Args:
        eos_token_id: Of the end of text.
    """

    model_type: ClassVar[str] = "clip_text_model"

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("vocab_size", "max_position_embeddings")


@dataclass
class TextStates(States):
    """With the ids of the layout's tokens."""

    ids: Tensor | None = None


class Body(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(
            c.vocab_size, c.max_position_embeddings, 0, c.hidden_size, eps=None, dropout=0.0, padding=None
        )
        self.layers = layers_of(c, causal)
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> TextStates:
        """``input_ids (B, S)``, padded texts with ``attention_mask (B, S)`` or ``lengths (B,)``,
        packed ones ``(1, total)`` with ``offsets (n + 1,)``."""
        layout = inputs_layout(input_ids, None, attention_mask, lengths, offsets)
        x = self.embeddings(layout, input_ids, None, position_ids, None)
        x, states = self.layers(x, layout, keep=output_hidden_states)
        ids = layout.pack(input_ids)
        return TextStates(self.norm(x), layout, self.embeddings.words.weight, states, ids)


class EndOfText(nn.Module):
    """The state of the end of text, one vector per text."""

    def __init__(self, eos: int) -> None:
        super().__init__()
        self.eos = eos

    def forward(self, states: TextStates) -> Tensor:
        ids: Any = states.ids
        hits = ids == (states.layout.highest(ids) if self.eos == HIGHEST else self.eos)
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            found = states.layout.first(states.layout.highest(hits.int())) > 0
            if not bool(found.all()):
                place = int((~found).nonzero()[0])
                raise ValueError(f"input_ids: texts with eos_token_id ({self.eos}) are allowed, text {place} has none")
        return states.layout.at_first(states.last, hits)


def projection(c: Config, shared: int) -> Projection:
    """Of texts, to vectors of ``shared`` numbers."""
    return Projection(EndOfText(c.eos_token_id), c.hidden_size, shared)


class Projected(nn.Module):
    """The text's vector, and the states it comes from."""

    targets = ()

    def __init__(self, text: Projection) -> None:
        super().__init__()
        self.text = text

    def forward(self, states: TextStates) -> TextEmbedding:
        return TextEmbedding(self.text(states), states.layout.unpack(states.last), states.hidden_states)


HEADS = {
    "CLIPTextModel": lambda c: Bare(EndOfText(c.eos_token_id)),
    "CLIPTextModelWithProjection": lambda c: Projected(projection(c, c.projection_dim)),
}


def rules(ours: str) -> dict[str, Same | Stacked]:
    """transformers' names for this tower, which is ``ours`` here."""
    return {
        f"{ours}.embeddings.words": Same("text_model.embeddings.token_embedding"),
        f"{ours}.embeddings.positions": Same("text_model.embeddings.position_embedding"),
        **layer_rules(ours, "text_model"),
        f"{ours}.norm": Same("text_model.final_layer_norm"),
        "head.text.project": Same("text_projection"),
    }


def start(model: nn.Module, c: Config) -> None:
    """Initial weights (openai/CLIP, ``initialize_parameters``)."""
    start_tower(model, c.initializer_factor)
    for module in model.modules():
        if isinstance(module, Body):
            nn.init.normal_(module.embeddings.words.weight, std=0.02 * c.initializer_factor)
            nn.init.normal_(module.embeddings.positions.weight, std=0.01 * c.initializer_factor)


KEYS = KeyMap(
    prefix="text_model",
    rules=rules("body"),
    # Buffers; and, where the directory is CLIP's, what the images' tower and the pair have.
    ignored=(r"embeddings\.position_ids$", r"^vision_model\.", r"^visual_projection\.", r"^logit_scale$"),
)

FAMILY = Family(Config, Body, HEADS, KEYS, start)
