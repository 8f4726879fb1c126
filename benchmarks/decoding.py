"""Writing word by word behind a long context, with caches, beside transformers' own.

All sides have the same weights, which went through files, and the same context: rows of Python's
documentation, bytes as tokens. Each reads it ("prompt") and then writes the best word that it has not
written yet, which is what it reads next ("word"). (The best of all is, of a model that was not
trained, the last one once more.) The words of all must be the same and their scores agree, or nothing
is timed.

"word" is timed word by word: the sides take turns, and the context of each grows by one a turn, up
to ``WORDS``. ``memory`` is the peak on top of parameters and ids: of "prompt" with the caches, of
"word" on top of those.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from . import corpus, memory
from .check import Verdict, worst
from .long import fill, missing
from .models import AUTHORS, Author, twins
from .models.authors import Read, Step, ours
from .rows import Row
from .runner import LATE
from .sides import NOISE
from .timing import Times, interleave

DIRECTIONS = ("prompt", "word")
CHECKED, WORDS = 16, 100


@dataclass(frozen=True)
class Decoding:
    """A model behind a context of one length, or a batch of them."""

    author: Author
    context: int
    layers: int
    batch: int = 1
    family: str = "decoding"

    @property
    def name(self) -> str:
        """Unique within the family."""
        layers = f"{self.layers} layer{'s' if self.layers > 1 else ''}"
        return f"{self.author.name}, {layers} float32 S={self.context} B={self.batch}"

    @property
    def title(self) -> str:
        """Family and name."""
        return f"{self.family}: {self.name}"

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of the sides."""
        return ("pkernels", *self.author.peers)


def cases(full: bool) -> list[Decoding]:
    """All cases of a mode."""
    return [Decoding(author, *size) for author in AUTHORS for size in (author.sizes if full else author.quick)]


@dataclass
class Scribe:
    """A side: a model, what it has written since it read the context, and what it writes next."""

    module: nn.Module
    read: Read
    ids: Tensor
    words: list[Tensor] = field(default_factory=list)
    scores: Tensor = field(init=False)
    left: Tensor = field(init=False)
    step: Step = field(init=False)

    @torch.no_grad()
    def begin(self) -> None:
        """Read the context; what stood in the caches is gone before that."""
        self.words, self.step = [], _unread
        self.scores, self.step = self.read(self.module, self.ids, WORDS)
        self.left = torch.zeros_like(self.scores)

    @torch.no_grad()
    def write(self) -> None:
        """The next word."""
        words = (self.scores + self.left).argmax(-1)
        self.left.scatter_(1, words[:, None], -torch.inf)
        self.words.append(words)
        self.scores = self.step(words)


def _unread(words: Tensor) -> Tensor:
    raise RuntimeError("nothing was read")


def scribes(case: Decoding, device: str) -> dict[str, Scribe]:
    """A side for each contender."""
    author = case.author
    models = twins(author.architecture, author.config(case.context + WORDS, case.layers), device, NOISE)
    mine, theirs = (model.eval() for model in models)
    ids = corpus.rows(case.context)[: case.batch].to(device)
    others = {name: Scribe(theirs, read, ids) for name, read in author.peers.items()}
    return {"pkernels": Scribe(mine, ours, ids), **others}


def first(scribe: Scribe, device: str) -> dict[str, int | None]:
    """A side's first prompt and words: the memory of both."""

    def words() -> None:
        for _ in range(CHECKED):
            scribe.write()

    if device == "cuda":  # compiles
        scribe.begin()
        words()
    gc.collect()
    return {"prompt": memory.peak(scribe.begin, device), "word": memory.peak(words, device)}


def agree(case: Decoding, sides: dict[str, Scribe]) -> Verdict:
    """Whether all wrote the same words, and score the next one alike."""
    mine, *others = sides.values()
    verdicts = []
    for name, other in zip(case.author.peers, others, strict=True):
        same = torch.equal(torch.stack(mine.words), torch.stack(other.words))
        verdicts.append(Verdict(same, 0.0 if same else torch.inf, f"words of {name}"))
        allowed = case.author.tolerance * float(other.scores.abs().max())
        error = float((mine.scores - other.scores).abs().nan_to_num(nan=torch.inf).max()) / allowed
        verdicts.append(Verdict(error <= 1, error, f"scores of {name}"))
    return worst(verdicts)


@dataclass
class Runner:
    """Checks and measures cases on one device; ``facts`` are what every row carries."""

    device: str
    facts: dict

    def run(self, case: Decoding, seconds: float) -> list[Row]:
        """Rows of a case, spending about ``seconds`` on timing on top of the first words of each."""
        reason = missing()
        if reason is not None:
            return self._skipped(case, reason)
        sides = scribes(case, self.device)
        taken = {name: first(scribe, self.device) for name, scribe in sides.items()}
        verdict = agree(case, sides)
        if not verdict.passed:
            skip = f"wrong: {verdict.where}: {verdict.worst:.3g} times what is allowed"
            return [{**row, "checked": verdict.as_dict()} for row in self._skipped(case, skip)]
        found: list[Row] = []
        for direction in DIRECTIONS:
            rows = {name: self._bare(case, name, direction) for name in sides}
            for name, row in rows.items():
                row.update(memory=taken[name][direction], checked=verdict.as_dict())
            times = self._times(direction, sides, seconds / len(DIRECTIONS))
            fill(rows, times, case.batch * (case.context if direction == "prompt" else 1))
            found += rows.values()
        return found

    def _times(self, direction: str, sides: dict[str, Scribe], seconds: float) -> dict[str, Times]:
        runs: dict[str, Callable[[], object]] = {name: scribe.begin for name, scribe in sides.items()}
        if direction == "word":
            for scribe in sides.values():
                scribe.begin()
            runs = {name: scribe.write for name, scribe in sides.items()}
        return interleave(runs, self.device, seconds, least=1, most=WORDS, shortest=0.0)

    def late(self, case: Decoding) -> list[Row]:
        """Rows of a case for which no time was left."""
        return self._skipped(case, LATE)

    def _skipped(self, case: Decoding, reason: str) -> list[Row]:
        return [{**self._bare(case, name, d), "skip": reason} for d in DIRECTIONS for name in case.contenders]

    def _bare(self, case: Decoding, contender: str, direction: str) -> Row:
        row = {"family": case.family, "case": case.name, "contender": contender, "direction": direction}
        return {**row, "x": None, "dtype": "float32", **self.facts}
