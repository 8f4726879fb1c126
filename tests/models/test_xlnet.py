"""XLNet against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, build, xlnet

from . import agreement
from .agreement import MASKS, WORDS, inputs, labels_for
from .pairs import assert_close, assert_same_gradients, pair

# Two heads of 13.
TINY = {"vocab_size": WORDS, "d_model": 26, "n_layer": 2, "n_head": 2, "d_inner": 37}
KIND = {"types": 3, "padding": 5}
SUMMED_UP = ("XLNetForSequenceClassification", "XLNetForMultipleChoice")
# The last token of these is real; transformers sums a text up from the last, be it padding.
LAST_IS_REAL = ("whole", "left", "one")


def tiny(**changes: Any) -> transformers.XLNetConfig:
    return transformers.XLNetConfig(**TINY | changes)


def labels_number(architecture: str) -> int:
    return 2 if architecture.endswith("Simple") else agreement.LABELS


@pytest.mark.parametrize("architecture", xlnet.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str) -> None:
    if architecture in SUMMED_UP and padding not in LAST_IS_REAL:
        pytest.skip("transformers sums up padding")
    other = {"ff_activation": "relu", "clamp_len": 3} if padding == "left" else {}
    # Of padding, memories of ours are 0.
    memories = {"use_mems_eval": padding in ("whole", "one")}
    config = tiny(num_labels=labels_number(architecture), **memories, **other)
    labels = labels_for(architecture.removesuffix("Simple"), MASKS[padding])
    agreement.assert_head_agrees(tmp_path, architecture, config, MASKS[padding], labels, torch.float32, **KIND)


@pytest.mark.parametrize("padding", ["left", "holes"])
def test_one_stream_agrees_in_float64(tmp_path: Path, padding: str) -> None:
    config = tiny(use_mems_eval=False)
    agreement.assert_head_agrees(tmp_path, "XLNetModel", config, MASKS[padding], {}, torch.float64, **KIND)


def order(batch: int, size: int, targets: int, seed: int = 0) -> dict[str, Tensor]:
    """A mask and targets: each token sees the first one, and about half of the others."""
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.rand(batch, size, size, generator=draw) < 0.5).float()
    mask[:, :, 0] = 0
    places = torch.stack([torch.randperm(size, generator=draw)[:targets] for _ in range(batch)])
    mapping = torch.nn.functional.one_hot(places, size).float()
    mapping[-1, -1] = 0  # predicts nothing
    return {"perm_mask": mask, "target_mapping": mapping}


def assert_two_segments_agree(
    oracle: nn.Module, ours: Model, given: dict[str, Any], real: Tensor | None = None
) -> None:
    """The second segment sees the memories of the first: outputs, hidden states, memories, gradients."""
    batch, size = given["input_ids"].shape
    first = torch.randint(2, WORDS, (batch, size + 1), generator=torch.Generator().manual_seed(5))
    mems = [model(first).mems for model in (oracle, ours)]
    for want, got in zip(*mems, strict=True):
        assert_close(got, want, "mems")
    shape = (batch, size if given.get("target_mapping") is None else given["target_mapping"].shape[1])
    labels = torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(6))
    if real is not None and labels.shape == real.shape:
        labels = labels.masked_fill(~real, -100)
    outs = [
        model(**given, mems=m, labels=labels, output_hidden_states=True)
        for model, m in zip((oracle, ours), mems, strict=True)
    ]
    for name in ("logits", "hidden_states", "mems"):
        wants, gots = (getattr(out, name) for out in outs)
        for want, got in zip(*((x if isinstance(x, tuple) else (x,)) for x in (wants, gots)), strict=True):
            if real is not None and want.shape[:2] == real.shape:
                want, got = want[real], got[real]
            if real is None or name != "mems":
                assert_close(got, want, name)
    for out in outs:
        (out.loss * 10).backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize(
    "what", ["plain", "order", "order alone", "targets", "padding", "mask", "backwards", "uni", "reused"]
)
def test_orders_and_memories_agree_with_transformers(tmp_path: Path, what: str) -> None:
    changes: dict[str, Any] = {
        "backwards": {"bi_data": True, "clamp_len": 3},
        "uni": {"attn_type": "uni"},
        "reused": {"reuse_len": 4, "mem_len": 6},
        "order": {"mem_len": 6},
    }.get(what, {})
    oracle, ours = pair(tmp_path, "XLNetLMHeadModel", tiny(**changes))
    given, real = dict(inputs(torch.ones(4, 7, dtype=torch.long), **KIND)), None
    del given["attention_mask"]
    if what != "plain":
        given |= order(4, 7, 3)
    if what == "order alone":
        del given["target_mapping"]
    if what in ("targets", "uni"):  # transformers' causal mask takes no other beside it
        del given["perm_mask"], given["token_type_ids"]
    if what in ("padding", "mask"):
        mask = torch.cat([MASKS["left"], MASKS["left"][2:]])
        real = mask.bool()
        given |= {"attention_mask": mask} if what == "padding" else {"input_mask": 1 - mask}
        given["perm_mask"][:, :, 0], given["perm_mask"][:, :, -1] = 1, 0
        if what == "mask":
            del given["target_mapping"]
    assert_two_segments_agree(oracle, ours, given, real)


@pytest.mark.parametrize("architecture", xlnet.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    agreement.assert_transformers_loads(tmp_path, architecture, xlnet.Config(**TINY, labels=labels), **KIND)


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("XLNetModel", xlnet.Config(**TINY)).eval(), **KIND)
