"""DistilBERT against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import build, distilbert, from_pretrained

from . import agreement
from .agreement import MASKS, WORDS, count, labels_for, labels_number
from .pairs import assert_close, fill_with_noise, pair

# Two heads of 26: no multiple of anything.
TINY = {
    "vocab_size": WORDS,
    "dim": 52,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 37,
    "max_position_embeddings": 40,
}
KIND = {"types": 0}


def tiny(**changes) -> transformers.DistilBertConfig:
    return transformers.DistilBertConfig(**TINY | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", distilbert.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str, dtype: torch.dtype) -> None:
    config = tiny(num_labels=labels_number(architecture), activation="gelu" if padding == "right" else "relu")
    mask = MASKS[padding]
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels_for(architecture, mask), dtype, **KIND)


@pytest.mark.parametrize("architecture", distilbert.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    agreement.assert_transformers_loads(tmp_path, architecture, distilbert.Config(**TINY, labels=labels), **KIND)


def test_arguments_stand_in_transformers_order(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "DistilBertModel", tiny())
    mask, embeds, places = MASKS["right"], torch.randn(3, 7, 52), torch.arange(7).flip(0)[None] + 30
    want, got = (model(None, mask, embeds, position_ids=places) for model in (oracle, ours))
    assert_close(got.last_hidden_state[mask.bool()], want.last_hidden_state[mask.bool()], "last_hidden_state")
    assert torch.equal(ours(None, mask, embeds, places).last_hidden_state, got.last_hidden_state)


def test_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="token_type_ids: None is allowed: the model knows no segments"):
        build("DistilBertModel", distilbert.Config(**TINY))(
            torch.tensor([[1, 2]]), token_type_ids=torch.tensor([[0, 1]])
        )


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("DistilBertModel", distilbert.Config(**TINY)).eval(), **KIND)


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    model = build("DistilBertModel", distilbert.Config(**TINY, dropout=0.0, attention_dropout=0.5))
    agreement.assert_dropout_is_in_attention(model, **KIND)


@pytest.mark.parametrize(
    ("architecture", "dropout"),
    [
        ("DistilBertForQuestionAnswering", "qa_dropout"),
        ("DistilBertForSequenceClassification", "seq_classif_dropout"),
        ("DistilBertForMultipleChoice", "seq_classif_dropout"),
        ("DistilBertForTokenClassification", "dropout"),
    ],
)
def test_heads_have_dropouts_of_their_own(architecture: str, dropout: str) -> None:
    without = {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0, "seq_classif_dropout": 0.0}
    agreement.assert_head_drops(architecture, lambda p: distilbert.Config(**TINY | without | {dropout: p}))


def test_old_files_with_a_copy_of_the_words_load(tmp_path: Path) -> None:
    oracle = transformers.DistilBertForMaskedLM(tiny()).eval()
    fill_with_noise(oracle)
    oracle.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "vocab_projector.weight" in oracle.state_dict()
    torch.save(oracle.state_dict(), tmp_path / "pytorch_model.bin")
    ids = torch.tensor([[0, 7, 8, 2]])
    assert_close(from_pretrained(tmp_path)(ids).logits, oracle(ids).logits, "logits")
    with pytest.warns(UserWarning, match=r"DistilBertModel has no use for vocab_layer_norm\.bias, .*: left out"):
        bare = from_pretrained(tmp_path, architecture="DistilBertModel")
    assert_close(bare(ids).last_hidden_state, oracle.distilbert(ids).last_hidden_state, "last_hidden_state")


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    agreement.assert_traces(build("DistilBertModel", distilbert.Config(**TINY)).eval(), **KIND)


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("DistilBertForMaskedLM", distilbert.Config.base()) == 66_985_530
    assert count("DistilBertModel", distilbert.Config.base()) == 66_362_880


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 5}, r"dim: a multiple of n_heads \(5\)"),
        ({"n_layers": 0}, "n_layers: at least 1"),
        ({"qa_dropout": 1.0}, r"qa_dropout: in \[0, 1\)"),
        ({"activation": "geglu"}, "activation: one of gelu"),
        ({"problem_type": "ranking"}, "problem_type: one of None, single_label"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distilbert.Config(**TINY | changes)
