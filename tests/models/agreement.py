"""What every encoder is held to: for each head and each kind of padding, outputs, loss and gradients are
transformers', and either loads what the other saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, build, from_pretrained
from pkernels.models.parts.config import BaseConfig

from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

WORDS, LABELS, CHOICES = 97, 4, 2

MASKS = {
    "whole": torch.ones(3, 7, dtype=torch.long),
    "right": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]]),
    "left": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 1]]),
    "holes": torch.tensor([[1, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0, 0]]),
    "one": torch.ones(1, 5, dtype=torch.long),
}


def inputs(mask: Tensor, seed: int = 0, *, types: int = 2, padding: int = 0) -> dict[str, Tensor]:
    """Real tokens have any id but ``padding``; without ``types`` there are no token_type_ids."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, WORDS, mask.shape, generator=draw)
    given = {"input_ids": ids.where(mask > 0, padding), "attention_mask": mask}
    return given | ({"token_type_ids": torch.randint(types, mask.shape, generator=draw)} if types else {})


def token_labels(mask: Tensor, classes: int) -> Tensor:
    """Every other token is labelled, where it is real."""
    labels = torch.randint(classes, mask.shape, generator=torch.Generator().manual_seed(3))
    labels[:, 1::2] = -100
    return labels.masked_fill(mask == 0, -100)


def next_labels(mask: Tensor) -> Tensor:
    """Every token is labelled where it and the one before it are real: others predict nothing here."""
    labels = torch.randint(WORDS, mask.shape, generator=torch.Generator().manual_seed(3))
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return labels.masked_fill((mask * before) == 0, -100)


def labels_for(architecture: str, mask: Tensor) -> dict[str, Tensor]:
    """Labels of heads that all families have, in the batch ``mask``. Answers have some where no
    padding is, as transformers' loss depends on it."""
    classes = torch.tensor([3, 0, 2])[: len(mask)]
    if architecture.endswith("ForMaskedLM"):
        return {"labels": token_labels(mask, WORDS)}
    if architecture.endswith(("LMHeadModel", "ForCausalLM")):
        return {"labels": next_labels(mask)}
    if architecture.endswith("ForTokenClassification"):
        return {"labels": token_labels(mask, LABELS)}
    if architecture.endswith("ForSequenceClassification"):
        return {"labels": classes}
    if architecture.endswith("ForMultipleChoice"):
        return {"labels": classes.clamp(max=CHOICES - 1)}
    if architecture.endswith("ForQuestionAnswering") and bool(mask.all()):
        return {"start_positions": torch.tensor([1, 0, 99])[: len(mask)], "end_positions": classes}
    return {}


def several(architecture: str, mask: Tensor, **kind: Any) -> dict[str, Tensor]:
    """Inputs, of multiple choice ``CHOICES`` texts for each row, the first of which has its padding."""
    if not architecture.endswith("ForMultipleChoice"):
        return inputs(mask, **kind)
    texts = inputs(mask, **kind), inputs(torch.ones_like(mask), 1, **kind)
    return {name: torch.stack([text[name] for text in texts], 1) for name in texts[0]}


def labels_number(architecture: str) -> int:
    return 2 if architecture.endswith(("ForQuestionAnswering", "ForPreTraining")) else LABELS


def assert_head_agrees(
    folder: Path,
    architecture: str,
    config: Any,
    mask: Tensor,
    labels: dict[str, Tensor],
    dtype: torch.dtype,
    **kind: Any,
) -> None:
    """Outputs, hidden states, loss and gradients of one head; ``kind`` is :func:`inputs`'."""
    oracle, ours = pair(folder, architecture, config, dtype)
    given = several(architecture, mask, **kind)
    want, got = (model(**given, **labels, output_hidden_states=True) for model in (oracle, ours))
    assert_outputs_agree(want, got, given["attention_mask"].flatten(0, -2).bool())
    real = given["attention_mask"].flatten(0, -2).bool()
    losses = _objective(want, real), _objective(got, real)
    # The tolerance is absolute below 1: the largest gradient should be above it. But where a loss is
    # all but 0, so are its gradients, and their noise is not to grow with them.
    gradients = torch.autograd.grad(losses[0], list(oracle.parameters()), retain_graph=True, allow_unused=True)
    largest = max(x.abs().max() for x in gradients if x is not None)
    for loss in losses:
        (loss * (10 / largest).clamp(max=30)).backward()
    assert_same_gradients(oracle, ours)


def assert_outputs_agree(want: Any, got: Any, real: Tensor) -> None:
    """All fields of ours; of tokens those that are ``real``, the others being 0 (answers' -inf)."""
    caches = {"past_key_values"}
    assert {name for name, value in want.items() if value is not None} - caches == {
        name for name, value in vars(got).items() if value is not None
    }
    for name, mine in vars(got).items():
        if mine is None:
            continue
        padding = -math.inf if name in ("start_logits", "end_logits") else 0.0
        mine, theirs = (x if isinstance(x, tuple) else (x,) for x in (mine, want[name]))
        for x, y in zip(mine, theirs, strict=True):
            if x.shape[:2] == real.shape:
                assert (x[~real] == padding).all(), name
                x, y = x[real], y[real]
            assert_close(x, y, name)


def _objective(out: Any, real: Tensor) -> Tensor:
    """The loss, or, where there is none, something of all that came out."""
    if getattr(out, "loss", None) is not None:
        return out.loss
    total = torch.zeros(())
    answers = ("start_logits", "end_logits", "start_top_log_probs", "end_top_log_probs", "cls_logits")
    for name in ("last_hidden_state", "pooler_output", *answers):
        x = getattr(out, name, None)
        if x is not None:
            x = x[real] if x.shape[:2] == real.shape else x
            total = total + (torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * x).mean()
    return total


def assert_transformers_loads(folder: Path, architecture: str, config: BaseConfig, **kind: Any) -> None:
    """transformers loads what we save, all of it; so do we, with the same config."""
    model = build(architecture, config).eval()
    fill_with_noise(model)
    model.save_pretrained(folder)
    theirs, report = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = several(architecture, MASKS["whole"], **kind)
    assert_outputs_agree(theirs.eval()(**given), model(**given), torch.ones(len(given["input_ids"]), 7).bool())
    again = from_pretrained(folder)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def assert_layouts_are_the_same_batch(model: Model, **kind: Any) -> None:
    """Padding on the right by mask and by lengths, and packed by offsets: the same hidden states."""
    mask = MASKS["right"]
    given, lengths, real = inputs(mask, **kind), mask.sum(1), mask.bool()
    tokens = {name: x for name, x in given.items() if name != "attention_mask"}
    want = model(**given).last_hidden_state
    assert torch.equal(model(**tokens, lengths=lengths).last_hidden_state, want)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    packed = model(**{name: x[real][None] for name, x in tokens.items()}, offsets=offsets)
    assert torch.equal(packed.last_hidden_state[0], want[real])


def count(architecture: str, config: BaseConfig) -> int:
    """Parameters, without any memory for them."""
    with torch.device("meta"):
        return build(architecture, config).num_parameters()


def assert_dropout_is_in_attention(model: nn.Module, **kind: Any) -> None:
    """Its attention's weights drop while it trains, by the seed; no more in evaluation mode."""
    given = inputs(MASKS["right"], **kind)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(**given).last_hidden_state

    model.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


def assert_head_drops(architecture: str, config: Callable[[float], BaseConfig]) -> None:
    """Its one dropout, by probability, is at work while it trains."""
    ids = torch.tensor([[5, 6, 7]])
    ids = ids[None] if architecture.endswith("ForMultipleChoice") else ids
    for probability, differs in ((0.0, False), (0.5, True)):
        model = build(architecture, config(probability)).train()
        torch.manual_seed(0)
        first, second = (next(x for x in vars(model(ids)).values() if x is not None) for _ in range(2))
        assert torch.equal(first, second) != differs


def assert_traces(model: Model, **kind: Any) -> None:
    """One graph, for a mask and for lengths, that agrees with eager calls."""
    mask = MASKS["right"]
    given = inputs(mask, **kind)
    tokens = {name: x for name, x in given.items() if name != "attention_mask"}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        want = model(**given).last_hidden_state
        assert_close(compiled(**given).last_hidden_state, want, "with a mask")
        assert_close(compiled(**tokens, lengths=mask.sum(1)).last_hidden_state, want, "with lengths")
