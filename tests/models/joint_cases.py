"""What is tested of UNITER and of UNIMO alike: ragged texts and pictures, files, gradients, masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pkernels.models import Model, from_pretrained

from .dense_joint import FEATURES, WORDS, Rows
from .pairs import assert_close, fill_with_noise

PICTURES, REGIONS = [4, 6, 1], 6


def ragged(texts: Sequence[int], rows: int, *, first: int, location: int) -> dict[str, Tensor]:
    """Words from ``first`` on, and regions with locations of that width; what stands in the padding must not
    matter."""
    draw = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(first, WORDS, (rows, max(texts)), generator=draw),
        "lengths": torch.tensor(texts[:rows]),
        "regions": torch.randn(rows, REGIONS, FEATURES, generator=draw),
        "locations": torch.rand(rows, REGIONS, location, generator=draw),
        "region_lengths": torch.tensor(PICTURES[:rows]),
    }


def real(lengths: Sequence[int], size: int) -> Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def load(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> Model:
    """From a file as the authors' programs name its tensors."""
    (folder / "config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="has no use for"):
        return from_pretrained(folder)


def assert_gradients(
    oracle: Rows, ours: Model, losses: tuple[Tensor, Tensor], name_of: Callable[[str], str] = str, prefix: str = ""
) -> None:
    """Of all parameters that have one, in losses so large that errors are seen; ``name_of`` the oracle's is ours
    behind the ``prefix``."""
    assert_close(losses[1], losses[0], "loss")
    wanted = torch.autograd.grad(losses[0], list(oracle.p.values()), allow_unused=True)
    largest = max(x.abs().max() for x in wanted if x is not None)
    (losses[1] / largest).backward()
    got = ours.named_tensors({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    want = {name_of(name): x / largest for name, x in zip(oracle.p, wanted, strict=True) if x is not None}
    assert {prefix + name for name in got} == set(want)
    for name, gradient in got.items():
        assert_close(gradient, want[prefix + name], f"gradient of {name}")


def assert_masks_are_lengths(model: Model, texts: Sequence[int], given: dict[str, Tensor], before: int) -> None:
    """And a region taken out of the middle is as if it had never been there. A row's regions stand behind
    ``before`` words."""
    words = given["input_ids"].shape[1]
    want = model(**given).last_hidden_state
    masks = {"attention_mask": real(texts, words).long(), "region_mask": real(PICTURES, REGIONS).long()}
    rest = {name: x for name, x in given.items() if name not in ("lengths", "region_lengths")}
    assert torch.equal(model(**rest, **masks).last_hidden_state, want)
    masks["region_mask"][1, 2] = 0
    less = {**given, "region_lengths": torch.tensor([4, 5, 1])}
    for name in ("regions", "locations"):
        less[name] = given[name].clone()
        less[name][1, 2:5] = given[name][1, 3:6]
    holes, without = model(**rest, **masks).last_hidden_state, model(**less).last_hidden_state
    kept = [i for i in range(words + REGIONS) if i != before + 2]
    there = [i for i in range(words + REGIONS) if i != before + 5]
    assert_close(holes[1, kept], without[1, there], "a hole")
    assert_close(holes[[0, 2]], without[[0, 2]], "other rows")


def assert_saved(folder: Path, model: Model) -> None:
    fill_with_noise(model)
    model.save_pretrained(folder)
    again = from_pretrained(folder)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
