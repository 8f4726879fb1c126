"""Long text."""

from __future__ import annotations

from typing import Any

from pkernels.models import Model

from .. import test_bigbird, test_longformer, test_reformer
from .compare import Transformers
from .encoders import HUGGING_FACE
from .family import Family
from .lessons import of_text

_SOME = test_longformer.MASKS["right"]
_GLOBALS = {"global_attention_mask": test_longformer.GLOBALS["scattered"] * _SOME}
_LONGFORMER = Transformers(
    "LongformerForMaskedLM",
    test_longformer.tiny(),
    {**test_longformer.inputs(_SOME), **_GLOBALS, "labels": test_bigbird.token_labels(_SOME, 97)},
    {"logits": _SOME.bool(), "loss": None},
)
_BLOCKS = test_bigbird.MASKS["right"]
_BIGBIRD = Transformers(
    "BigBirdForMaskedLM",
    test_bigbird.tiny(),
    {**test_bigbird.inputs(_BLOCKS), "labels": test_bigbird.token_labels(_BLOCKS, 97)},
    {"logits": _BLOCKS.bool(), "loss": None},
)
_IDS = test_reformer.words(test_reformer.SIZE)
_EVERY_OTHER = _IDS.clone()
_EVERY_OTHER[:, ::2] = -100


def _trains(oracle: Any, ours: Model) -> None:
    """Without dropout. transformers' backward wants it; and 5.23 leaves the bias of word scores out."""
    oracle.train()
    test_reformer.without_bias(ours.train())
    ours.head.words.bias.requires_grad_(False)


_REFORMER = Transformers(
    "ReformerForMaskedLM",
    test_reformer.tiny(),
    {"input_ids": _IDS, "labels": _EVERY_OTHER},
    {"logits": None, "loss": None},
    ready=_trains,
)

REFORMER = Family(
    "Reformer",
    "reversible layers, LSH buckets and chunks",
    "causal LM",
    "transformers",
    _REFORMER,
    of_text("reformer"),
    {HUGGING_FACE: _REFORMER.files},
    measured="Reformer",
)
LONGFORMER = Family(
    "Longformer",
    "encoder, windows and scattered globals",
    "masked LM",
    "transformers",
    _LONGFORMER,
    of_text("longformer"),
    {HUGGING_FACE: _LONGFORMER.files},
    measured="Longformer",
    # Only [CLS] is global, and nothing is predicted where it stands.
    idle=frozenset(
        f"body.layers.1.attention.inner.of_globals.{x}.{y}" for x in ("q", "kv") for y in ("weight", "bias")
    ),
)
BIGBIRD = Family(
    "BigBird",
    "encoder, block-sparse: window, globals, random",
    "masked LM",
    "transformers",
    _BIGBIRD,
    of_text("bigbird", length=128),
    {HUGGING_FACE: _BIGBIRD.files},
    measured="BigBird",
)
