"""Longformer's tasks against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from .pairs import PROBLEMS, assert_close, assert_same_gradients, assert_same_head, backward, pair, token_labels
from .test_longformer import GLOBALS, MASKS, SIZE, inputs, questions, tiny

HEADS = {
    "LongformerForSequenceClassification": torch.tensor([4, 0, 2]),
    "LongformerForTokenClassification": token_labels(MASKS["right"], 5),
}


@pytest.mark.parametrize("chosen", ["none", "scattered"])
@pytest.mark.parametrize("architecture", HEADS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, chosen: str) -> None:
    """Without a mask, classes of a text make the first token global."""
    oracle, ours = pair(tmp_path, architecture, tiny(num_labels=5))
    mask = MASKS["right"]
    given = {**inputs(mask), "global_attention_mask": GLOBALS[chosen], "labels": HEADS[architecture]}
    assert_same_head(oracle, ours, given, mask)


@pytest.mark.parametrize(("problem", "labels"), PROBLEMS)
def test_classification_problems_agree_with_transformers(tmp_path: Path, problem: str, labels: Tensor) -> None:
    oracle, ours = pair(tmp_path, "LongformerForSequenceClassification", tiny(num_labels=5, problem_type=problem))
    given = inputs(MASKS["right"])
    assert_close(ours(**given, labels=labels).loss, oracle(**given, labels=labels).loss, "loss")


def test_question_answering_agrees_with_transformers(tmp_path: Path) -> None:
    """The question's tokens are global; rows of one length, for transformers' loss counts padding."""
    oracle, ours = pair(tmp_path, "LongformerForQuestionAnswering", tiny())
    ids = questions([3, 4, 22], [1, 2, 22], [9, 10, 22])
    places = {"start_positions": torch.tensor([5, 0, 99]), "end_positions": torch.tensor([7, 0, 20])}
    want, got = oracle(ids, **places), ours(ids, **places)
    assert_close(got.loss, want.loss, "loss")
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)
    ids = questions([3, 4, 22], [1, 2, 8], [9, 10, 15])
    mask = (ids != 1).long()
    for given in ({}, {"global_attention_mask": GLOBALS["scattered"]}):
        want, got = (model(ids, mask, **given) for model in (oracle, ours))
        for name in ("start_logits", "end_logits"):
            assert_close(getattr(got, name)[mask == 1], getattr(want, name)[mask == 1], name)
            assert (getattr(got, name)[mask == 0] == -torch.inf).all()


@pytest.mark.parametrize("padded", [False, True])
def test_multiple_choice_agrees_with_transformers(tmp_path: Path, padded: bool) -> None:
    """The answer's tokens are global."""
    oracle, ours = pair(tmp_path, "LongformerForMultipleChoice", tiny())
    rows = [[9, 10, 15], [3, 4, 22], [1, 2, 8], [9, 10, 18], [17, 18, 20], [5, 6, 7]]
    ids = questions(*rows).view(2, 3, SIZE) if padded else questions(*([*row[:2], 22] for row in rows)).view(2, 3, SIZE)
    given = {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "token_type_ids": torch.randint(2, ids.shape, generator=torch.Generator().manual_seed(6)),
        "labels": torch.tensor([2, 0]),
    }
    want, got = oracle(**given), ours(**given)
    assert got.logits.shape == (2, 3)
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)
