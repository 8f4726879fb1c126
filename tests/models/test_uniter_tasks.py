"""UNITER's tasks against their equations in plain torch, one row at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor

from pkernels.models import Model, build, from_pretrained, uniter

from .dense_joint import FEATURES, HEADS, SIZES, WIDTH, WORDS, Shapes, noise
from .pairs import assert_close, fill_with_noise
from .test_uniter import Oracle, assert_gradients, shapes

TYPES = "uniter.embeddings.token_type_embeddings.weight"
TEXTS, PICTURES = [7, 3, 5, 4], [4, 6, 1, 2]
HEADS_OF: dict[str, Shapes] = {
    "UniterForImageTextRetrieval": {"rank_output": (1, WIDTH)},
    "UniterForReferringExpressionComprehension": {"re_output": (1, WIDTH)},
    "UniterForNlvr2Triplet": {"nlvr2_output": (2, WIDTH)},
    "UniterForNlvr2Paired": {"nlvr2_output": (2, 2 * WIDTH)},
    "UniterForNlvr2PairedAttn": {
        "nlvr2_output": (2, 2 * WIDTH),
        "fc.0": (WIDTH, 2 * WIDTH),
        "attn_pool.fc.0": (1, WIDTH),
        **{f"attn{i}.out_proj": (WIDTH, WIDTH) for i in (1, 2)},
    },
}


def loaded(folder: Path, architecture: str) -> tuple[Oracle, Model]:
    """Both from one file, under the authors' names, with a type for a second picture."""
    found = {**shapes(), TYPES: (3, WIDTH)}
    for name, shape in HEADS_OF[architecture].items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if architecture.endswith("Attn"):
        for i in (1, 2):
            found |= {f"attn{i}.in_proj_weight": (3 * WIDTH, WIDTH), f"attn{i}.in_proj_bias": (3 * WIDTH,)}
    tensors = noise(found, "gamma")
    values = {"model_type": "uniter", "architectures": [architecture], **SIZES, "type_vocab_size": 3}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="has no use for"):
        return Oracle(tensors), from_pretrained(folder)


def inputs(rows: int = 4, **changes: Any) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    given = {
        "input_ids": torch.randint(1, WORDS, (rows, 7), generator=draw),
        "lengths": torch.tensor(TEXTS[:rows]),
        "regions": torch.randn(rows, 6, FEATURES, generator=draw),
        "locations": torch.rand(rows, 6, 7, generator=draw),
        "region_lengths": torch.tensor(PICTURES[:rows]),
        "region_types": torch.randint(1, 3, (rows, 6), generator=draw),
    }
    return {**given, **changes}


def test_retrieval(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForImageTextRetrieval")
    scores = oracle.linear("rank_output", oracle.pooled(oracle.states(inputs())))
    assert_close(ours(**inputs()).logits, scores, "scores")
    likely = scores.sigmoid()
    # Two groups of two: rows 0 and 2 are those that belong together.
    want = (F.relu(0.2 + likely[1] - likely[0]) + F.relu(0.2 + likely[3] - likely[2])).sum() / 2
    assert float(want.detach()) > 0
    assert_gradients(oracle, ours, (want, ours(**inputs(), candidates=2).loss))
    want = F.relu(0.2 + likely[1:, 0] - likely[0, 0]).mean()
    assert_close(ours(**inputs(), candidates=4).loss, want, "one group")
    for wrong in (1, 3):
        with pytest.raises(ValueError, match=f"candidates: 2 or more, of which the 4 rows .* got {wrong}"):
            ours(**inputs(), candidates=wrong)


def test_expressions(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForReferringExpressionComprehension")
    scores = [oracle.linear("re_output", x)[:, 0] for _, x in oracle.states(inputs())]
    got, labels = ours(**inputs()).logits, torch.tensor([3, 0, 0, 1])
    for row, want in enumerate(scores):
        assert_close(got[row, : len(want)], want, "scores")
        assert (got[row, len(want) :] == float("-inf")).all()
    want = -torch.stack([x.log_softmax(0)[i] for x, i in zip(scores, labels, strict=True)]).mean()
    assert_gradients(oracle, ours, (want, ours(**inputs(), labels=labels).loss))


def test_statements_about_two_pictures_in_a_row(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForNlvr2Triplet")
    logits, labels = oracle.linear("nlvr2_output", oracle.pooled(oracle.states(inputs()))), torch.tensor([0, 1, 1, 0])
    assert_close(ours(**inputs()).logits, logits, "logits")
    assert_gradients(oracle, ours, (F.cross_entropy(logits, labels), ours(**inputs(), labels=labels).loss))


def test_statements_about_pairs_of_rows(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForNlvr2Paired")
    x, labels = oracle.pooled(oracle.states(inputs())), torch.tensor([0, 1])
    logits = oracle.linear("nlvr2_output", torch.stack([torch.cat([x[0], x[1]]), torch.cat([x[2], x[3]])]))
    assert_close(ours(**inputs()).logits, logits, "logits")
    assert_gradients(oracle, ours, (F.cross_entropy(logits, labels), ours(**inputs(), labels=labels).loss))
    with pytest.raises(ValueError, match="an even number of rows, two for each statement, is allowed, got 3"):
        ours(**inputs(3))


class Looking:
    """The authors' attention over rows without padding."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.p = oracle, oracle.p

    def across(self, name: str, x: Tensor, other: Tensor) -> Tensor:
        weight, bias = self.p[f"{name}.in_proj_weight"], self.p[f"{name}.in_proj_bias"]
        parts = [y @ w.T + b for y, w, b in zip((x, other, other), weight.chunk(3), bias.chunk(3), strict=True)]
        q, k, v = (y.unflatten(1, (HEADS, -1)).transpose(0, 1) for y in parts)
        scores = q @ k.mT / (WIDTH // HEADS) ** 0.5
        return self.oracle.linear(f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(0, 1).flatten(1))

    def pooled(self, name: str, x: Tensor, other: Tensor) -> Tensor:
        both = F.relu(self.oracle.linear("fc.0", torch.cat([self.across(name, x, other), x], 1)))
        return F.relu(self.oracle.linear("attn_pool.fc.0", both))[:, 0].softmax(0) @ both


@pytest.mark.parametrize("full", [False, True])
def test_rows_look_at_each_other(tmp_path: Path, full: bool) -> None:
    oracle, ours = loaded(tmp_path, "UniterForNlvr2PairedAttn")
    lengths = {"lengths": torch.full((4,), 7), "region_lengths": torch.full((4,), 6)} if full else {}
    given, labels, look = inputs(**lengths), torch.tensor([1, 0]), Looking(oracle)
    rows = [torch.cat(parts) for parts in oracle.states(given)]
    pairs = [(look.pooled("attn1", x, y), look.pooled("attn2", y, x)) for x, y in (rows[:2], rows[2:])]
    logits = oracle.linear("nlvr2_output", torch.stack([torch.cat(pair) for pair in pairs]))
    if full:  # without padding rows are whole
        given = {name: x for name, x in given.items() if "lengths" not in name}
    assert_close(ours(**given).logits, logits, "logits")
    assert_gradients(oracle, ours, (F.cross_entropy(logits, labels), ours(**given, labels=labels).loss))
    with pytest.raises(ValueError, match="an even number of rows"):
        ours(**inputs(3))


def test_rows_look_at_each_other_in_one_graph(tmp_path: Path) -> None:
    _, ours = loaded(tmp_path, "UniterForNlvr2PairedAttn")
    traced = torch.compile(ours, backend="eager", fullgraph=True)
    assert_close(traced(**inputs()).logits, ours(**inputs()).logits, "logits")


def test_attention_to_the_other_row_drops_while_training() -> None:
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    model = build("UniterForNlvr2PairedAttn", uniter.Config(**SIZES, type_vocab_size=3, **rates))
    fill_with_noise(model)
    x = torch.randn(1, 5, WIDTH)
    look = model.head.left
    assert not torch.equal(look.train()(x, x), look(x, x)) and torch.equal(look.eval()(x, x), look(x, x))


def test_entailment_has_the_head_of_answers() -> None:
    model = build("UniterForVisualEntailment", uniter.Config(**SIZES, labels=("no", "maybe", "yes"))).eval()
    given = {name: x for name, x in inputs().items() if name != "region_types"}
    assert model(**given, labels=torch.eye(3)[[0, 1, 2, 0]]).logits.shape == (4, 3)
    assert "vqa_output.3.weight" in model.named_tensors()


# On top of what was trained -------------------------------------------------------------


def test_tasks_begin_with_what_was_trained() -> None:
    trained = build("UniterForPretraining", uniter.Config(**SIZES)).eval()
    fill_with_noise(trained)
    given = {name: x for name, x in inputs().items() if name != "region_types"}
    want = trained(**given).matching_logits
    ranker = uniter.for_task(trained, "UniterForImageTextRetrieval")
    assert not ranker.training
    assert_close(ranker(**given).logits, want[:, 1:], "scores")
    pair = uniter.for_task(trained, "UniterForNlvr2Paired")
    table, old = pair.body.embeddings.types.weight, trained.body.embeddings.types.weight
    assert torch.equal(table[:2], old) and torch.equal(table[2], old[1]) and pair.config.type_vocab_size == 3
    # At first a second picture is seen as the first is.
    states = [pair.body(**given, **more).last for more in ({}, {"region_types": inputs()["region_types"]})]
    assert torch.equal(*states) and torch.equal(states[0], trained.body(**given).last)
    assert torch.equal(pair.head.pooler.dense.weight, trained.head.pooler.dense.weight)
    assert pair(**given).logits.shape == (2, 2)
    again = uniter.for_task(pair, "UniterModel", type_vocab_size=2)
    assert torch.equal(again.body.embeddings.types.weight, old)
    answers = uniter.for_task(trained, "UniterForVisualQuestionAnswering", labels=("a", "b", "c"))
    assert answers(**given).logits.shape == (4, 3)
    with pytest.raises(ValueError, match="trained, architecture: a UNITER and one of .* got UniterModel and 'X'"):
        uniter.for_task(build("UniterModel", uniter.Config(**SIZES)), "X")


def test_a_ranking_is_learned(tmp_path: Path) -> None:
    """The picture with the region that its text names stands before others."""
    torch.manual_seed(0)
    config = uniter.Config(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1)
    model = build("UniterForImageTextRetrieval", config).train()
    things = torch.randn(8, FEATURES)
    locations = torch.rand(1, 1, 7).expand(24, 2, 7)

    def batch(seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        kinds = torch.stack([torch.randperm(8, generator=draw)[:3] for _ in range(8)]).flatten()
        texts = kinds[::3].repeat_interleave(3)
        seen = torch.stack([things[kinds], 0.1 * torch.randn(24, FEATURES, generator=draw)], 1)
        ids = torch.stack([torch.full((24,), 1), 5 + texts, torch.full((24,), 2)], 1)
        return {"input_ids": ids, "regions": seen, "locations": locations}

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        optimizer.zero_grad()
        model(**batch(step), candidates=3).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = torch.cat([model.eval()(**batch(1000 + i)).logits.reshape(-1, 3).argmax(1) for i in range(10)])
    assert (found == 0).float().mean() > 0.7  # a guess finds a third


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (torch.ones(4, 5).long(), r"region_types: shape \(4, 6\) is allowed, got \(4, 5\)"),
        (torch.ones(4, 6), "region_types: an integer tensor is allowed, got dtype torch.float32"),
        ([[1] * 6] * 4, "region_types: an integer tensor is allowed, got list"),
        (torch.tensor([[1, 0, 1, 1, 0, 2]] * 4), "region_types: ids from 0 to 1 are allowed, got 0 to 2"),
        (torch.tensor([[1, 0, 1, 1, 0, -3]]), "region_types: ids from 0 to 1 are allowed, got -3 to 1"),
    ],
)
def test_wrong_types_are_named(types: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("UniterModel", uniter.Config(**SIZES))(**inputs(region_types=types))


def test_padding_is_none_of_the_regions(tmp_path: Path) -> None:
    _, ours = loaded(tmp_path, "UniterForReferringExpressionComprehension")
    labels = torch.tensor([5, 0, 0, 0])  # row 0 has four
    with pytest.raises(ValueError, match=r"labels: numbers of real regions are allowed, got \[5, 0, 0, 0\]"):
        ours(**inputs(), labels=labels)
