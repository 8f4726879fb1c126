"""BigBird's tasks against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from .pairs import PROBLEMS, assert_close, assert_same_gradients, assert_same_head, backward, pair, token_labels
from .test_bigbird import MASKS, SIZE, TINY, inputs, questions, tiny

HEADS = {
    "BigBirdForMaskedLM": token_labels(MASKS["right"], TINY["vocab_size"]),
    "BigBirdForSequenceClassification": torch.tensor([4, 0, 2]),
    "BigBirdForTokenClassification": token_labels(MASKS["right"], 5),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("architecture", HEADS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, training: bool) -> None:
    oracle, ours = (model.train(training) for model in pair(tmp_path, architecture, tiny(num_labels=5)))
    mask = MASKS["right"]
    assert_same_head(oracle, ours, {**inputs(mask), "labels": HEADS[architecture]}, mask)


@pytest.mark.parametrize(("problem", "labels"), PROBLEMS)
def test_classification_problems_agree_with_transformers(tmp_path: Path, problem: str, labels: Tensor) -> None:
    oracle, ours = pair(tmp_path, "BigBirdForSequenceClassification", tiny(num_labels=5, problem_type=problem))
    given = inputs(MASKS["right"])
    assert_close(ours(**given, labels=labels).loss, oracle(**given, labels=labels).loss, "loss")


@pytest.mark.parametrize("given", [{}, {"question_lengths": torch.tensor([[3], [1], [20]])}, {"token_type_ids": None}])
def test_question_answering_agrees_with_transformers(tmp_path: Path, given: dict) -> None:
    """No answer lies in the question; rows of one length, for transformers' loss counts padding."""
    oracle, ours = pair(tmp_path, "BigBirdForQuestionAnswering", tiny())
    ids = questions(5, 1, 12)
    if "token_type_ids" in given:
        given = {"token_type_ids": torch.randint(2, ids.shape)}
    given = {"input_ids": ids, **given}
    places = {"start_positions": torch.tensor([9, 0, 99]), "end_positions": torch.tensor([11, 0, 40])}
    want, got = (model(**given, **places) for model in (oracle, ours))
    for name in ("loss", "start_logits", "end_logits"):
        assert_close(getattr(got, name), getattr(want, name), name)
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)
    mask = MASKS["right"]
    want, got = (model(**given, attention_mask=mask) for model in (oracle, ours))
    for name in ("start_logits", "end_logits"):
        assert_close(getattr(got, name)[mask == 1], getattr(want, name)[mask == 1], name)
        assert (getattr(got, name)[mask == 0] == -torch.inf).all()


def test_questions_without_ids_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "BigBirdForQuestionAnswering", tiny())
    embeds = torch.randn(3, SIZE, 52)
    for given in (
        {"token_type_ids": torch.zeros(3, SIZE, dtype=torch.long)},
        {"question_lengths": torch.tensor([[7]] * 3)},
    ):
        want, got = (model(inputs_embeds=embeds, **given) for model in (oracle, ours))
        assert_close(got.start_logits, want.start_logits, "start_logits")


def test_multiple_choice_agrees_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "BigBirdForMultipleChoice", tiny())
    draw = torch.Generator().manual_seed(6)
    given = {
        "input_ids": torch.randint(1, 97, (2, 3, SIZE), generator=draw),
        "attention_mask": torch.cat([MASKS["right"], MASKS["left"]]).view(2, 3, SIZE),
        "token_type_ids": torch.randint(2, (2, 3, SIZE), generator=draw),
        "labels": torch.tensor([2, 0]),
    }
    want, got = oracle(**given), ours(**given)
    assert got.logits.shape == (2, 3)
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)
