"""BERT and its kin at their published widths: batches of bytes, padded to 128 or 512 tokens.

BERT and RoBERTa have 6 of their 12 layers. With random weights the tokens grow alike from layer to
layer, and in the twelfth the true gradients of queries and keys are 1e-7 where float32 gives 1e-5
on both sides: there would be rounding to compare, nothing else.

MacBERT has no entry: it is BERT with Chinese words, and the words here are bytes.
"""

from __future__ import annotations

from typing import Any

import torch

from pkernels import prefix_lm
from pkernels.models import albert, bert, distilbert, electra, roberta, unilm
from pkernels.models.parts.config import BaseConfig

from .. import corpus
from .base import Encoder

ROWS = (1.0, 0.75, 0.5, 0.25)
"""A batch whose padding is three eighths of it."""
WORDS: dict[str, Any] = {"vocab_size": corpus.WORDS, "pad_token_id": corpus.PADDING}
BARE: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **WORDS}


def _bert(length: int, layers: int) -> BaseConfig:
    return bert.Config(num_hidden_layers=layers, **BARE)


def _roberta(length: int, layers: int) -> BaseConfig:
    return roberta.Config.base(num_hidden_layers=layers, **BARE)


def _albert(length: int, layers: int) -> BaseConfig:
    base: dict[str, Any] = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    return albert.Config(num_hidden_layers=layers, **base, **BARE)


def _electra(length: int, layers: int) -> BaseConfig:
    return electra.Config(num_hidden_layers=layers, **BARE)


def _distilbert(length: int, layers: int) -> BaseConfig:
    return distilbert.Config(n_layers=layers, dropout=0.0, attention_dropout=0.0, **WORDS)


def _tinybert(length: int, layers: int) -> BaseConfig:
    return bert.Config(hidden_size=312, intermediate_size=1200, num_hidden_layers=layers, **BARE)


def _unilm(length: int, layers: int) -> BaseConfig:
    return unilm.Config.base(num_hidden_layers=layers, **BARE)


def _prefix(length: int, device: str) -> dict[str, Any]:
    """Sequence to sequence: half of the text is the source."""
    return {"pattern": prefix_lm(length // 2)}


def _pairs(length: int, device: str) -> dict[str, Any]:
    """The same as a mask of pairs, (1, 1, S, S), which transformers' BERT takes as it is."""
    kept = torch.ones(length, length, device=device).tril().bool()
    kept[:, : length // 2] = True
    return {"attention_mask": kept[None, None]}


UNILM = Encoder(
    "UniLM base, sequence to sequence", "UniLMModel", _unilm, sizes=((128, 6), (512, 6)), arguments=_prefix,
    peer="BertModel", told=_pairs, rows=(1.0,) * 4,
)  # fmt: skip

_KIN = tuple(
    Encoder(name, architecture, config, sizes=((128, layers), (512, layers)), rows=ROWS)
    for name, architecture, config, layers in (
        ("BERT base", "BertModel", _bert, 6),
        ("RoBERTa base", "RobertaModel", _roberta, 6),
        ("ALBERT base", "AlbertModel", _albert, 12),
        ("ELECTRA small", "ElectraModel", _electra, 12),
        ("DistilBERT", "DistilBertModel", _distilbert, 6),
        ("TinyBERT4", "BertModel", _tinybert, 4),
    )
)
ENCODERS = (*_KIN, UNILM)
