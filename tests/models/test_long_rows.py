"""Longformer and BigBird over long rows of text: they learn them, and need no square of their length."""

from __future__ import annotations

import pydoc_data.topics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pkernels.models import bigbird, build, longformer
from pkernels.models.parts.objectives import cut, mask_tokens

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def long_text(length: int) -> Tensor:
    """Rows of real English, Python's own documentation: bytes are its tokens, from 4 on."""
    topics = pydoc_data.topics.topics
    tokens = [4 + byte for name in sorted(topics) for byte in topics[name].encode()]
    return cut(tokens, length, first=0, last=2)


def of_longformer(length: int, window: int | tuple[int, ...], **sizes: int) -> longformer.Config:
    return replace(longformer.Config.base(length, **sizes), attention_window=window)


def of_bigbird(length: int, **sizes: int) -> bigbird.Config:
    return replace(bigbird.Config.base(), max_position_embeddings=length, **sizes)


def every_hundredth(ids: Tensor) -> dict[str, Tensor]:
    chosen = torch.zeros_like(ids)
    chosen[:, ::100] = 1
    return {"global_attention_mask": chosen}


@pytest.mark.parametrize(
    ("architecture", "config", "more"),
    [
        ("LongformerForMaskedLM", of_longformer(512, (16, 32), vocab_size=300, **SMALL), every_hundredth),
        ("BigBirdForMaskedLM", of_bigbird(512, vocab_size=300, block_size=16, **SMALL), lambda ids: {}),
    ],
    ids=["Longformer", "BigBird"],
)
def test_training_learns_long_text_by_heart(architecture: str, config, more) -> None:
    torch.manual_seed(0)
    model = build(architecture, config).train()
    ids = long_text(512)[:2]
    masked, labels = mask_tokens(ids, ids < 4, mask_id=3, words=300)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = model(masked, labels=labels, **more(ids)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - 5.7) < 0.3  # log(300): it knows nothing yet
    counts = labels[labels != -100].bincount()
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    assert losses[-1] < 0.3 * entropy, losses


@pytest.mark.parametrize(
    ("architecture", "config", "more"),
    [
        ("LongformerModel", of_longformer(32768, 64, **TINY), {"global_positions": torch.tensor([0, 1000, 32767])}),
        ("BigBirdModel", of_bigbird(32768, **TINY), {}),
    ],
    ids=["Longformer", "BigBird"],
)
def test_long_text_needs_no_square_of_its_length(architecture: str, config, more: dict) -> None:
    """At 32,768 tokens a value for every pair would take 4 GiB for each head and layer."""
    model = build(architecture, config).train()
    out = model(long_text(32768)[:1], **more).last_hidden_state
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.body.parameters())
