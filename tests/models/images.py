"""What models of images are held to, and gradients by the names of files."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pkernels.models import Model

from .pairs import assert_close


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_fields_agree(want: object, got: object, real: Tensor | None = None) -> None:
    """All that ours holds is transformers', and there is nothing else; of texts, tokens that are ``real``."""
    theirs = {name for name, value in want.items() if value is not None}  # type: ignore[attr-defined]
    assert theirs == {name for name, value in vars(got).items() if value is not None}
    for name in theirs:
        mine, other = (x if isinstance(x, tuple) else (x,) for x in (getattr(got, name), want[name]))  # type: ignore[index]
        for x, y in zip(mine, other, strict=True):
            if real is not None and x.shape[:2] == real.shape:
                assert (x[~real] == 0).all(), name
                x, y = x[real], y[real]
            assert_close(x, y, name)


def assert_same_gradients_on_disk(oracle: nn.Module, ours: Model, folder: Path) -> None:
    """Of all parameters, by the names of files, which are not always those in transformers' memory."""
    have = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    got = ours.named_tensors(have)
    lacking = [p for p in oracle.parameters() if p.grad is None]
    assert len(have) == len(list(ours.parameters())) - len(lacking)
    kept = [p.data for p in oracle.parameters()]
    for parameter in oracle.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    oracle.save_pretrained(folder)  # type: ignore[operator]
    for parameter, data in zip(oracle.parameters(), kept, strict=True):
        parameter.data = data
    want = load_file(folder / "model.safetensors")
    assert set(got) <= set(want)
    for name, gradient in want.items():
        if name in got:
            assert_close(got[name], gradient, f"gradient of {name}")
        else:
            assert not gradient.any(), name


def installed(module: str, package: str) -> ModuleType:
    """An optional module, or a skip that says why it cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{module} cannot be imported ({error}): pip install {package}")
