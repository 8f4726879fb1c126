"""GPT-2 against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import build, from_pretrained, gpt2

from . import agreement
from .agreement import MASKS, WORDS, count, inputs, labels_for, labels_number
from .pairs import assert_close, fill_with_noise, pair

# Two heads of 13.
TINY = {"vocab_size": WORDS, "n_positions": 40, "n_embd": 26, "n_layer": 2, "n_head": 2, "n_inner": 37}
OWN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def tiny(**changes) -> transformers.GPT2Config:
    return transformers.GPT2Config(**TINY | OWN | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", gpt2.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str, dtype: torch.dtype) -> None:
    other = {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}
    config = tiny(num_labels=labels_number(architecture), **other if padding == "left" else {})
    mask = MASKS[padding]
    if architecture == "GPT2LMHeadModel" and dtype == torch.float64:
        pytest.skip("transformers' loss of the next word is float32's")
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels_for(architecture, mask), dtype)


@pytest.mark.parametrize("architecture", gpt2.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    agreement.assert_transformers_loads(tmp_path, architecture, gpt2.Config(**TINY, **OWN, labels=labels))


def test_position_ids_and_inputs_embeds_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "GPT2Model", tiny())
    mask = MASKS["right"]
    for given in ({}, {"position_ids": torch.arange(7).flip(0)[None] + 30}):
        given |= {"inputs_embeds": torch.randn(3, 7, 26), "attention_mask": mask}
        want, got = oracle(**given), ours(**given)
        assert_close(got.last_hidden_state[mask.bool()], want.last_hidden_state[mask.bool()], "last_hidden_state")


@pytest.mark.parametrize("masked", [True, False])
def test_classes_come_from_the_last_word_that_is_no_padding(tmp_path: Path, masked: bool) -> None:
    """Paddings within the text stay; where the text ends with one, or is one, too."""
    oracle, ours = pair(tmp_path, "GPT2ForSequenceClassification", tiny())
    ids = torch.tensor([[5, 0, 7, 8, 9], [5, 6, 7, 0, 0], [0, 5, 6, 0, 0], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    given = {"attention_mask": mask} if masked else {}
    assert_close(ours(ids, **given).logits, oracle(ids, **given).logits, "logits")


def test_packed_and_padded_texts_have_the_same_classes_and_losses() -> None:
    ids, mask = inputs(MASKS["right"])["input_ids"], MASKS["right"]
    offsets = torch.tensor([0, 7, 8, 12])
    flat = ids[mask.bool()][None]
    classifier = build("GPT2ForSequenceClassification", gpt2.Config(**TINY)).eval()
    assert_close(classifier(flat, offsets=offsets).logits, classifier(ids, attention_mask=mask).logits, "logits")
    model = build("GPT2LMHeadModel", gpt2.Config(**TINY)).eval()
    packed = model(flat, offsets=offsets, labels=flat)
    assert_close(packed.loss, model(ids, attention_mask=mask, labels=ids).loss, "loss")
    alone = [model(row[None, :n], labels=row[None, :n]).loss for row, n in zip(ids, (7, 1, 4), strict=True) if n > 1]
    assert_close(packed.loss, (6 * alone[0] + 3 * alone[1]) / 9, "loss")


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("GPT2Model", gpt2.Config(**TINY)).eval())


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    config = gpt2.Config(**TINY, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.5)
    agreement.assert_dropout_is_in_attention(build("GPT2Model", config))


@pytest.mark.parametrize("dropout", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_dropouts_are_at_work(dropout: str) -> None:
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    agreement.assert_head_drops("GPT2Model", lambda p: gpt2.Config(**TINY, **none | {dropout: p}))


def test_token_classifiers_have_a_dropout_of_their_own() -> None:
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    head = "GPT2ForTokenClassification"
    agreement.assert_head_drops(head, lambda p: gpt2.Config(**TINY, **none, classifier_dropout=p))


def test_old_files_with_copies_and_buffers_and_without_prefix_load(tmp_path: Path) -> None:
    oracle = transformers.GPT2LMHeadModel(tiny()).eval()
    fill_with_noise(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = {name.removeprefix("transformer."): x for name, x in oracle.state_dict().items()}
    assert "lm_head.weight" in tensors and "h.0.attn.c_attn.weight" in tensors
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 40, 40), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    ours = from_pretrained(tmp_path, architecture="GPT2LMHeadModel")
    ids = torch.tensor([[4, 7, 8, 2]])
    assert_close(ours(ids).logits, oracle(ids).logits, "logits")


def test_parameter_counts_of_table_2() -> None:
    """The table's own figures (117M, 345M, 762M, 1542M) leave some out; these are the published files'."""
    sizes = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}
    for name, parameters in sizes.items():
        assert count("GPT2LMHeadModel", getattr(gpt2.Config, name)()) == parameters


def test_new_weights_are_narrower_where_residual_layers_end() -> None:
    torch.manual_seed(0)
    model = build("GPT2Model", gpt2.Config(vocab_size=97, n_embd=96, n_layer=8, n_head=2))
    layer = model.body.layers[3]
    for module, std in ((layer.attention.inner.qkv, 0.02), (layer.attention.inner.out, 0.005)):
        assert abs(float(module.weight.detach().std()) / std - 1) < 0.05
    assert abs(float(layer.feed_forward.inner.down.weight.detach().std()) / 0.005 - 1) < 0.05
    assert not layer.attention.inner.qkv.bias.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 3}, "n_embd: a multiple of n_head"),
        ({"add_cross_attention": True}, "add_cross_attention: False is supported"),
        ({"n_layer": 0}, "n_layer: at least 1"),
        ({"attn_pdrop": 1.0}, "attn_pdrop: in"),
        ({"activation_function": "geglu"}, "activation_function: one of"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gpt2.Config.from_dict({**TINY, **changes})


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    agreement.assert_traces(build("GPT2Model", gpt2.Config(**TINY)).eval())
