"""Calls and files of UNITER, and its sizes and errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pkernels.models import build, from_pretrained, uniter

from . import agreement
from .agreement import count
from .dense_joint import (
    FEATURES,
    SIZES,
    noise,
)
from .joint_cases import assert_masks_are_lengths, assert_saved
from .pairs import assert_close, fill_with_noise
from .test_uniter import IMAGE, TEXTS, inputs, loaded, shapes


def test_masks_and_lengths_are_the_same_batch_and_holes_are_left_out(tmp_path: Path) -> None:
    assert_masks_are_lengths(loaded(tmp_path, "UniterModel")[1], TEXTS, inputs(), 7)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    ours = build("UniterForPretraining", uniter.Config(**{**SIZES, "num_hidden_layers": 1}, itm_ot_lambda=0.0))
    fill_with_noise(ours.eval())
    given, targets = inputs(masked=True), {"matching_labels": torch.tensor([1, 0, 1])}
    targets["feature_targets"] = given["regions"]
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(compiled(**given, **targets).loss, ours(**given, **targets).loss, "loss")


@pytest.mark.parametrize("architecture", uniter.HEADS)
def test_saves_what_it_loads(tmp_path: Path, architecture: str) -> None:
    assert_saved(tmp_path, build(architecture, uniter.Config(**SIZES, itm_ot_lambda=0.2)).eval())


def test_tied_copies_in_files_are_held_to_their_originals(tmp_path: Path) -> None:
    loaded(tmp_path, "UniterForPretraining")
    tensors = noise(shapes(), "gamma")
    weight = tensors[f"{IMAGE}.img_linear.weight"]
    tensors["cls.predictions.decoder.weight"] = tensors["uniter.embeddings.word_embeddings.weight"].clone()
    save_file({**tensors, "feat_regress.weight": weight.clone()}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="has no use for"):
        from_pretrained(tmp_path)
    save_file({**tensors, "feat_regress.weight": weight + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="feat_regress.weight: must equal uniter.img_embeddings.img_linear.weight"):
        from_pretrained(tmp_path)


def test_dropout_is_in_attention_and_on_regions() -> None:
    sizes = {**SIZES, "vocab_size": agreement.WORDS}
    c = uniter.Config(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    agreement.assert_dropout_is_in_attention(build("UniterModel", c), types=0)
    model = build("UniterModel", uniter.Config(**SIZES, attention_probs_dropout_prob=0.0)).train()
    given, types = inputs(), model.body.embeddings.types.weight[1]
    embed = partial(model.body.regions, given["regions"], given["locations"], None, types)
    assert not torch.equal(embed(), embed()) and not torch.equal(model.eval() and embed(), 0 * embed())
    assert torch.equal(embed(), embed())


def test_halves_train_with_features_of_any_precision() -> None:
    model = build("UniterForPretraining", uniter.Config(**SIZES)).bfloat16().train()
    given = inputs(masked=True)
    targets = {"feature_targets": given["regions"], "matching_labels": torch.tensor([1, 0, 1])}
    loss = model(**given, **targets).loss
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(build("UniterForPretraining", uniter.Config(**SIZES))(**given, **targets).loss)


def test_positions_count_words_alone() -> None:
    model = build("UniterModel", uniter.Config(**SIZES)).eval()
    want = model(**inputs()).last_hidden_state
    places = torch.arange(7)[None].expand(3, 7)
    assert torch.equal(model(**inputs(), position_ids=places).last_hidden_state, want)
    assert not torch.equal(model(**inputs(), position_ids=places + 1).last_hidden_state, want)


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("UniterModel", uniter.Config.base()) == 109_898_752
    assert count("UniterModel", uniter.Config.large()) == 335_695_872


def test_locations() -> None:
    box = uniter.locations(torch.tensor([[10.0, 20.0, 30.0, 80.0]]), 100, 200)
    assert_close(box, torch.tensor([[0.1, 0.1, 0.3, 0.4, 0.2, 0.3, 0.06]]), "seven numbers")
    with pytest.raises(ValueError, match=r"boxes, width, height: .* got \(1, 5\), 10, 10"):
        uniter.locations(torch.zeros(1, 5), 10, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": torch.zeros(3, 6, 5)}, r"regions: shape \(3, 6, 19\) is allowed, got \(3, 6, 5\)"),
        ({"locations": torch.zeros(3, 6, 5)}, r"locations: shape \(3, 6, 7\) is allowed, got \(3, 6, 5\)"),
        ({"locations": None}, r"locations: .* got NoneType"),
        ({"region_lengths": torch.tensor([7, 1, 1])}, r"region_lengths: between 0 and 6 is allowed"),
        ({"masked_regions": torch.zeros(3, 6)}, r"masked_regions: booleans of shape \(3, 6\) are allowed"),
        ({"lengths": torch.tensor([0, 1, 1]), "region_lengths": torch.tensor([0, 1, 1])}, "at least one word or"),
        ({"input_ids": torch.ones(2, 7).long(), "lengths": None}, "one batch size is allowed, got 2 and 3"),
        ({"regions": None}, "locations: None is allowed without regions"),
        ({"input_ids": None}, "lengths: None is allowed without input_ids"),
        ({"feature_targets": torch.zeros(3, 6, 5)}, r"feature_targets: shape \(3, 6, 19\) is allowed"),
        ({"feature_targets": torch.zeros(3, 6, FEATURES)}, "masked_regions: needed by this task, got None"),
        ({"class_labels": torch.zeros(3, 5).long()}, r"class_labels: shape \(3, 6\) is allowed, got \(3, 5\)"),
        ({"matching_labels": torch.tensor([2, 0, 0])}, "matching_labels: -100 and 0 to 1 are allowed"),
    ],
)
def test_wrong_calls_are_named(changes: dict, message: str) -> None:
    given = {**inputs(), **changes}
    with pytest.raises(ValueError, match=message):
        build("UniterForPretraining", uniter.Config(**SIZES))(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type_vocab_size": 1}, "type_vocab_size: at least 2"),
        ({"itm_ot_lambda": -1.0}, "itm_ot_lambda: at least 0"),
        ({"image_class_size": 1}, "image_class_size: at least 2"),
        ({"image_embedding_size": 0}, "image_embedding_size: at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        uniter.Config(**changes)
