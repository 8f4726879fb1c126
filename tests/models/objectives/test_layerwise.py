"""TinyBERT's losses against transformers' hidden states and scores that are formed in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from torch import Tensor, nn

from pkernels.models import bert, build
from pkernels.models.parts.objectives import LayerwiseLoss, soft_cross_entropy
from pkernels.models.parts.objectives.layerwise import recorded

from ..pairs import assert_close, pair
from ..test_bert import MASKS

SIZES = {"vocab_size": 97, "num_attention_heads": 2, "intermediate_size": 17, "max_position_embeddings": 40}


def config(layers: int, width: int) -> transformers.BertConfig:
    return transformers.BertConfig(**SIZES, num_hidden_layers=layers, hidden_size=width)


def batch(padding: str) -> dict[str, Tensor]:
    mask = torch.tensor(MASKS[padding])
    return {
        "input_ids": torch.randint(97, mask.shape, generator=torch.Generator().manual_seed(0)),
        "attention_mask": mask,
    }


def formed(model: nn.Module, hidden: tuple[Tensor, ...]) -> list[Tensor]:
    """All scores before the softmax, ``(B, H, S, S)``, of transformers' layers."""
    scores = []
    for layer, x in zip(model.encoder.layer, hidden, strict=False):
        attention = layer.attention.self
        q, k = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (attention.query, attention.key))
        scores.append(q @ k.mT / q.shape[-1] ** 0.5)
    return scores


@pytest.mark.parametrize("padding", MASKS)
def test_scores_are_those_of_transformers(tmp_path: Path, padding: str) -> None:
    oracle, ours = pair(tmp_path, "BertModel", config(2, 10))
    given = batch(padding)
    with recorded(ours) as found:
        ours(**given)
    want = oracle(**given, output_attentions=True).attentions
    assert len(found) == len(want) == 2
    real = given["attention_mask"].bool()
    for scores, probabilities in zip(found, want, strict=True):
        assert torch.equal(scores.real, real[:, : scores.real.shape[1]])
        masked = (scores.q @ scores.k.mT / 5**0.5).masked_fill(~real[:, None, None], -torch.inf)
        rows = real[:, None, :].expand(-1, 2, -1)
        assert_close(masked.softmax(-1)[rows], probabilities[rows], "probabilities")


@pytest.mark.parametrize("padding", MASKS)
def test_losses_and_gradients_agree_with_a_plain_implementation(tmp_path: Path, padding: str) -> None:
    """Student and teacher as transformers have them, their scores formed in full; float64."""
    oracle, student = pair(tmp_path / "student", "BertModel", config(2, 10), torch.float64)
    taught, teacher = pair(tmp_path / "teacher", "BertModel", config(6, 14), torch.float64)
    project = nn.Linear(10, 14).double()
    given = batch(padding)
    loss = LayerwiseLoss(student, teacher, project)
    assert loss.layers == (3, 6)
    out = loss(**given)
    out.loss.backward()
    fit = [parameter.grad.clone() for parameter in project.parameters()]
    project.zero_grad()

    mine, theirs = (model(**given, output_hidden_states=True).hidden_states for model in (oracle, taught))
    real = given["attention_mask"].bool()
    pairs = real[:, None, :, None] & real[:, None, None, :]
    hidden = [F.mse_loss(project(mine[m][real]), theirs[n][real].detach()) for m, n in ((0, 0), (1, 3), (2, 6))]
    scores = list(zip(formed(oracle, mine), [formed(taught, theirs)[n].detach() for n in (2, 5)], strict=True))
    attention = sum((a - b)[pairs.expand_as(a)].square().mean() for a, b in scores)
    assert_close(out.embedding, hidden[0], "embedding")
    assert_close(out.hidden, hidden[1] + hidden[2], "hidden")
    assert_close(out.attention, attention, "attention")
    want = sum(hidden) + attention
    assert_close(out.loss, want, "loss")
    want.backward()
    for mine_, parameter in zip(fit, project.parameters(), strict=True):
        assert_close(mine_, parameter.grad, "gradient of the projection")
    got = student.named_tensors({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    for name, parameter in oracle.named_parameters():
        if parameter.grad is not None:
            assert_close(got[name], parameter.grad, name)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_packed_sequences_are_the_same_batch(tmp_path: Path) -> None:
    _, student = pair(tmp_path / "student", "BertModel", config(1, 10), torch.float64)
    _, teacher = pair(tmp_path / "teacher", "BertModel", config(2, 14), torch.float64)
    loss = LayerwiseLoss(student, teacher, nn.Linear(10, 14).double())
    given = batch("right")
    want = loss(**given)
    mask = given["attention_mask"].bool()
    offsets = F.pad(mask.sum(1).cumsum(0), (1, 0))
    for name, other in {
        "offsets": loss(given["input_ids"][mask][None], offsets=offsets),
        "lengths": loss(given["input_ids"], lengths=mask.sum(1)),
    }.items():
        for part in ("embedding", "hidden", "attention", "loss"):
            assert_close(getattr(other, part), getattr(want, part), f"{part} by {name}")


def tiny(layers: int, width: int = 8, **changes) -> nn.Module:
    sizes = SIZES | {"hidden_size": width, "num_hidden_layers": layers} | changes
    return build("BertModel", bert.Config(**sizes))


def test_recording_ends_with_its_block_and_asks_for_self_attention() -> None:
    model = tiny(1)
    with recorded(model) as found:
        model(torch.tensor([[1, 2]]))
    model(torch.tensor([[1, 2]]))
    assert len(found) == 1
    with pytest.raises(ValueError, match="model: one with SelfAttention layers is allowed"), recorded(nn.Linear(2, 2)):
        pass


def test_layers_map_uniformly_or_as_told() -> None:
    assert LayerwiseLoss(tiny(4), tiny(12), nn.Identity()).layers == (3, 6, 9, 12)
    assert LayerwiseLoss(tiny(2), tiny(12), nn.Identity(), layers=(1, 12)).layers == (1, 12)
    with pytest.raises(ValueError, match="layers: needed, as 5 layers of the teacher do not part evenly into 2"):
        LayerwiseLoss(tiny(2), tiny(5), nn.Identity())
    for layers in ((1,), (0, 1), (1, 6)):
        with pytest.raises(ValueError, match="layers: 2 numbers from 1 to 5 are allowed, got"):
            LayerwiseLoss(tiny(2), tiny(5), nn.Identity(), layers=layers)


def test_heads_must_be_as_many() -> None:
    loss = LayerwiseLoss(tiny(1, num_attention_heads=4), tiny(1), nn.Identity())
    with pytest.raises(ValueError, match="teacher_q: shape"):
        loss(torch.tensor([[1, 2]]))


def test_both_stages_bring_the_student_to_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = build("BertForSequenceClassification", bert.Config(**SIZES, hidden_size=16, num_hidden_layers=2))
    for parameter in teacher.parameters():  # a teacher with something to say
        parameter.data += 0.3 * torch.randn_like(parameter)
    teacher.head.classifier.weight.data *= 5
    student = build("BertForSequenceClassification", bert.Config(**SIZES, hidden_size=12, num_hidden_layers=1))
    loss = LayerwiseLoss(student, teacher, nn.Linear(12, 16)).train()
    learnt = [*student.parameters(), *loss.project.parameters()]
    draw = torch.Generator().manual_seed(0)

    def train(steps: int, measure) -> list[Tensor]:
        optimizer = torch.optim.AdamW(learnt, lr=1e-2)
        measured = []
        for _ in range(steps):
            values = measure(torch.randint(97, (16, 10), generator=draw))
            optimizer.zero_grad()
            values[0].backward()
            optimizer.step()
            measured.append(torch.stack(values).detach())
        return measured

    def layerwise(ids: Tensor) -> tuple[Tensor, ...]:
        out = loss(ids)
        return out.loss, out.embedding, out.hidden, out.attention

    def predictions(ids: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            wanted = teacher(ids).logits
        # Less what no student can learn: the entropy of the teacher.
        entropy = soft_cross_entropy(wanted, wanted)
        return (soft_cross_entropy(student(ids).logits, wanted) - entropy,)

    first = train(150, layerwise)
    start, end = first[0], torch.stack(first[-10:]).mean(0)
    assert (end < 0.8 * start).all(), (start, end)
    second = train(200, predictions)
    assert torch.stack(second[-10:]).mean() < 0.6 * torch.stack(second[:3]).mean()
