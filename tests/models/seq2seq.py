"""What an encoder with a decoder is held to: for each kind of padding on either side, outputs, loss and
gradients are transformers', and either loads what the other saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, build, from_pretrained
from pkernels.models.parts.config import BaseConfig

from .pairs import assert_close, assert_same_gradients, fill_with_noise

WORDS = 97

# Of the source and of the target, which are of different odd lengths.
MASKS = {
    "whole": (torch.ones(3, 7).long(), torch.ones(3, 5).long()),
    "right": (
        torch.tensor([[1] * 7, [1] + [0] * 6, [1] * 4 + [0] * 3]),
        torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 1, 0]]),
    ),
    "source": (torch.tensor([[1] * 7, [1] * 3 + [0] * 4, [1] * 6 + [0]]), torch.ones(3, 5).long()),
    "target": (torch.ones(3, 7).long(), torch.tensor([[1, 0, 0, 0, 0], [1] * 5, [1, 1, 1, 0, 0]])),
    "left": (
        torch.tensor([[1] * 7, [0] * 6 + [1], [0] * 3 + [1] * 4]),
        torch.tensor([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]]),
    ),
    "both ways": (
        torch.tensor([[1] * 7, [0] * 5 + [1] * 2, [0] + [1] * 6]),
        torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 1, 0]]),
    ),
    "holes": (
        torch.tensor([[1, 0, 1, 1, 1, 0, 1], [1] * 3 + [0] * 4, [1] * 7]),
        torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1] * 5]),
    ),
    "one": (torch.ones(1, 5).long(), torch.ones(1, 3).long()),
}


def noisy(model: nn.Module) -> None:
    """All parameters; norms' weights are about 1, or what the first layers do would be lost in the last."""
    fill_with_noise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter += 1


def pair(folder: Path, architecture: str, config: Any) -> tuple[Any, Model]:
    """``(transformers', ours)``, in evaluation mode."""
    oracle = getattr(transformers, architecture)(config)
    noisy(oracle)
    oracle.save_pretrained(folder)
    oracle.set_attn_implementation("eager")
    return oracle.eval(), from_pretrained(folder)


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Ids that are none of the special ones."""
    return torch.randint(3, WORDS, shape, generator=torch.Generator().manual_seed(seed))


def given(masks: tuple[Tensor, Tensor], padding: int) -> dict[str, Tensor]:
    source, target = masks
    return {
        "input_ids": draw(source.shape).masked_fill(source == 0, padding),
        "attention_mask": source,
        "decoder_input_ids": draw(target.shape, 1).masked_fill(target == 0, padding),
        "decoder_attention_mask": target,
    }


def labels_of(target: Tensor, classes: int = WORDS) -> Tensor:
    """One token is not labelled, nor is padding."""
    labels = torch.randint(classes, target.shape, generator=torch.Generator().manual_seed(2))
    labels[0, -1] = -100
    return labels.masked_fill(target == 0, -100)


def assert_agrees(
    oracle: Any, ours: Model, inputs: dict[str, Any], labels: dict[str, Tensor], real: dict[str, Tensor]
) -> None:
    """All outputs, the loss and all gradients; ``real`` says which tokens of the two sides are no padding."""
    want = oracle(**inputs, **labels, output_hidden_states=True, **_no_cache(oracle))
    got = ours(**inputs, **labels, output_hidden_states=True)
    assert {name for name, value in want.items() if value is not None} == {
        name for name, value in vars(got).items() if value is not None
    }
    for name in vars(got):
        mine, theirs = (x if isinstance(x, tuple) else (x,) for x in (getattr(got, name), want.get(name)))
        for x, y in zip(mine, theirs, strict=True):
            side = real["encoder" if name.startswith("encoder") or "decoder" not in real else "decoder"]
            if x is not None and x.shape[:2] == side.shape:
                assert (x[~side] == (-torch.inf if name in ("start_logits", "end_logits") else 0)).all(), name
                x, y = x[side], y[side]
            if x is not None:
                assert_close(x, y, name)
    # The tolerance is absolute below 1: the largest gradient should be about 1, but not by noise of a
    # loss that is all but 0.
    losses = [_objective(out, real) for out in (want, got)]
    parameters = [p for p in oracle.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses[0], parameters, retain_graph=True, allow_unused=True)
    largest = max(x.abs().max() for x in gradients if x is not None)
    for loss in losses:
        (loss * (1 / largest).clamp(max=30)).backward()
    assert_same_gradients(oracle, ours)


def _objective(out: Any, real: dict[str, Tensor]) -> Tensor:
    """The loss, or something of the last states where there is none."""
    if getattr(out, "loss", None) is not None:
        return out.loss
    states = [(out.last_hidden_state, real.get("decoder", real["encoder"]))]
    if getattr(out, "encoder_last_hidden_state", None) is not None:
        states.append((out.encoder_last_hidden_state, real["encoder"]))
    noise = torch.Generator().manual_seed(4)
    return sum((torch.randn(x[at].shape, generator=noise) * x[at]).mean() for x, at in states)


def _no_cache(oracle: Any) -> dict[str, bool]:
    return {} if oracle.__class__.__name__.endswith("EncoderModel") else {"use_cache": False}


def assert_head_agrees(
    folder: Path, architecture: str, config: Any, masks: tuple[Tensor, Tensor], labels: dict[str, Tensor]
) -> None:
    oracle, ours = pair(folder, architecture, config)
    inputs = given(masks, config.pad_token_id)
    real = {"encoder": masks[0].bool(), "decoder": masks[1].bool()}
    assert_agrees(oracle, ours, inputs, labels, real)


def assert_transformers_loads(folder: Path, architecture: str, config: BaseConfig, inputs: dict[str, Tensor]) -> None:
    """transformers loads what we save, all of it; so do we, with the same config."""
    model = build(architecture, config).eval()
    noisy(model)
    model.save_pretrained(folder)
    theirs, report = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want, got = theirs.eval()(**inputs), model(**inputs)
    for name, value in vars(got).items():
        if isinstance(value, Tensor):
            assert_close(value, want[name], name)
    again = from_pretrained(folder)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def assert_layouts_are_the_same_batch(model: Model, padding: int) -> None:
    """Padding on the right by masks and by lengths, and packed by offsets: the same states."""
    source, target = MASKS["right"]
    inputs = given((source, target), padding)
    ids = {name: x for name, x in inputs.items() if name.endswith("ids")}
    want = model(**inputs)
    lengths = {"lengths": source.sum(1), "decoder_lengths": target.sum(1)}
    by_length = model(**ids, **lengths)
    assert torch.equal(by_length.last_hidden_state, want.last_hidden_state)
    assert torch.equal(by_length.encoder_last_hidden_state, want.encoder_last_hidden_state)
    ends = [torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)]) for mask in (source, target)]
    packed = model(
        input_ids=ids["input_ids"][source.bool()][None],
        decoder_input_ids=ids["decoder_input_ids"][target.bool()][None],
        offsets=ends[0],
        decoder_offsets=ends[1],
    )
    assert torch.equal(packed.last_hidden_state[0], want.last_hidden_state[target.bool()])


def assert_traces(model: Model, padding: int) -> None:
    """One graph, for masks and for lengths, that agrees with eager calls."""
    source, target = MASKS["right"]
    inputs = given((source, target), padding)
    ids = {name: x for name, x in inputs.items() if name.endswith("ids")}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    lengths = {"lengths": source.sum(1), "decoder_lengths": target.sum(1)}
    with torch.no_grad():
        want = model(**inputs).last_hidden_state
        assert_close(compiled(**inputs).last_hidden_state, want, "with masks")
        assert_close(compiled(**ids, **lengths).last_hidden_state, want, "with lengths")


def assert_dropout_follows_the_seed(model: Model, padding: int) -> None:
    inputs = given(MASKS["right"], padding)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(**inputs).last_hidden_state

    model.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))
