"""Families that write: BART, UniLM, T5, GPT-3."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor, nn

from pkernels.models import Model

from .. import seq2seq, test_bart, test_gpt3, test_t5, test_unilm
from ..agreement import MASKS, WORDS, inputs, next_labels, token_labels
from .compare import (
    Agreement,
    Transformers,
    from_our_files,
    gradients_apart,
    outputs_apart,
    own_gradients,
    their_gradients,
)
from .encoders import HUGGING_FACE
from .family import Family
from .lessons import of_text

# BART and T5 ----------------------------------------------------------------------------------

_SIDES = seq2seq.MASKS["right"]
_LABELS = {"labels": seq2seq.labels_of(_SIDES[1])}
_WRITTEN = {"logits": _SIDES[1].bool(), "encoder_last_hidden_state": _SIDES[0].bool(), "loss": None}
_BART = Transformers(
    test_bart.GENERATION, test_bart.tiny(), {**seq2seq.given(_SIDES, 1), **_LABELS}, _WRITTEN, pair=seq2seq.pair
)
_T5 = Transformers(
    test_t5.GENERATION, test_t5.tiny(), {**seq2seq.given(_SIDES, 0), **_LABELS}, _WRITTEN, pair=seq2seq.pair
)

BART = Family(
    "BART",
    "encoder and decoder; dense, causal, crossing",
    "denoising: infilling, sentences permuted",
    "transformers",
    _BART,
    of_text("bart"),
    {HUGGING_FACE: _BART.files},
    measured="BART",
)
T5 = Family(
    "T5",
    "encoder and decoder; dense, causal, crossing; position buckets",
    "span corruption",
    "transformers",
    _T5,
    of_text("t5"),
    {HUGGING_FACE: _T5.files},
    measured="T5",
)

# UniLM ------------------------------------------------------------------------------------------


def _dense(folder: Path) -> Agreement:
    """The sequence-to-sequence mode, from a file that is made without pkernels."""
    oracle, ours = test_unilm.loaded(folder, "UniLMForPreTraining", "v1")
    mask = MASKS["right"]
    given, seen = test_unilm.batch(mask, "seq2seq")
    labels, real = token_labels(mask, WORDS), mask.bool()
    states = oracle.states(given["input_ids"], given["token_type_ids"], seen)
    words, related = oracle.words(states), oracle.linear("cls.seq_relationship", oracle.pooled(states))
    relation = torch.tensor([1, 0, 1])
    want = F.cross_entropy(words.flatten(0, 1), labels.flatten()) + F.cross_entropy(related, relation)
    out = ours(**given, labels=labels, next_sentence_label=relation)
    want.backward()
    out.loss.backward()
    found = [
        (out.prediction_logits[real], words[real]), (out.seq_relationship_logits, related), (out.loss, want),
    ]  # fmt: skip
    theirs = {name: x.grad for name, x in oracle.p.items() if x.grad is not None}
    return Agreement(outputs_apart(found), gradients_apart(own_gradients(ours), theirs))


UNILM = Family(
    "UniLM",
    "encoder; dense, causal either way, prefix",
    "masked LM in four modes, next sentence",
    "its equations",
    _dense,
    of_text("unilm", rows=12),
    {"the authors', split and fused": test_unilm.test_fused_files_load_and_are_saved_apart},
    measured="UniLM base",
)

# GPT-3 ------------------------------------------------------------------------------------------


def _conv(name: str) -> bool:
    return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def _as_gpt_neo(tensors: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """GPT-Neo's names, without biases of queries, keys and values; queries times ``share``."""
    found = {}
    for name, x in tensors.items():
        x = x.t() if _conv(name) else x
        if name.endswith(".c_attn.weight"):
            q, k, v = x.chunk(3)
            parts = {"q_proj": q * share, "k_proj": k, "v_proj": v}
            found |= {name.replace("c_attn", f"attention.{part}"): y for part, y in parts.items()}
        elif not name.endswith(".c_attn.bias"):
            found[name.replace("attn.c_proj", "attn.attention.out_proj")] = x
    return found


def _banded(folder: Path) -> Agreement:
    """Without biases it is GPT-Neo, but for the scale of the scores."""
    ours = from_our_files(_without_biases(test_gpt3.noisy(window_size=3)), folder)
    types = {"attention_types": [[["global", "local"], 1]], "window_size": 3}
    theirs = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**test_gpt3.TINY, **types)).eval()
    scale = ours.body.layers[0].attention.inner.heads
    share = (ours.config.hidden_size / ours.config.num_heads) ** -0.5
    report = theirs.load_state_dict(_as_gpt_neo(ours.named_tensors(), share), strict=False)
    assert report.missing_keys == ["lm_head.weight"] and not report.unexpected_keys, scale
    mask = MASKS["right"]
    given = {**inputs(mask, types=0), "labels": next_labels(mask)}
    want, got = (model(**given) for model in (theirs, ours))
    for out in (want, got):
        out.loss.backward()
    real = mask.bool()
    found = [(got.logits[real], want.logits[real]), (got.loss, want.loss)]
    gradients = _as_gpt_neo(own_gradients(ours), 1 / share)
    return Agreement(outputs_apart(found), gradients_apart(gradients, their_gradients(theirs)))


def _without_biases(model: Model) -> Model:
    for layer in model.body.layers:
        nn.init.zeros_(layer.attention.inner.qkv.bias)
    return model


def _as_gpt2(folder: Path) -> None:
    test_gpt3.test_without_bands_it_is_gpt2(folder)


GPT3 = Family(
    "GPT-3",
    "decoder; causal, every other layer banded",
    "causal LM",
    "transformers' GPT-Neo",
    _banded,
    of_text("gpt3"),
    {f"{HUGGING_FACE} (GPT-2's names)": _as_gpt2},
    measured="GPT-Neo",
)
