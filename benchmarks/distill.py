"""Students of 3 layers learn from all-MiniLM-L6-v2, whose 6 layers have real weights, on real text.

Sentences of Python's documentation (``pydoc_data.topics``), packed without padding; every eighth
topic is held out, and of it what no other topic says. A student is as good as it ranks pairs of
held-out sentences by similarity in the teacher's order: Spearman's correlation over all pairs.
What is taught is in ``lessons.py``. Optimizers are AdamW, whose rate rises over the first tenth of
a stage and then falls to 0; dropout is the teacher's own configuration.

In the end each student goes to transformers through files, and must give the same vectors there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from pkernels.models import Encoder, Model

from . import text
from .check import Verdict
from .lessons import KEPT, Course
from .rows import Row
from .timing import Times

BATCH, LONGEST = 32, 128
EVALUATIONS = 20
HELD = 8
"""One topic of so many is held out."""


@dataclass
class School:
    """What all students share: the teacher, token ids to learn from, and held-out ones with the
    teacher's vectors of them."""

    teacher: Encoder
    lessons: list[list[int]]
    exam: list[list[int]]
    device: str
    wanted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = vectors(self.teacher, self.exam)

    @staticmethod
    def of(device: str, most: int | None = None) -> School:
        """The real one; ``most`` sentences of each kind."""
        teacher = Encoder.from_pretrained(str(text.folder()), device=device)
        encoder = Encoder(teacher.model, teacher.tokenizer, LONGEST)
        taught, held = parted()
        return School(encoder, encoder.tokenize(taught[:most]), encoder.tokenize(held[:most]), device)

    def encoder(self, student: Model) -> Encoder:
        """The student, with the teacher's tokenizer."""
        return Encoder(student, self.teacher.tokenizer, LONGEST)

    def grade(self, student: Model) -> float:
        """Spearman's correlation of both similarities over all pairs of held-out sentences."""
        training = student.training
        found = vectors(self.encoder(student.eval()), self.exam)
        student.train(training)
        return spearman(pairwise(found), pairwise(self.wanted))

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Token ids ``(1, total)`` of some sentences, and their offsets."""
        chosen = [self.lessons[i] for i in torch.randperm(len(self.lessons), generator=generator)[:BATCH].tolist()]
        offsets = torch.tensor([0, *map(len, chosen)]).cumsum(0)
        packed = torch.tensor([[token for sentence in chosen for token in sentence]])
        return packed.to(self.device), offsets.to(self.device)


def parted() -> tuple[list[str], list[str]]:
    """Sentences to learn from, and those held out, each once."""
    from pydoc_data.topics import topics

    parts: tuple[dict[str, None], dict[str, None]] = {}, {}
    for number, name in enumerate(sorted(topics)):
        for _, paragraph in text.paragraphs(topics[name]):
            parts[number % HELD == 0].update(dict.fromkeys(text.sentences(paragraph)))
    taught, held = parts
    return list(taught), [sentence for sentence in held if sentence not in taught]


@torch.inference_mode()
def vectors(encoder: Encoder, ids: Sequence[Sequence[int]]) -> Tensor:
    """Unit vectors of sentences."""
    return torch.cat([encoder.encode_ids(ids[i : i + BATCH]) for i in range(0, len(ids), BATCH)])


def pairwise(units: Tensor) -> Tensor:
    """Cosines of all pairs, each once.

    Example:
        >>> pairwise(torch.eye(3))
        tensor([0., 0., 0.])
    """
    rows, columns = torch.triu_indices(len(units), len(units), offset=1, device=units.device)
    return (units @ units.T)[rows, columns]


def spearman(a: Tensor, b: Tensor) -> float:
    """The correlation of two lists' ranks; equal values share the mean of theirs.

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 10.0, 100.0])), 6)
        1.0
    """
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(x: Tensor) -> Tensor:
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2.0).double()[place]


# Training -------------------------------------------------------------------------------


@dataclass
class Record:
    """What became of a student: losses and seconds of every step, ``stages`` the steps at which
    a lesson begins, ``correlations`` with the teacher by the number of steps before."""

    student: Model
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    correlations: list[tuple[int, float]] = field(default_factory=list)


def teach(course: Course, school: School, steps: int, report: Callable[[str], object]) -> Record:
    """Take one student through its course."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # initial weights and dropout
        record = Record(course.start(school.teacher.model).to(school.device))
        record.correlations.append((0, school.grade(record.student)))
        generator = torch.Generator().manual_seed(0)
        counts = [max(1, round(stage.share * steps)) for stage in course.stages]
        counts[-1] = steps - sum(counts[:-1])
        for stage, count in zip(course.stages, counts, strict=True):
            record.stages.append(len(record.losses))
            loss = stage.lesson(record.student, school.teacher.model)
            _learn(loss, record, stage.rate, count, school, generator, report)
    return record


def _learn(
    loss: nn.Module, record: Record, rate: float, steps: int, school: School, generator: torch.Generator,
    report: Callable[[str], object],
) -> None:  # fmt: skip
    loss.to(school.device).train()
    learned = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    every = max(1, steps // EVALUATIONS)
    for step in range(1, steps + 1):
        started = time.perf_counter()
        value = loss(*school.batch(generator))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        record.losses.append(float(value.detach()))
        record.seconds.append(time.perf_counter() - started)
        if step % every == 0 or step == steps:
            record.correlations.append((len(record.losses), school.grade(record.student)))
        report(f"loss {record.losses[-1]:.3f}, correlation {record.correlations[-1][1]:.3f}")


def _share(step: int, steps: int) -> float:
    """Of the highest rate, at a step counted from 0."""
    rising = max(1, steps // 10)
    return min((step + 1) / rising, (steps - step) / (steps - rising + 1))


# Rows -----------------------------------------------------------------------------------


def distill(
    steps: int, school: School, facts: dict, report: Callable[[str], object], courses: Sequence[Course]
) -> list[Row]:
    """Teach a student by each course; a row for each.

    A row has the student's ``losses``, ``step_seconds`` and ``stages``, ``correlations`` with the
    teacher as pairs with the number of steps before, and the last of them as ``spearman``.

    Args:
        report: Told after each step how far the student is.
    """
    case = f"all-MiniLM-L6-v2 to {len(KEPT)} layers, float32, {BATCH} sentences"
    rows = []
    for course in courses:
        record = teach(course, school, steps, lambda line, name=course.name: report(f"{name}: {line}"))  # type: ignore[misc]
        rows.append(_row(case, course.name, record, school, facts))
    return rows


def summary(rows: list[Row]) -> list[str]:
    """How near each student came, in a line."""
    return [
        f"{row['contender']}: Spearman's correlation with the teacher {row['correlations'][0][1]:.3f} at first, "
        f"{row['spearman']:.3f} after {len(row['losses'])} steps, over all pairs of {row['held_out']} sentences"
        for row in rows
    ]


def _row(case: str, name: str, record: Record, school: School, facts: dict) -> Row:
    verdict, t = same_vectors(record.student, school), Times.of(record.seconds)
    row: Row = {"family": "distillation", "case": case, "contender": name, "direction": "step", "x": None}
    row |= {"dtype": "float32", "parameters": record.student.num_parameters()}
    row |= {"sentences": len(school.lessons), "held_out": len(school.exam)}
    row |= {"losses": record.losses, "step_seconds": record.seconds, "stages": record.stages}
    row |= {"correlations": record.correlations, "spearman": record.correlations[-1][1]}
    row |= {"checked": asdict(verdict), **facts}
    if verdict.passed:
        row |= {"seconds": vars(t), "rate": BATCH / t.median, "unit": "sentences/s"}
    else:
        row["skip"] = f"wrong: vectors differ from transformers' by {verdict.worst:.3g} times what is allowed"
    return row


def same_vectors(student: Model, school: School) -> Verdict:
    """Whether the student, in transformers, gives the same vectors of the held-out sentences."""
    order = range(len(school.exam))
    with tempfile.TemporaryDirectory() as folder:
        student.save_pretrained(folder)
        theirs = text.embedding(text.theirs(folder, school.device), text.padded(school.exam, order, school.device))()
    ours = vectors(school.encoder(student.eval()), school.exam)
    error = float((ours - theirs).abs().nan_to_num(nan=torch.inf).max()) / text.TOLERANCE
    return Verdict(error <= 1, error, "vectors")


def missing() -> str | None:
    """What distillation lacks, or None."""
    return text.missing()
