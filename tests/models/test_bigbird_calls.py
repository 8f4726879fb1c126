"""Calls of BigBird that say the same, are refused, or are traced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pkernels.models import build, from_pretrained

from .pairs import assert_close, fill_with_noise
from .test_bigbird import MASKS, SIZE, config, inputs


@pytest.mark.parametrize("size", [20, SIZE])
def test_lengths_are_a_mask(size: int) -> None:
    model = build("BigBirdModel", config()).eval()
    mask = MASKS["right"][:, :size]
    ids = inputs(mask)["input_ids"]
    want = model(ids, mask).last_hidden_state
    assert torch.equal(model(ids, lengths=mask.sum(1)).last_hidden_state, want)
    real = mask.bool()
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
    packed = ids[real][None]
    if size == 20:
        assert_close(model(packed, offsets=offsets).last_hidden_state[0], want[real], "last_hidden_state")
    else:
        with pytest.raises(ValueError, match="offsets: sequences of at most 36 tokens.* got 46"):
            model(packed, offsets=offsets)


def test_rows_without_tokens_stay_finite() -> None:
    model = build("BigBirdModel", config()).eval()
    ids = inputs(MASKS["whole"])["input_ids"]
    out = model(ids[:2], lengths=torch.tensor([0, SIZE])).last_hidden_state
    assert torch.isfinite(out).all() and not out[0].any()
    assert_close(out[1:], model(ids[1:2]).last_hidden_state, "last_hidden_state")


def test_an_empty_batch_works() -> None:
    ids = torch.zeros(0, SIZE, dtype=torch.long)
    assert build("BigBirdForMaskedLM", config())(ids, torch.ones(0, SIZE)).logits.shape == (0, SIZE, 97)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 2]])}, "attention_mask: 1 .real. and 0 .padding. are allowed"),
        ({"input_ids": torch.full((1, 61), 5)}, "at most 60 tokens"),
        ({"token_type_ids": torch.tensor([[0, 2]])}, "token_type_ids: ids from 0 to 1"),
        ({"lengths": torch.tensor([3])}, "lengths: between 0 and 2"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    model = build("BigBirdForMaskedLM", config())
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": torch.tensor([[4, 5]]), **arguments})


def test_tasks_name_what_they_miss() -> None:
    ids = torch.tensor([[4, 2, 5], [4, 5, 6]])
    with pytest.raises(ValueError, match="question_lengths: needed, as the config has no sep_token_id"):
        build("BigBirdForQuestionAnswering", config(sep_token_id=None))(ids)
    with pytest.raises(ValueError, match="offsets: None is allowed"):
        build("BigBirdForQuestionAnswering", config())(ids[:1], offsets=torch.tensor([0, 3]))
    with pytest.raises(
        ValueError, match="question_lengths: integers of shape .2,. are allowed, got torch.int64 of shape .3,"
    ):
        build("BigBirdForQuestionAnswering", config())(ids, question_lengths=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": "simulated_sparse"}, "attention_type: one of block_sparse, original_full is allowed"),
        ({"plan": "mine"}, "plan: one of transformers, original is allowed, got 'mine'"),
        ({"num_random_blocks": -1}, "num_random_blocks: at least 0 is allowed, got -1"),
        ({"block_size": 0}, "block_size: at least 1 is allowed, got 0"),
        ({"hidden_size": 51}, "hidden_size: a multiple of num_attention_heads"),
        ({"is_decoder": True}, "is_decoder: False is supported, got True"),
        ({"add_cross_attention": True}, "add_cross_attention: False is supported"),
        ({"use_bias": 1}, "use_bias: bool is allowed, got 1"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    build("BigBirdModel", config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert "config.json" in str(raised.value)


@pytest.mark.compiles
@pytest.mark.parametrize("size", [20, SIZE])
def test_compiles_in_one_graph(size: int) -> None:
    torch._dynamo.reset()
    model = build("BigBirdForSequenceClassification", config(num_hidden_layers=1)).eval()
    fill_with_noise(model)
    mask = MASKS["right"][:, :size]
    given = inputs(mask)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    if size == SIZE:
        with pytest.raises(Exception, match=rf"before tracing, call model.body.blocks\({SIZE}\)"):
            compiled(**given)
    model.body.blocks(size)
    want = model(**given).logits
    assert_close(compiled(**given).logits, want, "with a mask")
    ids, types = given["input_ids"], given["token_type_ids"]
    assert_close(compiled(ids, token_type_ids=types, lengths=mask.sum(1)).logits, want, "with lengths")
    grads = []
    for run in (model, compiled):
        loss = run(ids, lengths=mask.sum(1), labels=torch.tensor([1, 0, 1])).loss
        loss.backward()
        grads.append([p.grad for p in model.body.parameters()])
        model.zero_grad()
    for mine, theirs in zip(*grads, strict=True):
        assert_close(mine, theirs, "gradient")
