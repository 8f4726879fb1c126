"""RoBERTa against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import build, from_pretrained, roberta

from . import agreement
from .agreement import MASKS, WORDS, count, inputs, labels_for, labels_number
from .pairs import assert_close, fill_with_noise, pair

# Two heads of 26: no multiple of anything.
TINY = {
    "vocab_size": WORDS,
    "hidden_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
}
KIND = {"padding": 1}


def tiny(**changes) -> transformers.RobertaConfig:
    return transformers.RobertaConfig(**TINY | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", roberta.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str, dtype: torch.dtype) -> None:
    config = tiny(num_labels=labels_number(architecture), hidden_act="relu" if padding == "left" else "gelu")
    mask = MASKS[padding]
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels_for(architecture, mask), dtype, **KIND)


@pytest.mark.parametrize("architecture", roberta.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    agreement.assert_transformers_loads(tmp_path, architecture, roberta.Config(**TINY, labels=labels), **KIND)


@pytest.mark.parametrize("padding", ["left", "holes"])
def test_positions_count_words_that_the_mask_hides(tmp_path: Path, padding: str) -> None:
    oracle, ours = pair(tmp_path, "RobertaModel", tiny())
    mask = MASKS[padding]
    given = inputs(mask, padding=5)
    want, got = oracle(**given), ours(**given)
    assert_close(got.last_hidden_state[mask.bool()], want.last_hidden_state[mask.bool()], "last_hidden_state")


def test_paddings_in_the_text_have_the_paddings_position(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "RobertaModel", tiny())
    ids = torch.tensor([[7, 1, 8, 9, 1], [1, 1, 5, 6, 7]])
    assert_close(ours(ids).last_hidden_state, oracle(ids).last_hidden_state, "last_hidden_state")


def test_position_ids_and_inputs_embeds_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "RobertaModel", tiny())
    mask = MASKS["right"]
    embeds = torch.randn(3, 7, 52)
    for given in ({}, {"position_ids": torch.arange(7).flip(0)[None] + 30}):
        given |= {"inputs_embeds": embeds, "attention_mask": mask}
        want, got = oracle(**given), ours(**given)
        assert_close(got.last_hidden_state[mask.bool()], want.last_hidden_state[mask.bool()], "last_hidden_state")


def test_the_table_of_positions_sets_the_limit() -> None:
    model = build("RobertaModel", roberta.Config(**TINY)).eval()
    assert model(torch.full((1, 38), 5)).last_hidden_state.shape == (1, 38, 52)
    with pytest.raises(ValueError, match="at most 38 tokens"):
        model(torch.full((1, 39), 5))


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("RobertaModel", roberta.Config(**TINY)).eval(), **KIND)


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    config = roberta.Config(**TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    agreement.assert_dropout_is_in_attention(build("RobertaModel", config), **KIND)


def test_old_files_with_copies_buffers_and_a_pooler_load(tmp_path: Path) -> None:
    oracle = transformers.RobertaForMaskedLM(tiny()).eval()
    fill_with_noise(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = dict(oracle.state_dict())
    assert "lm_head.decoder.weight" in tensors
    tensors["roberta.embeddings.position_ids"] = torch.arange(40)[None]
    tensors |= {"roberta.pooler.dense.weight": torch.ones(52, 52), "roberta.pooler.dense.bias": torch.ones(52)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.warns(UserWarning, match=r"no use for roberta\.pooler\.dense\.bias, [a-z.]*\.weight: left"):
        ours = from_pretrained(tmp_path, architecture="RobertaForMaskedLM")
    ids = torch.tensor([[0, 7, 8, 2]])
    assert_close(ours(ids).logits, oracle(ids).logits, "logits")


def test_a_head_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    transformers.RobertaForMaskedLM(tiny()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing: roberta\.pooler\.dense\.bias, roberta\.pooler\.dense\.weight"):
        from_pretrained(tmp_path, architecture="RobertaModel")


@pytest.mark.parametrize("architecture", ["RobertaForSequenceClassification", "RobertaForTokenClassification"])
def test_classifiers_have_a_dropout_of_their_own(architecture: str) -> None:
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    agreement.assert_head_drops(architecture, lambda p: roberta.Config(**TINY | without, classifier_dropout=p))


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    agreement.assert_traces(build("RobertaModel", roberta.Config(**TINY)).eval(), **KIND)


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("RobertaForMaskedLM", roberta.Config.base()) == 124_697_433
    assert count("RobertaForMaskedLM", roberta.Config.large()) == 355_412_057


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": 39}, "pad_token_id: one of"),
        ({"classifier_dropout": 1.0}, r"classifier_dropout: in \[0, 1\)"),
        ({"hidden_act": "geglu"}, "hidden_act: one of gelu"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roberta.Config(**TINY | changes)
