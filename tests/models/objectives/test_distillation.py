"""What a student learns from a teacher, against plain formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pkernels.models import Model, bert, build
from pkernels.models.parts.objectives import (
    DISTILBERT,
    TripleLoss,
    cosine_loss,
    initialise_student,
    mask_tokens,
    soft_cross_entropy,
    soft_loss,
)

from ..pairs import assert_close, fill_with_noise
from ..test_bert import MASKS

TINY = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(layers: int, seed: int, architecture: str = "BertForMaskedLM", **changes) -> Model:
    found = build(architecture, bert.Config(**TINY | changes, num_hidden_layers=layers))
    fill_with_noise(found, seed)
    return found


def logits() -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, 7, 11, dtype=torch.float64, generator=seeded()) * 3
    return student.requires_grad_(), teacher.requires_grad_()


# The losses one by one ------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_soft_loss_is_the_scaled_divergence_from_the_teacher(temperature: float) -> None:
    student, teacher = logits()
    p, q = (x.div(temperature).exp() for x in (teacher, student))
    p, q = (x / x.sum(1, keepdim=True) for x in (p, q))
    want = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    got = soft_loss(student, teacher, temperature)
    assert_close(got, want, "loss")
    assert_close(torch.autograd.grad(got, student)[0], torch.autograd.grad(want, student)[0], "gradient")


def test_soft_losses_gradient_keeps_its_size_at_high_temperatures() -> None:
    """Hinton et al.: then it goes to the difference of the centred logits over their number."""
    student, teacher = logits()
    [gradient] = torch.autograd.grad(soft_loss(student, teacher, 1e4), student)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    assert ((gradient - (centred[0] - centred[1]) / 11 / 7).abs() < 1e-4).all()
    assert gradient.abs().max() > 1e-2


def test_soft_cross_entropy_is_tinyberts() -> None:
    student, teacher = logits()
    for temperature in (1.0, 3.0):
        p, q = (x.div(temperature).softmax(1) for x in (teacher, student))
        want = -(p * q.log()).sum(1).mean()
        got = soft_cross_entropy(student, teacher, temperature)
        assert_close(got, want, "loss")
        assert_close(torch.autograd.grad(got, student)[0], torch.autograd.grad(want, student)[0], "gradient")


def test_cosine_loss_is_torchs() -> None:
    student, teacher = logits()
    want = nn.CosineEmbeddingLoss()(student, teacher.detach(), torch.ones(7, dtype=torch.float64))
    got = cosine_loss(student, teacher)
    assert_close(got, want, "loss")
    assert_close(torch.autograd.grad(got, student)[0], torch.autograd.grad(want, student)[0], "gradient")


@pytest.mark.parametrize("loss", [soft_loss, soft_cross_entropy, cosine_loss])
def test_the_teacher_gets_no_gradient(loss) -> None:
    student, teacher = logits()
    loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.any()


# The triple loss ------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["right", "left", "whole", "one"])
def test_triple_loss_agrees_with_a_plain_implementation(padding: str) -> None:
    student, teacher = model(2, 0).double(), model(3, 1).double()
    mask = torch.tensor(MASKS[padding])
    ids = torch.randint(31, mask.shape, generator=seeded(1))
    masked, labels = mask_tokens(ids, mask == 0, mask_id=3, words=31, rate=0.5, generator=seeded(3))
    triple = TripleLoss(student, teacher).eval()
    out = triple(masked, labels, attention_mask=mask)
    out.loss.backward()
    got = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}

    mine = student(masked, attention_mask=mask, output_hidden_states=True)
    theirs = teacher(masked, attention_mask=mask, output_hidden_states=True)
    real = mask.bool()
    p, q = theirs.logits[real].div(2).softmax(-1), mine.logits[real].div(2).softmax(-1)
    soft = 4 * (p * (p / q).log()).sum(-1).mean()
    chosen = labels != -100
    cloze = -mine.logits.log_softmax(-1)[chosen].gather(1, labels[chosen][:, None]).mean()
    a, b = mine.hidden_states[-1][real], theirs.hidden_states[-1][real]
    cosine = (1 - (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).mean()
    want = 5 * soft + 2 * cloze + cosine
    for name, one in {"soft": soft, "masked": cloze, "cosine": cosine, "loss": want}.items():
        assert_close(getattr(out, name), one, name)
    gradients = torch.autograd.grad(want, list(student.parameters()))
    for (name, mine_), theirs_ in zip(got.items(), gradients, strict=True):
        assert_close(mine_, theirs_, name)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_weights_and_temperature_are_the_callers() -> None:
    student, teacher = model(1, 0), model(1, 1)
    ids = torch.randint(31, (2, 9), generator=seeded())
    labels = ids.clone()
    plain = TripleLoss(student, teacher).eval()(ids, labels)
    other = TripleLoss(student, teacher, temperature=0.2, weights=(1.0, 0.5, 3.0)).eval()(ids, labels)
    assert_close(other.loss, other.soft + 0.5 * other.masked + 3 * other.cosine, "loss")
    assert_close(other.masked, plain.masked, "masked")
    assert abs(other.soft - plain.soft) > 1e-3


def test_the_teacher_is_frozen_and_never_in_training_mode() -> None:
    student, teacher = model(1, 0, hidden_dropout_prob=0.5), model(1, 1, hidden_dropout_prob=0.5)
    triple = TripleLoss(student, teacher).train()
    assert student.training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    triple.eval()
    assert not student.training


def test_a_copy_of_the_teacher_has_only_the_cloze_to_learn() -> None:
    teacher = model(2, 1)
    student = model(2, 0)
    initialise_student(student, teacher, (0, 1))
    ids = torch.randint(31, (2, 9), generator=seeded())
    out = TripleLoss(student, teacher).eval()(ids, ids)
    assert abs(out.soft) < 1e-5 and abs(out.cosine) < 1e-5 and out.masked > 0.1


# The start ------------------------------------------------------------------------------


def test_a_student_starts_as_every_other_layer_of_the_teacher() -> None:
    student, teacher = model(6, 0), model(12, 1, "BertForPreTraining")
    initialise_student(student, teacher)
    mine, theirs = student.state_dict(), teacher.state_dict()
    for name, tensor in mine.items():
        source = name
        if ".layers." in name:
            number = int(name.split(".")[2])
            source = name.replace(f".{number}.", f".{(0, 2, 4, 7, 9, 11)[number]}.", 1)
        assert torch.equal(tensor, theirs[source]), name
    assert DISTILBERT == (0, 2, 4, 7, 9, 11)
    # A copy: training the student leaves the teacher.
    with torch.no_grad():
        student.body.embeddings.words.weight.zero_()
    assert teacher.body.embeddings.words.weight.any()


@pytest.mark.parametrize(
    ("student", "layers", "message"),
    [
        ({"layers": 2}, (0, 1, 2), r"layers: 2 \(the student's\) are allowed, got 3"),
        ({"layers": 2}, (0, 3), r"layers: 0 to 2 \(the teacher's\) are allowed, got \(0, 3\)"),
        ({"layers": 1, "hidden_size": 8}, (0,), r"words.weight \(\(31, 8\), the teacher: \(31, 12\)\)"),
        ({"layers": 1, "architecture": "BertForPreTraining"}, (0,), r"head.relation.weight .*the teacher: none"),
    ],
)  # fmt: skip
def test_students_that_do_not_fit_are_refused(student: dict, layers: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initialise_student(model(**student, seed=0), model(3, 1), layers)


def test_bad_temperatures_are_named() -> None:
    for loss in (soft_loss, soft_cross_entropy):
        with pytest.raises(ValueError, match="temperature: above 0 is allowed, got 0"):
            loss(*logits(), 0.0)


def test_training_brings_the_student_to_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = model(2, 1)
    student = build("BertForMaskedLM", bert.Config(**TINY, num_hidden_layers=1))
    triple = TripleLoss(student, teacher).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    draw, losses = seeded(), []
    for _ in range(120):
        ids = torch.randint(4, 31, (16, 10), generator=draw)
        masked, labels = mask_tokens(ids, ids < 0, mask_id=3, words=31, generator=draw)
        out = triple(masked, labels)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append((out.soft.item(), out.cosine.item()))
    first, last = losses[0], [sum(x) / 10 for x in zip(*losses[-10:], strict=True)]
    assert last[0] < 0.5 * first[0] and last[1] < 0.7 * first[1], losses[::10]
