"""ALBERT against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pkernels.models import albert, build, from_pretrained

from . import agreement
from .agreement import MASKS, WORDS, count, inputs, labels_for, labels_number, token_labels
from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

# Two heads of 26, words of 11: no multiple of anything.
TINY = {
    "vocab_size": WORDS,
    "embedding_size": 11,
    "hidden_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
}


def tiny(**changes) -> transformers.AlbertConfig:
    return transformers.AlbertConfig(**TINY | changes)


def labels(architecture: str, mask: Tensor) -> dict[str, Tensor]:
    if architecture == "AlbertForPreTraining":
        order = torch.tensor([0, 1, 1])[: len(mask)]
        return {"labels": token_labels(mask, WORDS), "sentence_order_label": order}
    return labels_for(architecture, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", albert.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str, dtype: torch.dtype) -> None:
    config = tiny(num_labels=labels_number(architecture))
    mask = MASKS[padding]
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels(architecture, mask), dtype)


@pytest.mark.parametrize(("layers", "groups", "inner"), [(4, 2, 1), (3, 1, 2), (5, 2, 2), (3, 3, 1)])
def test_groups_of_layers_agree_with_transformers(tmp_path: Path, layers: int, groups: int, inner: int) -> None:
    sizes = {"num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
    oracle, ours = pair(tmp_path, "AlbertModel", tiny(**sizes))
    mask = MASKS["right"]
    want, got = (model(**inputs(mask), output_hidden_states=True) for model in (oracle, ours))
    assert len(got.hidden_states) == layers * inner + 1
    agreement.assert_outputs_agree(want, got, mask.bool())
    for out in (want, got):
        (out.last_hidden_state[mask.bool()].square().mean() + out.pooler_output.sum()).backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("architecture", albert.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    names = tuple(f"L{i}" for i in range(labels_number(architecture)))
    config = albert.Config(**TINY, labels=names, num_hidden_groups=2, inner_group_num=2)
    agreement.assert_transformers_loads(tmp_path, architecture, config)


def test_layers_share_their_parameters() -> None:
    one, many = (albert.Config(**TINY | {"num_hidden_layers": n}) for n in (1, 9))
    assert count("AlbertModel", one) == count("AlbertModel", many)
    model = build("AlbertModel", many).eval()
    shallow = build("AlbertModel", one).eval()
    shallow.load_state_dict(model.state_dict())
    ids = torch.tensor([[5, 6, 7]])
    states = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[1], shallow(ids).last_hidden_state)
    assert not torch.allclose(states[1], states[2])


def test_embeddings_given_have_their_own_width(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "AlbertModel", tiny())
    given = {"inputs_embeds": torch.randn(2, 5, 11), "position_ids": torch.arange(5).flip(0)[None] + 30}
    assert_close(ours(**given).last_hidden_state, oracle(**given).last_hidden_state, "last_hidden_state")
    with pytest.raises(ValueError, match=r"inputs_embeds: shape \(2, 5, 11\)"):
        ours(inputs_embeds=torch.randn(2, 5, 52))


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(
        build("AlbertModel", albert.Config(**TINY | {"num_hidden_layers": 2})).eval()
    )


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    config = albert.Config(**TINY, attention_probs_dropout_prob=0.5)
    agreement.assert_dropout_is_in_attention(build("AlbertModel", config))


def test_the_order_has_a_dropout_of_its_own() -> None:
    ids = torch.tensor([[5, 6, 7]])
    for dropout, differs in ((0.0, False), (0.5, True)):
        model = build("AlbertForPreTraining", albert.Config(**TINY, classifier_dropout_prob=dropout)).train()
        first, second = model(ids), model(ids)
        assert torch.equal(first.prediction_logits, second.prediction_logits)
        assert torch.equal(first.sop_logits, second.sop_logits) != differs


def test_a_pretraining_file_loads_as_masked_lm_and_the_rest_is_left_out(tmp_path: Path) -> None:
    oracle = transformers.AlbertForPreTraining(tiny()).eval()
    fill_with_noise(oracle)
    oracle.save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"albert\.pooler\.bias, albert\.pooler\.weight, sop_classifier.*: left"
    ) as seen:
        ours = from_pretrained(tmp_path, architecture="AlbertForMaskedLM")
    assert sum("has no use for" in str(warning.message) for warning in seen) == 1
    ids = torch.tensor([[2, 7, 8, 3]])
    assert_close(ours(ids).logits, oracle(ids).prediction_logits, "logits")


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    agreement.assert_traces(build("AlbertModel", albert.Config(**TINY)).eval())


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("AlbertForPreTraining", albert.Config.base()) == 11_813_810
    assert count("AlbertModel", albert.Config.base()) == 11_683_584
    assert count("AlbertModel", albert.Config.xxlarge()) == 222_595_584
    # Table 1: 18M and 60M.
    assert count("AlbertModel", albert.Config.large()) == 17_683_968
    assert count("AlbertModel", albert.Config.xlarge()) == 58_724_864


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentence_order_label": torch.tensor([2]), "labels": torch.tensor([[1, 2]])}, "sentence_order_label: -100"),
        ({"sentence_order_label": torch.tensor([0, 1])}, r"sentence_order_label: shape \(1,\)"),
    ],
)
def test_bad_labels_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("AlbertForPreTraining", albert.Config(**TINY))(torch.tensor([[1, 2]]), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_groups": 4}, r"num_hidden_groups: at most num_hidden_layers \(3\)"),
        ({"inner_group_num": 0}, "inner_group_num: at least 1"),
        ({"embedding_size": 0}, "embedding_size: at least 1"),
        ({"classifier_dropout_prob": 1.0}, r"classifier_dropout_prob: in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        albert.Config(**TINY | changes)
