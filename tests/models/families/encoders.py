"""BERT and its kin, and their students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from pkernels.models import Encoder, bert

from .. import pairs, test_albert, test_bert, test_distilbert, test_electra, test_roberta
from ..agreement import MASKS, WORDS, inputs, token_labels
from ..pairs import assert_close
from .compare import Fields, Transformers
from .family import Family
from .lessons import of_a_teacher, of_text

MASK = MASKS["right"]
REAL = MASK.bool()
HUGGING_FACE = "Hugging Face"
CLOZE: Mapping[str, Tensor] = {"labels": token_labels(MASK, WORDS)}
RELATED = torch.tensor([1, 0, 1])


def beside(architecture: str, config: Any, labels: Mapping[str, Tensor], fields: Fields, **kind: int) -> Transformers:
    """On ragged rows."""
    return Transformers(architecture, config, {**inputs(MASK, **kind), **labels}, fields)


def _of_states(out: Any) -> Tensor:
    """A loss of a model without a task; padding plays no part."""
    states = out.last_hidden_state[REAL] * torch.linspace(-1, 1, out.last_hidden_state.shape[-1])
    return states.sum(-1).square().mean() + out.pooler_output.sum()


def minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2's sentences are transformers'."""
    weights = pairs.minilm()
    texts = [text for text, _ in zip(pairs.paragraphs(), range(4), strict=False)]
    ours = Encoder.from_pretrained(weights)
    theirs = transformers.BertModel.from_pretrained(weights).eval()
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_file=str(weights / "tokenizer.json"), pad_token="[PAD]")
    given = tokens(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = theirs(given["input_ids"], given["attention_mask"]).last_hidden_state
    weight = given["attention_mask"][..., None]
    mean = (states * weight).sum(1) / weight.sum(1)
    assert_close(torch.as_tensor(ours.encode(texts)), mean / mean.norm(dim=1, keepdim=True), "sentences")


_PAIRS: Fields = {"prediction_logits": REAL, "seq_relationship_logits": None, "loss": None}
_BERT = beside("BertForPreTraining", test_bert.tiny(), {**CLOZE, "next_sentence_label": RELATED}, _PAIRS)
_CHINESE = bert.Config.macbert().to_dict() | {**test_bert.TINY, "architectures": None}
_MACBERT = beside(
    "BertForPreTraining", transformers.BertConfig(**_CHINESE), {**CLOZE, "next_sentence_label": RELATED}, _PAIRS
)
_WORDS: Fields = {"logits": REAL, "loss": None}
_ROBERTA = beside("RobertaForMaskedLM", test_roberta.tiny(), CLOZE, _WORDS, padding=1)
_ALBERT = beside(
    "AlbertForPreTraining", test_albert.tiny(), {**CLOZE, "sentence_order_label": RELATED},
    {"prediction_logits": REAL, "sop_logits": None, "loss": None},
)  # fmt: skip
_ELECTRA = beside("ElectraForPreTraining", test_electra.tiny(), {"labels": test_electra.replaced(MASK)}, _WORDS)
_DISTILBERT = beside("DistilBertForMaskedLM", test_distilbert.tiny(), CLOZE, _WORDS, types=0)
# TinyBERT4's heads of 26.
_NARROW = test_bert.tiny(hidden_size=52, num_attention_heads=2, num_hidden_layers=4)
_TINYBERT = Transformers(
    "BertModel", _NARROW, inputs(MASK), {"last_hidden_state": REAL, "pooler_output": None}, loss=_of_states
)

BERT = Family(
    "BERT",
    "encoder, dense",
    "masked LM, next sentence",
    "transformers",
    _BERT,
    of_text("bert"),
    {HUGGING_FACE: _BERT.files},
    {"all-MiniLM-L6-v2": minilm},
    measured="BERT base",
)
ROBERTA = Family(
    "RoBERTa",
    "encoder, dense",
    "masked LM, masks drawn anew",
    "transformers",
    _ROBERTA,
    of_text("roberta"),
    {HUGGING_FACE: _ROBERTA.files},
    measured="RoBERTa base",
)
ALBERT = Family(
    "ALBERT",
    "encoder, dense; layers share weights",
    "masked n-grams, sentence order",
    "transformers",
    _ALBERT,
    of_text("albert"),
    {HUGGING_FACE: _ALBERT.files},
    measured="ALBERT base",
)
ELECTRA = Family(
    "ELECTRA",
    "two encoders, dense: generator, discriminator",
    "replaced token detection",
    "transformers",
    _ELECTRA,
    of_text("electra"),
    {HUGGING_FACE: _ELECTRA.files},
    measured="ELECTRA small",
)
MACBERT = Family(
    "MacBERT",
    "encoder, dense (BERT's)",
    "similar words as masks, sentence order",
    "transformers",
    _MACBERT,
    of_text("macbert"),
    {HUGGING_FACE: _MACBERT.files},
    measured="BERT base",
)
DISTILBERT = Family(
    "DistilBERT",
    "encoder, dense; half the layers",
    "distillation: soft targets, states; masked LM",
    "transformers",
    _DISTILBERT,
    of_a_teacher("distilbert"),
    {HUGGING_FACE: _DISTILBERT.files},
    measured="DistilBERT",
)
TINYBERT = Family(
    "TinyBERT",
    "encoder, dense; heads of 26",
    "distillation: embeddings, states, scores of attention",
    "transformers",
    _TINYBERT,
    of_a_teacher("tinybert"),
    {HUGGING_FACE: _TINYBERT.files},
    measured="TinyBERT4",
)
