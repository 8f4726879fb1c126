"""XLNet's orders as ranks: the masks of pairs they stand for, without a matrix of all pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pkernels.models.parts import streams
from pkernels.models.parts.objectives import permutation_lm
from pkernels.models.parts.streams import Ranked

from .agreement import WORDS
from .pairs import assert_close
from .test_xlnet import noisy


def ranked(split: int, size: int = 12, at_once: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch by ranks, and the same by a mask of pairs; ``at_once`` tokens may have the same rank."""
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(2, WORDS, (3, size), generator=draw)
    chosen = torch.rand(ids.shape, generator=draw) < 0.4
    special = torch.zeros_like(chosen)
    special[:, -1], chosen[1, :split], special[2, 2] = True, False, True
    given = permutation_lm(ids, chosen, special, split=split, generator=draw)
    given["ranks"] = given["ranks"] // at_once
    given["token_type_ids"] = torch.randint(3, ids.shape, generator=draw)
    hidden = Ranked(given["ranks"], split=split).hidden(itself=True)
    return given, {n: x for n, x in given.items() if n not in ("ranks", "split")} | {"perm_mask": hidden.float()}


@pytest.mark.parametrize("split", [0, 5])
@pytest.mark.parametrize("extra", ["none", "memories", "padding", "backwards"])
def test_ranks_are_the_mask_of_pairs_they_stand_for(extra: str, split: int) -> None:
    given, pairs = ranked(split, at_once=2)
    model = noisy(bi_data=extra == "backwards")
    more: dict[str, Any] = {}
    if extra == "memories":
        more["mems"] = model(torch.randint(2, WORDS, (3, 6), generator=torch.Generator().manual_seed(8))).mems
    if extra == "padding":
        mask = torch.ones(3, 12, dtype=torch.long)
        mask[0, 3:5], mask[2, :1] = 0, 0
        more["attention_mask"] = mask
    if extra == "backwards":
        given, pairs = ({n: x[:2] if isinstance(x, Tensor) else x for n, x in a.items()} for a in (given, pairs))
    results = []
    for arguments in (given, pairs):
        out = model(**arguments, **more, output_hidden_states=True)
        model.zero_grad()
        out.loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        results.append((out.logits, out.hidden_states, out.mems, gradients))
    (logits, states, mems, gradients), want = results
    assert_close(logits, want[0], "logits")
    for x, y in zip((*states, *mems), (*want[1], *want[2]), strict=True):
        assert_close(x, y, "states")
    for name, gradient in want[3].items():
        assert_close(gradients[name], gradient, name)


@pytest.mark.parametrize("split", [0, 5])
def test_ranks_hide_what_the_authors_program_hides(split: int) -> None:
    """zihangdai/xlnet, ``_local_perm`` and what its caller puts around, pair by pair. It lets special tokens see
    themselves in the query stream, where there are none."""
    given, _ = ranked(split)
    hidden = Ranked(given["ranks"], split=split).hidden(itself=True)
    predicted = given["target_mapping"].sum(1) > 0
    for row in range(3):
        ranks = given["ranks"][row].tolist()
        for i, mine in enumerate(ranks):
            mine = mine if predicted[row, i] else mine + 1
            for j, its in enumerate(ranks):
                want = j >= split > i if (i < split) != (j < split) else mine <= its and its >= 0
                if i != j or predicted[row, i]:
                    assert bool(hidden[row, i, j]) == want, (row, i, j)


def test_no_word_is_told_before_its_turn() -> None:
    """Another word at a place changes no prediction there, nor those of tokens before it in the order."""
    given, _ = ranked(0)
    model = noisy()
    want = model(**given).logits
    row, target = 0, 1
    place = int(given["target_mapping"][row, target].argmax())
    other = given["input_ids"].clone()
    other[row, place] += 1
    got = model(**given | {"input_ids": other}).logits
    places = given["target_mapping"].argmax(2)
    earlier = given["ranks"].gather(1, places)[row] <= given["ranks"][row, place]
    real = given["labels"][row] >= 0
    assert earlier[target] and torch.equal(got[row][earlier & real], want[row][earlier & real])
    assert not torch.equal(got[row][~earlier & real], want[row][~earlier & real])
    assert torch.equal(got[1:], want[1:])


def test_ranks_take_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    dense = streams.Dense
    monkeypatch.setattr(streams, "Dense", lambda values: sizes.append(tuple(values.shape[2:])) or dense(values))
    given, _ = ranked(0, size=60)
    noisy()(**given)
    among = int((given["ranks"] >= 0).sum(1).max())
    predicted = given["target_mapping"].shape[1]
    assert set(sizes) == {(among, among), (predicted, 60)} and among < 40


def test_a_row_that_may_see_nothing_is_0_in_attention() -> None:
    ids, ranks = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 1, 2]])
    model, mapping = noisy(), torch.eye(3)[None]
    logits = model(ids, ranks=ranks, target_mapping=mapping).logits
    other = model(torch.tensor([[5, 9, 8]]), ranks=ranks, target_mapping=mapping).logits
    assert logits.isfinite().all() and torch.equal(logits[0, :2], other[0, :2]) and not torch.equal(logits, other)
