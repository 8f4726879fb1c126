"""BigBird's plans of random blocks: the authors', which transformers lacks, against attention written out."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pkernels import bigbird as authors_layout
from pkernels.models import build, from_pretrained
from pkernels.models.parts.attention import split_heads
from pkernels.models.parts.layouts import Whole

from .pairs import LARGE, assert_close, backward, fill_with_noise
from .test_bigbird import MASKS, SIZE, config, inputs


def written_out(model: torch.nn.Module, ids: Tensor, length: int) -> Tensor:
    """Last hidden states of one text, with the count of every pair as a matrix."""
    c, size = model.config, ids.shape[1]
    layout = Whole(1, size, ids.device)
    x = model.body.embeddings(layout, ids, None, None, None)
    real = torch.arange(size) < length
    for i, layer in enumerate(model.body.layers):
        counts = authors_layout(size, 2, size=4, random=2, seed=i).multiplicity(slice(None), size, size, ids.device)
        attention = layer.attention.inner
        q, k, v = split_heads(attention.qkv(x), 3, c.num_attention_heads)
        scores = q @ k.mT * q.shape[-1] ** -0.5 + (counts * real).to(q.dtype).log()
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = layer.feed_forward(layer.attention.norm(x + attention.out(mixed)))
    return x[0, :length]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("length", [SIZE, 30])
def test_the_authors_plan_is_the_same_in_training_and_evaluation(length: int, training: bool) -> None:
    model = build("BigBirdModel", config(plan="original")).train(training)
    fill_with_noise(model)
    exact = copy.deepcopy(model).double()
    ids = inputs(MASKS["one"])["input_ids"]
    want = written_out(exact, ids, length)
    got = model(ids, lengths=torch.tensor([length])).last_hidden_state[0, :length]
    assert_close(got, want.float(), "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).sum() / LARGE for x in (want, got)))
    for (name, mine), theirs in zip(model.body.named_parameters(), exact.body.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad.float(), f"gradient of {name}")


def test_numpys_generator_stays_as_it_is() -> None:
    np.random.seed(5)
    want = np.random.random()
    np.random.seed(5)
    build("BigBirdModel", config()).train()(inputs(MASKS["one"])["input_ids"])
    assert np.random.random() == want


def test_a_short_batch_changes_nothing_for_later_ones() -> None:
    model = build("BigBirdModel", config()).eval()
    ids = inputs(MASKS["one"])["input_ids"]
    want = model(ids).last_hidden_state
    model(ids[:, :5])
    assert torch.equal(model(ids).last_hidden_state, want)


def test_the_plan_survives_the_file(tmp_path: Path) -> None:
    for plan in ("transformers", "original"):
        build("BigBirdModel", config(plan=plan)).save_pretrained(tmp_path)
        assert from_pretrained(tmp_path).config == config(plan=plan)
