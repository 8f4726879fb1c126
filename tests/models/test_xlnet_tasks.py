"""XLNet's answers and summaries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from . import agreement
from .agreement import MASKS, WORDS, labels_for
from .pairs import assert_close
from .test_xlnet import BEAMS, KIND, SUMMED_UP, noisy, tiny


@pytest.mark.parametrize("given", ["places", "no answer", "p_mask"])
def test_losses_of_answers_agree_with_transformers(tmp_path: Path, given: str) -> None:
    mask = MASKS["whole"]
    labels = {"start_positions": torch.tensor([1, 0, 4]), "end_positions": torch.tensor([1, 3, 6])}
    if given != "places":
        labels |= {"is_impossible": torch.tensor([0.0, 1.0, 0.0]), "cls_index": torch.tensor([6, 5, 0])}
    if given == "p_mask":
        labels["p_mask"] = torch.zeros(3, 7).index_fill(1, torch.tensor([2, 5]), 1.0)
    agreement.assert_head_agrees(tmp_path, BEAMS, tiny(), mask, labels, torch.float32, **KIND)


def test_answers_do_not_depend_on_padding() -> None:
    model, ids = noisy(BEAMS, start_n_top=2, end_n_top=3), torch.randint(6, WORDS, (2, 5))
    want, places = model(ids), {"start_positions": torch.tensor([1, 99]), "end_positions": torch.tensor([4, 2])}
    for side in ((2, 0), (0, 2)):
        given = torch.nn.functional.pad(ids, side, value=5), torch.nn.functional.pad(torch.ones_like(ids), side)
        got = model(*given)
        for name in ("start_top_log_probs", "end_top_log_probs", "cls_logits"):
            assert_close(getattr(got, name), getattr(want, name), name)
        for name in ("start_top_index", "end_top_index"):
            assert torch.equal(getattr(got, name) - side[0], getattr(want, name))
        moved = {name: x + side[0] for name, x in places.items()}
        none = torch.tensor([0, 1])
        losses = [model(*args, is_impossible=none, **at).loss for args, at in (((ids,), places), (given, moved))]
        assert_close(losses[1], losses[0], "loss")


@pytest.mark.parametrize("architecture", SUMMED_UP)
@pytest.mark.parametrize("kind", ["first", "mean", "cls_index"])
def test_summaries_agree_with_transformers(tmp_path: Path, architecture: str, kind: str) -> None:
    config = tiny(num_labels=agreement.LABELS, summary_type=kind, summary_activation="relu", use_mems_eval=False)
    mask = MASKS["whole"]
    labels = labels_for(architecture, mask)
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels, torch.float32, **KIND)


def test_a_mean_is_of_real_tokens() -> None:
    model, ids = noisy(SUMMED_UP[0], summary_type="mean"), torch.randint(6, WORDS, (2, 5))
    want = model(ids).logits
    for side in ((2, 0), (0, 2), (1, 1)):
        given = torch.nn.functional.pad(ids, side, value=5), torch.nn.functional.pad(torch.ones_like(ids), side)
        assert_close(model(*given).logits, want, "logits")
    holes = torch.tensor([[1, 0, 1, 1, 1, 1, 1]])
    states = model.body(torch.cat([ids[:1], ids[:1, :2]], 1), holes, output_hidden_states=True)
    assert_close(states.layout.mean(states.last), states.hidden_states[-1][holes > 0].mean(0)[None], "mean")
    packed = model(ids.reshape(1, -1), offsets=torch.tensor([0, 5, 10])).logits
    assert_close(packed, want, "logits of packed texts")
