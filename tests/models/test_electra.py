"""ELECTRA's two models against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pkernels.models import build, electra, from_pretrained

from . import agreement
from .agreement import MASKS, WORDS, count, inputs, labels_for, labels_number
from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

# Two heads of 26, words of 11: no multiple of anything.
TINY = {
    "vocab_size": WORDS,
    "embedding_size": 11,
    "hidden_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
}


def tiny(**changes) -> transformers.ElectraConfig:
    return transformers.ElectraConfig(**TINY | changes)


def replaced(mask: Tensor) -> Tensor:
    return torch.randint(2, mask.shape, generator=torch.Generator().manual_seed(3))


def labels(architecture: str, mask: Tensor) -> dict[str, Tensor]:
    if architecture == "ElectraForPreTraining":
        return {"labels": replaced(mask)}
    return labels_for(architecture, mask)


# Less one, for which there is a test of its own.
HEADS = [(name, dtype) for name in electra.HEADS for dtype in (torch.float32, torch.float64)]
HEADS.remove(("ElectraForPreTraining", torch.float64))


@pytest.mark.parametrize("width", [11, 52])
@pytest.mark.parametrize(("architecture", "dtype"), HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(
    tmp_path: Path, architecture: str, padding: str, width: int, dtype: torch.dtype
) -> None:
    act = "relu" if padding == "left" else "gelu"
    config = tiny(num_labels=labels_number(architecture), embedding_size=width, hidden_act=act)
    mask = MASKS[padding]
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels(architecture, mask), dtype)


@pytest.mark.parametrize("width", [11, 52])
@pytest.mark.parametrize("architecture", electra.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str, width: int) -> None:
    names = tuple(f"L{i}" for i in range(labels_number(architecture)))
    config = electra.Config(**TINY | {"embedding_size": width}, labels=names)
    agreement.assert_transformers_loads(tmp_path, architecture, config)


@pytest.mark.parametrize("padding", MASKS)
def test_replaced_tokens_agree_in_double(tmp_path: Path, padding: str) -> None:
    """Some of them have no label. transformers' own loss takes labels in float32; its gradient is no better."""
    oracle, ours = pair(tmp_path, "ElectraForPreTraining", tiny(), torch.float64)
    given = inputs(MASKS[padding])
    labels = replaced(MASKS[padding])
    counted = given["attention_mask"].bool()
    counted[:, 3] = False
    logits = oracle(**given).logits[counted]
    want = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[counted].double())
    got = ours(**given, labels=labels.masked_fill(~counted & given["attention_mask"].bool(), -100))
    assert_close(got.loss, want, "loss")
    for loss in (want, got.loss):
        loss.backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([[0, 2]]), "labels: -100 and 0 to 1 are allowed, got 0 to 2"),
        (torch.tensor([0]), r"labels: shape \(1, 2\) is allowed, got \(1,\)"),
    ],
)
def test_bad_labels_are_named(given: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("ElectraForPreTraining", electra.Config(**TINY))(torch.tensor([[1, 2]]), labels=given)


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("ElectraModel", electra.Config(**TINY)).eval())


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    config = electra.Config(**TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    agreement.assert_dropout_is_in_attention(build("ElectraModel", config))


@pytest.mark.parametrize(
    ("architecture", "dropout"),
    [
        ("ElectraForMultipleChoice", "summary_last_dropout"),
        ("ElectraForSequenceClassification", "classifier_dropout"),
        ("ElectraForTokenClassification", "classifier_dropout"),
    ],
)
def test_heads_have_dropouts_of_their_own(architecture: str, dropout: str) -> None:
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "summary_last_dropout": 0.0}
    agreement.assert_head_drops(architecture, lambda p: electra.Config(**TINY | without | {dropout: p}))


@pytest.mark.parametrize("trained", ["ElectraForPreTraining", "ElectraForMaskedLM"])
def test_either_model_loads_as_a_bare_one(tmp_path: Path, trained: str) -> None:
    oracle = getattr(transformers, trained)(tiny()).eval()
    fill_with_noise(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = dict(oracle.state_dict())
    tensors["electra.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.warns(
        UserWarning, match=r"ElectraModel has no use for (discriminator_predictions|generator_lm_head).*: left out"
    ):
        ours = from_pretrained(tmp_path, architecture="ElectraModel")
    ids = torch.tensor([[2, 7, 8, 3]])
    assert_close(ours(ids).last_hidden_state, oracle.electra(ids).last_hidden_state, "last_hidden_state")
    other = "ElectraForMaskedLM" if trained == "ElectraForPreTraining" else "ElectraForPreTraining"
    with pytest.raises(ValueError, match=r"missing: (generator|discriminator)_"):
        from_pretrained(tmp_path, architecture=other)


def test_generators_share_the_discriminators_embeddings() -> None:
    for config, fraction, heads in ((electra.Config.small(), 1 / 4, 1), (electra.Config.large(), 1 / 4, 4)):
        generator = config.generator(fraction)
        assert generator.embedding_size == config.embedding_size
        assert generator.num_hidden_layers == config.num_hidden_layers
        assert generator.num_attention_heads == heads
        assert generator.hidden_size == config.hidden_size * fraction
        assert generator.intermediate_size == config.intermediate_size * fraction
    assert electra.Config.small().generator(1 / 16).num_attention_heads == 1
    with pytest.raises(ValueError, match=r"fraction: in \(0, 1\]"):
        electra.Config.small().generator(0)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    agreement.assert_traces(build("ElectraModel", electra.Config(**TINY)).eval())


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("ElectraForPreTraining", electra.Config.small()) == 13_549_057
    assert count("ElectraForPreTraining", electra.Config.base()) == 109_483_009
    assert count("ElectraForPreTraining", electra.Config.large()) == 335_142_913
    assert count("ElectraForMaskedLM", electra.Config.base().generator(1 / 3)) == 33_740_602
    assert count("ElectraForMaskedLM", electra.Config.small().generator(1 / 4)) == 4_620_026


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summary_type": "last"}, "summary_type: 'first' is supported, got 'last'"),
        ({"summary_use_proj": False}, "summary_use_proj: True is supported"),
        ({"is_decoder": True}, "is_decoder: False is supported"),
        ({"embedding_size": 0}, "embedding_size: at least 1"),
    ],
)
def test_settings_that_are_not_supported_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        electra.Config.from_dict(TINY | changes)
