"""Calls of Longformer that say the same, are refused, or are traced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pkernels.models import build, from_pretrained

from .pairs import Exported, assert_close, fill_with_noise
from .test_longformer import GLOBALS, MASKS, config, inputs, questions


@pytest.mark.parametrize("architecture", ["LongformerModel", "LongformerForQuestionAnswering"])
@pytest.mark.parametrize("chosen", ["none", "leading", "scattered"])
def test_lengths_and_offsets_are_the_same_batch(architecture: str, chosen: str) -> None:
    model = build(architecture, config()).eval()
    fill_with_noise(model)
    ids = questions([3, 4, 22], [1, 2, 8], [9, 10, 15])
    real = ids != 1
    lengths, total = real.sum(1), int(real.sum())
    mask = GLOBALS[chosen]
    padded, packed = ({}, {}) if mask is None else ({"global_attention_mask": mask},) * 2
    if mask is not None:
        packed = {"global_attention_mask": mask[real][None]}
    name = "last_hidden_state" if architecture == "LongformerModel" else "start_logits"
    want = getattr(model(ids, real.long(), **padded), name)
    assert torch.equal(getattr(model(ids, lengths=lengths, **padded), name), want)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    got = getattr(model(ids[real][None], offsets=offsets, **packed), name)
    assert got.shape[1] == total
    assert_close(got[0], want[real], name)


def test_positions_are_the_same_as_a_mask() -> None:
    model = build("LongformerModel", config()).eval()
    fill_with_noise(model)
    given = inputs(MASKS["right"])
    want = model(**given, global_attention_mask=GLOBALS["scattered"]).last_hidden_state
    positions = torch.tensor([[22, 0, 8, 7], [22, -1, -1, -1], [12, 3, -1, 3]])
    assert torch.equal(model(**given, global_positions=positions).last_hidden_state, want)


def test_rows_without_tokens_stay_finite() -> None:
    model = build("LongformerModel", config()).eval()
    ids = torch.randint(3, 97, (2, 9))
    out = model(ids, lengths=torch.tensor([0, 5]), global_positions=torch.tensor([0, 3]))
    assert torch.isfinite(out.last_hidden_state).all()
    alone = model(ids[1:, :5], global_positions=torch.tensor([0, 3])).last_hidden_state
    assert_close(out.last_hidden_state[1:, :5], alone, "last_hidden_state")


def test_an_empty_batch_works() -> None:
    out = build("LongformerForMaskedLM", config())(torch.zeros(0, 4, dtype=torch.long), torch.ones(0, 4))
    assert out.logits.shape == (0, 4, 97)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 3]])}, "attention_mask: 0, 1, 2 are allowed, got .1, 3."),
        ({"attention_mask": torch.ones(2, 1)}, "attention_mask: a tensor of shape"),
        ({"global_attention_mask": torch.tensor([[0, 2]])}, "global_attention_mask: 0, 1 are allowed, got .0, 2."),
        ({"global_attention_mask": torch.ones(1, 3)}, r"global_attention_mask: a tensor of shape \(1, 2\)"),
        ({"global_attention_mask": [[0, 1]]}, "global_attention_mask: a tensor .* got list"),
        ({"global_positions": torch.tensor([2])}, "global_positions: -1 .none. to 1 is allowed, got .2."),
        ({"global_positions": torch.tensor([0.0])}, "global_positions: integers"),
        (
            {"global_positions": torch.tensor([0]), "global_attention_mask": torch.ones(1, 2)},
            "global_attention_mask, global_positions: one of them",
        ),
        ({"input_ids": torch.full((1, 39), 5)}, "at most 38 tokens"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    model = build("LongformerForMaskedLM", config())
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": torch.tensor([[4, 5]]), **arguments})


def test_tasks_name_what_they_miss() -> None:
    ids = torch.tensor([[4, 2, 5], [4, 5, 6]])
    with pytest.raises(ValueError, match="input_ids: a sep_token_id .2. in every text .* 1 of 2 texts have none"):
        build("LongformerForQuestionAnswering", config())(ids)
    with pytest.raises(ValueError, match="global_attention_mask: needed, as the config has no sep_token_id"):
        build("LongformerForQuestionAnswering", config(sep_token_id=None))(ids)
    model = build("LongformerForMultipleChoice", config())
    with pytest.raises(ValueError, match=r"input_ids: shape \(B, choices, S\) is allowed, got \(2, 3\)"):
        model(ids)
    with pytest.raises(ValueError, match=r"inputs_embeds: shape \(B, choices, S, width\) is allowed, got NoneType"):
        model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_window": 5}, "attention_window: an even number of at least 2 is allowed, got 5"),
        ({"attention_window": [4, 0]}, "attention_window: an even number of at least 2 is allowed, got 0"),
        ({"attention_window": [4]}, "attention_window: one number or a list of one for each of the 2 layers"),
        ({"attention_window": "4"}, r"attention_window: int or a list of \(int\) is allowed, got '4'"),
        ({"attention_window": [4, True]}, "attention_window: int or a list of"),
        ({"attention_dilation": 0}, "attention_dilation: a number of at least 1 is allowed"),
        ({"attention_dilation": [1, [1]]}, "attention_dilation: one number or a list of one for each of the 2 heads"),
        ({"attention_dilation": [1, [1, 1.5]]}, "attention_dilation: int or a list of"),
        ({"autoregressive": 1}, "autoregressive: bool is allowed, got 1"),
        ({"pad_token_id": 39}, "pad_token_id: one of"),
        ({"pad_token_id": None}, "pad_token_id: int is allowed, got None"),
        ({"is_decoder": True}, "is_decoder: False is supported"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    build("LongformerModel", config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert "config.json" in str(raised.value)


@pytest.mark.compiles
def test_compiles_in_one_graph() -> None:
    model = build("LongformerForSequenceClassification", config(num_hidden_layers=1, attention_window=4)).eval()
    fill_with_noise(model)
    given = inputs(MASKS["right"])
    ids, types, lengths = given["input_ids"], given["token_type_ids"], MASKS["right"].sum(1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(**given).logits
    assert_close(compiled(ids, token_type_ids=types, lengths=lengths).logits, want, "with lengths")
    assert_close(compiled(**given).logits, want, "with a mask")
    positions = torch.tensor([[22, 0, 8, 7], [22, -1, -1, -1], [12, 3, -1, 3]])
    want = model(**given, global_attention_mask=GLOBALS["scattered"])
    got = compiled(ids, token_type_ids=types, lengths=lengths, global_positions=positions)
    assert_close(got.logits, want.logits, "with positions")
    labels = torch.tensor([1, 0, 1])
    grads = []
    for run in (model, compiled):
        loss = run(ids, lengths=lengths, global_positions=positions, labels=labels).loss
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for mine, theirs in zip(*grads, strict=True):
        assert_close(mine, theirs, "gradient")


@pytest.mark.compiles
def test_a_mask_of_two_is_refused_while_tracing() -> None:
    torch._dynamo.reset()  # after many recompilations the call would be eager, which takes a 2
    model = build("LongformerModel", config(num_hidden_layers=1, attention_window=4))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = torch.randint(3, 97, (1, 9))
    with pytest.raises(RuntimeError, match="attention_mask: while tracing, 0 and 1 are allowed"):
        compiled(ids, torch.full_like(ids, 2))


@pytest.mark.compiles
def test_exports_with_a_dynamic_batch() -> None:
    c = config(num_hidden_layers=1, attention_window=4)
    model = Exported(build("LongformerForSequenceClassification", c).eval())
    batch, size = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("size", min=2, max=38)
    shapes = {"input_ids": {0: batch, 1: size}, "lengths": {0: batch}}
    given = (torch.randint(3, 97, (3, 7)), torch.tensor([7, 1, 4]))
    exported = torch.export.export(model, given, dynamic_shapes=shapes).module()
    given = (torch.randint(3, 97, (2, 9)), torch.tensor([9, 5]))
    assert_close(exported(*given).logits, model(*given).logits, "logits")
