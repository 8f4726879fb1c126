"""A small model learns real text, beside transformers' own: same weights, same batches, same AdamW.

Both take their steps in turn. Without dropout they compute the same function, so the gradients
of the first step and the losses of the first steps are the same but for rounding, and must be:
a model that differs is red, learns no further and is not drawn. (At the start attention is
nearly uniform and hardly moves the loss; the gradients of its projections tell.) Later, the
curves may part: AdamW divides a gradient by its own size, so rounding of gradients that are
nearly 0 becomes steps of full size.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from . import corpus, memory
from .check import Verdict, same_gradients, worst
from .models import Learner, twins
from .rows import Row
from .timing import Times

WARMUP = 20
CHECKED = 10
"""The losses of so many first steps must agree. They are means of hundreds of numbers near 5,
whose float32 neighbours are 5e-7 apart, and differ by one or two of those."""


@dataclass
class Run:
    """One model and its optimizer, as far as they have come."""

    name: str
    model: nn.Module
    rate: float
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None

    def __post_init__(self) -> None:
        self.model.train()
        # Betas and epsilon of RoBERTa (Liu et al. 2019, arXiv:1907.11692, section 3.1).
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=self.rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01
        )

    def step(self, arguments: dict[str, Tensor], device: str) -> None:
        """Learn one batch."""
        self.optimizer.param_groups[0]["lr"] = self.rate * min(1.0, (len(self.losses) + 1) / WARMUP)

        def learn() -> None:
            loss = self.model(**arguments).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(float(loss.detach()))

        started = time.perf_counter()
        if self.losses:
            learn()
        else:
            self.memory = memory.peak(learn, device)
        self.seconds.append(time.perf_counter() - started)


def missing() -> str | None:
    """What training lacks, or None."""
    return None if importlib.util.find_spec("transformers") else "transformers is not installed"


def train(learner: Learner, steps: int, device: str, facts: dict, report: Callable[[str], object]) -> list[Row]:
    """Train both; a row for each, with its ``losses``, ``step_seconds`` and the ``unigram`` entropy.

    Args:
        report: Told after each step how far both are.
    """
    ours, theirs = twins(learner.architecture, learner.config(learner.length), device)
    for name in learner.unused:
        ours.get_parameter(name).requires_grad_(False)
    runs = Run("pkernels", ours, learner.rate), Run("transformers", theirs, learner.rate)
    verdicts: list[Verdict] = []
    text, generator = corpus.rows(learner.length), torch.Generator().manual_seed(0)
    predicted = torch.zeros(ours.config.vocab_size)  # type: ignore[attr-defined]
    for step in range(steps):
        places = torch.randint(len(text), (learner.batch,), generator=generator)
        arguments = learner.objective(text[places], generator)
        predicted += _counts(arguments["labels"], len(predicted))
        for run in runs:
            run.step({name: x.to(device) for name, x in arguments.items()}, device)
        report(" ".join(f"{run.name} {run.losses[-1]:.3f}" for run in runs))
        if step == 0:
            verdicts.append(same_gradients(ours.named_tensors(_gradients(ours)), _gradients(theirs)))
        if step < CHECKED:
            verdicts.append(same_loss(*runs, learner.tolerance))
            if not worst(verdicts).passed:
                break
    return _rows(learner, runs, facts, worst(verdicts), entropy(predicted))


def same_loss(ours: Run, theirs: Run, allowed: float) -> Verdict:
    """Whether the last losses are the same but for rounding."""
    error = abs(ours.losses[-1] - theirs.losses[-1]) / allowed
    error = error if error == error else torch.inf
    return Verdict(error <= 1, error, f"loss of step {len(ours.losses)}")


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def entropy(counts: Tensor) -> float:
    """In nats: the loss of the best guess that knows no context, only how often each word is right.

    Example:
        >>> round(entropy(torch.tensor([2.0, 0.0, 2.0])), 3)
        0.693
    """
    p = counts.double() / counts.sum()
    return float(torch.special.entr(p).sum())


def summary(rows: list[Row]) -> list[str]:
    """What the curves say, in a line for each model."""
    last = min(50, len(rows[0]["losses"]))
    return [
        f"{row['contender']}: loss {row['losses'][0]:.3f} at first, {sum(row['losses'][-last:]) / last:.3f} "
        f"on average of the last {last} of {len(row['losses'])} steps; unigrams: {row['unigram']:.3f}"
        for row in rows
    ]


def _counts(labels: Tensor, words: int = corpus.WORDS) -> Tensor:
    return torch.bincount(labels[labels >= 0], minlength=words).float()


def _rows(learner: Learner, runs: tuple[Run, Run], facts: dict, verdict: Verdict, unigram: float) -> list[Row]:
    case = f"{learner.architecture} float32 S={learner.length} B={learner.batch}"
    base = Times.of(runs[0].seconds[1:] or runs[0].seconds)
    rows = []
    for run in runs:
        t = Times.of(run.seconds[1:] or run.seconds)  # the first is slow: memory is fetched, and watched
        row: Row = {"family": "training", "case": case, "contender": run.name, "direction": "step", "x": None}
        row |= {"dtype": "float32", "unigram": unigram, "losses": run.losses, "step_seconds": run.seconds}
        row |= {"checked": asdict(verdict), "memory": run.memory, **facts}
        if verdict.passed:
            row |= {"seconds": vars(t), "ratio": t.median / base.median}
            row |= {"memory_ratio": (run.memory or 0) / runs[0].memory if runs[0].memory else None}
            row |= {"rate": learner.length * learner.batch / t.median, "unit": "tokens/s"}
        else:
            row["skip"] = (
                f"wrong: {verdict.where} differs from transformers' by {verdict.worst:.3g} times what is allowed"
            )
        rows.append(row)
    return rows
