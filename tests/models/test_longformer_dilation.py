"""Longformer's dilation and autoregression, which transformers lacks, against attention written out."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels.models import build, from_pretrained
from pkernels.models.parts.attention import split_heads

from .pairs import LARGE, assert_close, backward, fill_with_noise
from .test_longformer import GLOBALS, MASKS, config, inputs

STEPS = [1, (1, 3)]  # the second head of the second layer


def written_out(model: torch.nn.Module, ids: Tensor, chosen: Tensor, lengths: list[int]) -> Tensor:
    """Last hidden states, with the mask of every layer and head as a matrix."""
    c, layers = model.config, model.body.layers
    out = torch.zeros(*ids.shape, c.hidden_size, dtype=torch.float64)
    for b, n in enumerate(lengths):
        empty = pkernels.models.parts.layouts.Whole(1, n, ids.device)
        x = model.body.embeddings(empty, ids[b : b + 1, :n], None, None, None)
        marked, step = chosen[b, :n].bool(), torch.arange(n)[None] - torch.arange(n)[:, None]
        for layer, (width, steps) in zip(layers, c.windows(), strict=True):
            attention = layer.attention.inner
            d = torch.tensor(steps)[:, None, None]
            reach = width // 2 * d
            kept = (step % d == 0) & (step >= -reach) & (step <= (0 if c.autoregressive else reach))
            q, k, v = split_heads(attention.qkv(x), 3, c.num_attention_heads)
            (gq,) = split_heads(attention.of_globals.q(x), 1, c.num_attention_heads)
            gk, gv = split_heads(attention.of_globals.kv(x), 2, c.num_attention_heads)
            scale = q.shape[-1] ** -0.5
            scores = (q @ k.mT * scale).masked_fill(~(kept | marked), -torch.inf)
            mixed = torch.where(marked[:, None], (gq @ gk.mT * scale).softmax(-1) @ gv, scores.softmax(-1) @ v)
            mixed = attention.out(mixed.transpose(1, 2).flatten(2))
            x = layer.feed_forward(layer.attention.norm(x + mixed))
        out[b, :n] = x[0]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("autoregressive", "chosen"), [(True, "nowhere"), *((False, name) for name in ("nowhere", "leading", "scattered"))]
)
@pytest.mark.parametrize("dilation", [1, 2, STEPS], ids=str)
def test_dilation_and_autoregression(dilation: object, autoregressive: bool, chosen: str, dtype: torch.dtype) -> None:
    c = config(attention_dilation=dilation, autoregressive=autoregressive, attention_window=6)
    model = build("LongformerModel", c).eval()
    fill_with_noise(model)
    exact = copy.deepcopy(model).double()
    ids, mask = inputs(MASKS["right"])["input_ids"], MASKS["right"]
    want = written_out(exact, ids, GLOBALS[chosen], mask.sum(1).tolist())
    got = model.to(dtype)(ids, mask, GLOBALS[chosen]).last_hidden_state
    assert_close(got, want.to(dtype), "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).sum() / LARGE for x in (want, got)))
    for (name, mine), theirs in zip(model.body.named_parameters(), exact.body.parameters(), strict=True):
        assert (mine.grad is None) <= (theirs.grad is None or not theirs.grad.any()), name
        if mine.grad is not None:
            assert_close(mine.grad, theirs.grad.to(dtype), f"gradient of {name}")


def test_autoregressive_models_do_not_look_ahead() -> None:
    model = build("LongformerForMaskedLM", config(autoregressive=True, attention_dilation=2)).eval()
    fill_with_noise(model)
    ids = inputs(MASKS["one"])["input_ids"]
    changed = ids.clone()
    changed[0, 9] = (ids[0, 9] + 1) % 90 + 3
    differs = (model(ids).logits != model(changed).logits).any(-1)[0]
    assert not differs[:9].any()
    assert differs[[9, 11, 13]].all()
    assert not differs[10], "an odd distance away, at a dilation of 2"
    with pytest.raises(ValueError, match="global_attention_mask: no token is allowed in autoregressive"):
        model(ids, global_attention_mask=torch.ones_like(ids))
    build("LongformerForSequenceClassification", config(autoregressive=True))(ids)


def test_settings_of_layers_and_heads_survive_the_file(tmp_path: Path) -> None:
    for c in (config(attention_dilation=STEPS, autoregressive=True), config(attention_window=4)):
        assert hash(c) == hash(replace(c))
        build("LongformerModel", c).save_pretrained(tmp_path)
        assert from_pretrained(tmp_path).config == c
    assert config(attention_window=[4, 8]) == config(attention_window=(4, 8))


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    c = config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5, attention_dilation=STEPS)
    model = build("LongformerModel", c)
    ids = torch.randint(3, 97, (2, 9))

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(ids, global_positions=torch.tensor([0, 4])).last_hidden_state

    model.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))
