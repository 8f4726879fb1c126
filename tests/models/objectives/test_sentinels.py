"""Span corruption against the paper's figure and statistics."""

from __future__ import annotations

import pytest
import torch

from pkernels.models import build, t5
from pkernels.models.parts.objectives import (
    TASKS,
    as_text,
    choose_spans,
    fitting_length,
    hide_spans,
    similarity_text,
    span_corruption,
    span_counts,
)

from ..pairs import paragraphs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spans(chosen: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


def test_figure_2_of_the_paper() -> None:
    """Thank you for inviting me to your party last week."""
    words = torch.arange(10, 20)
    chosen = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 0]).bool()
    inputs, target = hide_spans(words, chosen, sentinel=99)
    assert inputs.tolist() == [10, 11, 99, 14, 15, 16, 17, 98, 19]
    assert target.tolist() == [99, 12, 13, 98, 18, 97]


@pytest.mark.parametrize(
    ("chosen", "inputs", "target"),
    [
        ([0, 0, 0], [5, 6, 7], [99]),
        ([1, 1, 1], [99], [99, 5, 6, 7]),
        ([1, 0, 1], [99, 6, 98], [99, 5, 98, 7]),
        ([1, 0, 0], [99, 6, 7], [99, 5, 98]),
        ([], [], []),
    ],
)
def test_spans_at_the_edges(chosen: list[int], inputs: list[int], target: list[int]) -> None:
    tokens = torch.arange(5, 5 + len(chosen))
    got = hide_spans(tokens, torch.tensor(chosen).bool(), sentinel=99)
    assert [x.tolist() for x in got] == [inputs, target]


def test_512_tokens_come_of_568_and_have_targets_of_114() -> None:
    """T5's own lengths (the authors' code, ``random_spans_helper``)."""
    assert fitting_length(512) == (568, 114)
    assert span_counts(568) == (85, 28)
    inputs, labels = span_corruption(torch.randint(2, 1000, (3, 568), generator=seeded()), end=1, generator=seeded())
    assert inputs.shape == (3, 512) and labels.shape == (3, 114)
    assert (inputs[:, -1] == 1).all() and (labels[:, -1] == 1).all()
    sentinels = torch.arange(32099, 32099 - 28, -1)
    for row, target in zip(inputs, labels, strict=True):
        assert torch.equal(row[row > 1000], sentinels)
        assert torch.equal(target[target > 1000], sentinels)


@pytest.mark.parametrize("inputs", [3, 10, 64, 100, 511])
def test_the_length_is_the_greatest_that_fits(inputs: int) -> None:
    length, targets = fitting_length(inputs)

    def made(n: int) -> tuple[int, int]:
        return tuple(x.shape[1] for x in span_corruption(torch.zeros(1, n).long(), end=1))

    assert made(length) == (made(length)[0], targets)
    assert made(length)[0] <= inputs < made(length + 1)[0]


def test_fifteen_percent_in_spans_of_three() -> None:
    draw = seeded()
    rows = [choose_spans(568, generator=draw) for _ in range(400)]
    assert all(int(row.sum()) == 85 and len(spans(row)) == 28 for row in rows)
    assert all(not row[0] and row[-1] for row in rows)
    sizes = torch.tensor([size for row in rows for size in spans(row)])
    # Cuts of 85 into 28 are equally likely: a part is 1 with probability 27 / 84.
    assert abs(float((sizes == 1).float().mean()) - 27 / 84) < 4 * (27 / 84 * 57 / 84 / len(sizes)) ** 0.5
    places = torch.stack(rows).float().mean(0)[150:400]
    assert abs(float(places.mean()) - 0.15) < 0.01 and float(places.std()) < 0.03


@pytest.mark.parametrize(
    ("rate", "mean", "counts"), [(0.5, 3.0, (50, 17)), (0.15, 10.0, (15, 2)), (0.95, 1.0, (95, 5))]
)
def test_other_rates_and_lengths(rate: float, mean: float, counts: tuple[int, int]) -> None:
    assert span_counts(100, rate=rate, mean=mean) == counts
    chosen = choose_spans(100, rate=rate, mean=mean, generator=seeded())
    assert (int(chosen.sum()), len(spans(chosen))) == counts


def test_input_and_target_together_are_the_text() -> None:
    tokens = torch.randint(2, 1000, (5, 73), generator=seeded())
    inputs, labels = span_corruption(tokens, end=1, generator=seeded(1))
    for text, row, target in zip(tokens, inputs.tolist(), labels.tolist(), strict=True):
        told: dict[int, list[int]] = {}
        for token in target[:-1]:
            (told.setdefault(token, []) if token > 1000 else told[max(told, key=lambda x: -x)]).append(token)
        whole = [x for token in row[:-1] for x in (told[token][1:] if token > 1000 else [token])]
        assert whole == text.tolist()


def test_bad_spans_are_named() -> None:
    with pytest.raises(ValueError, match="length: at least 2"):
        choose_spans(1)
    with pytest.raises(ValueError, match="mean: at least 1"):
        choose_spans(10, mean=0.5)
    with pytest.raises(ValueError, match=r"rate: in \[0, 1\]"):
        choose_spans(10, rate=1.5)
    with pytest.raises(ValueError, match="chosen: spans for 2 sentinels are allowed, got 2 and the end"):
        hide_spans(torch.arange(5), torch.tensor([0, 1, 0, 1, 0]).bool(), sentinels=2)
    with pytest.raises(ValueError, match=r"tokens: integers of shape \(B, n\)"):
        span_corruption(torch.arange(5), end=1)


def test_a_small_model_learns_to_fill_spans_of_real_text() -> None:
    text = "\n".join(paragraphs())[: 60 * 300].encode("latin-1", "replace")
    rows = (torch.tensor(list(text)) % 128).view(-1, 60)
    torch.manual_seed(0)
    config = t5.Config(
        vocab_size=160, d_model=48, d_kv=16, d_ff=96, num_layers=1, num_heads=3, dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = build("T5ForConditionalGeneration", config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(90):
        batch = rows[torch.arange(step * 16, step * 16 + 16) % len(rows)]
        ids, labels = span_corruption(batch, end=1, sentinel=159, generator=seeded(step))
        loss = model(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    letters = torch.bincount(rows.flatten()).float() / rows.numel()
    unigram = -float((letters * letters.clamp(min=1e-9).log()).sum())
    assert sum(losses[-10:]) / 10 < 0.9 * unigram, (losses[-1], unigram)


# Prefixes --------------------------------------------------------------------------------


def test_every_task_is_text() -> None:
    for task, (_, names) in TASKS.items():
        parts = {name: name.upper() for name in names}
        text = as_text(task, **parts) if names else as_text(task, "TEXT")
        assert all(f"{name}: {name.upper()}" in text for name in names)
        assert text.startswith(
            ("question:", "translate English to German: TEXT") if task in ("squad", "translate") else task
        )


def test_prefixes_of_the_papers_examples() -> None:
    """Appendix D."""
    assert as_text("cola", sentence="John made Bill master of himself.") == (
        "cola sentence: John made Bill master of himself."
    )
    copa = as_text("copa", choice1="A.", choice2="B.", premise="P.", question="effect")
    assert copa == "copa choice1: A. choice2: B. premise: P. question: effect"
    assert as_text("summarize", "long text") == "summarize: long text"
    assert as_text("squad", question="Q?", context="C.") == "question: Q? context: C."
    assert as_text("translate", "x", language="Romanian") == "translate English to Romanian: x"


def test_similarities_are_told_in_fifths() -> None:
    assert [similarity_text(score) for score in (1, 2.57, 3.25, 5.0)] == ["1.0", "2.6", "3.2", "5.0"]


def test_bad_tasks_are_named() -> None:
    with pytest.raises(ValueError, match="task: one of cola, sst2"):
        as_text("poem", "x")
    with pytest.raises(ValueError, match="mnli: hypothesis, premise is allowed, got hypothesis"):
        as_text("mnli", hypothesis="x")
    with pytest.raises(ValueError, match="summarize: one text is allowed, got nothing"):
        as_text("summarize")
