"""UNIMO writes what reading anew would write."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pkernels.models import Model, build, unimo

from .dense_joint import SIZES, WORDS
from .pairs import fill_with_noise
from .test_unimo import inputs


def again(model: Model, given: dict[str, Tensor], words: int, end: int | None) -> list[list[int]]:
    """Targets, the whole row read anew for each word, one row at a time."""
    out = []
    for b in range(3):
        row = {name: x[b : b + 1] for name, x in given.items()}
        for name, n in (("regions", "region_lengths"), ("locations", "region_lengths"), ("input_ids", "lengths")):
            if name in row:
                row[name] = row[name][:, : row[n]]
        source = row.pop("input_ids", torch.zeros(1, 0, dtype=torch.long))
        row = {name: x for name, x in row.items() if "lengths" not in name}
        target = [0]
        while len(target) <= words and target[-1] != end:
            ids = torch.cat([source, torch.tensor([target])], 1)
            target.append(int(model(ids, source_lengths=torch.tensor([source.shape[1]]), **row).logits[0, -1].argmax()))
        out.append(target[1:])
    return out


@pytest.mark.parametrize("case", ["both", "picture", "text"])
def test_writes_what_reading_anew_would_write(case: str) -> None:
    model = build("UNIMOForMaskedLM", unimo.Config(**SIZES)).eval()
    fill_with_noise(model)
    given = inputs()
    parts = {"picture": ("region", "locations"), "text": ("input_ids", "lengths"), "both": ("",)}[case]
    given = {n: x for n, x in given.items() if n.startswith(parts)}
    free = again(model, given, 5, None)
    assert unimo.generate(model, {"max_new_tokens": 5, "eos_token_id": ()}, **given).tolist() == free
    end = free[0][2]  # so that texts end at different places
    want = [(row + [1] * 5)[:5] for row in again(model, given, 5, end)]
    got = unimo.generate(model, {"max_new_tokens": 5, "eos_token_id": end}, **given)
    assert got.tolist() == [row[: got.shape[1]] for row in want] and all(set(r[got.shape[1] :]) <= {1} for r in want)
    # Beams: no worse than the best word at a time, and one beam is that.
    beams = unimo.generate(model, {"max_new_tokens": 3, "num_beams": 3, "eos_token_id": ()}, **given)
    assert all(likely(model, given, b, beams[b]) >= likely(model, given, b, free[b][:3]) - 1e-4 for b in range(3))


def likely(model: Model, given: dict[str, Tensor], b: int, target: Tensor | list[int]) -> float:
    """Log-probability of a target."""
    row = {name: x[b : b + 1] for name, x in given.items()}
    source = row.pop("input_ids", torch.zeros(1, 0, dtype=torch.long))[:, : row.pop("lengths", 0)]
    target = torch.as_tensor(target)
    ids = torch.cat([source, torch.tensor([[0]]), target[None]], 1)
    logits = model(ids, source_lengths=torch.tensor([source.shape[1]]), **row).logits[0, source.shape[1] : -1]
    return float(logits.log_softmax(-1).gather(1, target[:, None]).sum().detach())


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("UNIMOModel", {}, "model: a UNIMO that predicts words is allowed, got UNIMOModel"),
        ("UNIMOForMaskedLM", {"max_new_tokens": 14}, r"max_new_tokens: at most 13 \(max_position_embeddings"),
        ("UNIMOForMaskedLM", {"eos_token_id": WORDS}, r"eos_token_id: a word of the vocabulary \(61\) is allowed"),
    ],
)
def test_wrong_writing_is_named(architecture: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unimo.generate(build(architecture, unimo.Config(**SIZES)), settings, **inputs())
