"""UNITER against its equations in plain torch, one row at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pkernels.models import Model, from_pretrained

from . import joint_cases
from .dense_joint import (
    CLASSES,
    FEATURES,
    INNER,
    LAYERS,
    PLACES,
    SIZES,
    WIDTH,
    WORDS,
    Rows,
    Shapes,
    gelu,
    noise,
    padded,
    transport,
)
from .joint_cases import PICTURES, load, ragged, real
from .pairs import assert_close

ANSWERS = 5
IMAGE = "uniter.img_embeddings"
TEXTS = [7, 3, 5]  # words of three rows


def shapes() -> Shapes:
    """Names and shapes of a file with all heads."""
    linears = {
        f"{IMAGE}.img_linear": (WIDTH, FEATURES),
        f"{IMAGE}.pos_linear": (WIDTH, 7),
        "uniter.pooler.dense": (WIDTH, WIDTH),
        "cls.predictions.transform.dense": (WIDTH, WIDTH),
        "feat_regress.net.0": (WIDTH, WIDTH),
        "region_classifier.net.0": (WIDTH, WIDTH),
        "region_classifier.net.3": (CLASSES, WIDTH),
        "itm_output": (2, WIDTH),
        "vqa_output.0": (2 * WIDTH, WIDTH),
        "vqa_output.3": (ANSWERS, 2 * WIDTH),
        "classifier": (ANSWERS, WIDTH),
    }
    norms = {
        "uniter.embeddings.LayerNorm": WIDTH,
        f"{IMAGE}.img_layer_norm": WIDTH,
        f"{IMAGE}.pos_layer_norm": WIDTH,
        f"{IMAGE}.LayerNorm": WIDTH,
        "cls.predictions.transform.LayerNorm": WIDTH,
        "feat_regress.net.2": WIDTH,
        "region_classifier.net.2": WIDTH,
        "vqa_output.2": 2 * WIDTH,
    }
    for i in range(LAYERS):
        layer = f"uniter.encoder.layer.{i}"
        linears |= {f"{layer}.attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (WIDTH, WIDTH)}
        linears |= {f"{layer}.intermediate.dense": (INNER, WIDTH), f"{layer}.output.dense": (WIDTH, INNER)}
        norms |= {f"{layer}.attention.output.LayerNorm": WIDTH, f"{layer}.output.LayerNorm": WIDTH}
    found: Shapes = {"cls.predictions.bias": (WORDS,), "feat_regress.bias": (FEATURES,)}
    found |= {f"uniter.embeddings.{name}_embeddings.weight": (rows, WIDTH) for name, rows in TABLES.items()}
    found |= {f"{IMAGE}.mask_embedding.weight": (2, FEATURES)}
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        found |= {f"{name}.gamma": (width,), f"{name}.beta": (width,)}
    return found


TABLES = {"word": WORDS, "position": PLACES, "token_type": 2}


class Oracle(Rows):
    """``p`` are parameters under the names of the authors' files, old names of norms among them."""

    names: ClassVar = {
        **{x[0]: f"uniter.encoder.layer.{{}}.attention.self.{x}" for x in ("query", "key", "value")},
        "out": "uniter.encoder.layer.{}.attention.output.dense",
        "norm": "uniter.encoder.layer.{}.attention.output.LayerNorm",
        "up": "uniter.encoder.layer.{}.intermediate.dense",
        "down": "uniter.encoder.layer.{}.output.dense",
        "last": "uniter.encoder.layer.{}.output.LayerNorm",
    }

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return self.centred(x, 1e-12) * self.p[f"{name}.gamma"] + self.p[f"{name}.beta"]

    def words(self, ids: Tensor) -> Tensor:
        tables = {name: self.p[f"uniter.embeddings.{name}_embeddings.weight"] for name in TABLES}
        x = F.embedding(ids, tables["word"], padding_idx=0) + tables["position"][: len(ids)] + tables["token_type"][0]
        return self.norm("uniter.embeddings.LayerNorm", x)

    def picture(self, x: Tensor, locations: Tensor, masked: Tensor | None, types: Tensor | int = 1) -> Tensor:
        if masked is not None:
            table = torch.stack([torch.zeros(FEATURES), self.p[f"{IMAGE}.mask_embedding.weight"][1]])
            x = x * (~masked)[:, None] + table[masked.long()]
        x = self.norm(f"{IMAGE}.img_layer_norm", self.linear(f"{IMAGE}.img_linear", x))
        x = x + self.norm(f"{IMAGE}.pos_layer_norm", self.linear(f"{IMAGE}.pos_linear", locations))
        return self.norm(f"{IMAGE}.LayerNorm", x + self.p["uniter.embeddings.token_type_embeddings.weight"][types])

    def states(self, given: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each row the states of its words and of its regions."""
        found = []
        for b in range(len(next(iter(given.values())))):
            parts = []
            if "input_ids" in given:
                parts.append(self.words(given["input_ids"][b, : given["lengths"][b]]))
            if "regions" in given:
                n = given["region_lengths"][b]
                masked = given["masked_regions"][b, :n] if "masked_regions" in given else None
                types = given["region_types"][b, :n] if "region_types" in given else 1
                parts.append(self.picture(given["regions"][b, :n], given["locations"][b, :n], masked, types))
            x = self.encoder(torch.cat(parts))
            cut = len(parts[0]) if "input_ids" in given else 0
            found.append((x[:cut], x[cut:]))
        return found

    def through(self, name: str, numbers: tuple[str, str], x: Tensor) -> Tensor:
        return self.norm(f"{name}.{numbers[1]}", gelu(self.linear(f"{name}.{numbers[0]}", x)))

    def cloze(self, x: Tensor) -> Tensor:
        x = self.through("cls.predictions.transform", ("dense", "LayerNorm"), x)
        return x @ self.p["uniter.embeddings.word_embeddings.weight"].T + self.p["cls.predictions.bias"]

    def features(self, x: Tensor) -> Tensor:
        x = self.through("feat_regress", ("net.0", "net.2"), x)
        return x @ self.p[f"{IMAGE}.img_linear.weight"] + self.p["feat_regress.bias"]

    def classes(self, x: Tensor) -> Tensor:
        x = self.through("region_classifier", ("net.0", "net.2"), x)
        return self.linear("region_classifier.net.3", x)

    def pooled(self, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
        firsts = torch.stack([torch.cat(parts)[0] for parts in rows])
        return self.linear("uniter.pooler.dense", firsts).tanh()


def inputs(rows: int = 3, *, masked: bool = False) -> dict[str, Tensor]:
    given = ragged(TEXTS, rows, first=1, location=7)
    if masked:
        given["masked_regions"] = torch.tensor([[0, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()
    return given


def loaded(folder: Path, architecture: str, **changes: Any) -> tuple[Oracle, Model]:
    """Both from one file, as the authors' have names."""
    tensors = noise(shapes(), "gamma")
    values = {"model_type": "uniter", "architectures": [architecture], "num_labels": ANSWERS, **SIZES, **changes}
    return Oracle(tensors), load(folder, tensors, values)


def modern(name: str) -> str:
    return name.replace(".gamma", ".weight").replace(".beta", ".bias")


def assert_gradients(oracle: Oracle, ours: Model, losses: tuple[Tensor, Tensor]) -> None:
    prefix = "uniter." if ours.architecture == "UniterModel" else ""
    joint_cases.assert_gradients(oracle, ours, losses, modern, prefix)


# Against the equations ------------------------------------------------------------------


@pytest.mark.parametrize("case", ["both", "masked", "one", "text", "picture"])
def test_states_and_gradients(tmp_path: Path, case: str) -> None:
    oracle, ours = loaded(tmp_path, "UniterModel")
    given = inputs(1 if case == "one" else 3, masked=case == "masked")
    text = {name: given.pop(name) for name in ("input_ids", "lengths")}
    given = {"text": text, "picture": given}.get(case, {**text, **given})
    rows = oracle.states(given)
    out = ours(**given, output_hidden_states=True)
    sizes = (7 if "input_ids" in given else 0, 6 if "regions" in given else 0)
    want = torch.cat([padded([row[i] for row in rows], size) for i, size in enumerate(sizes) if size], 1)
    assert_close(out.last_hidden_state, want, "states")
    assert_close(out.pooler_output, oracle.pooled(rows), "pooled")
    assert len(out.hidden_states) == LAYERS + 1 and torch.equal(out.hidden_states[-1], out.last_hidden_state)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    losses = [(weight * x).sum() + p.sum() for x, p in ((want, oracle.pooled(rows)),)]
    assert_gradients(oracle, ours, (losses[0], (weight * out.last_hidden_state).sum() + out.pooler_output.sum()))


def word_loss(oracle: Oracle, rows: list[tuple[Tensor, Tensor]], target: Tensor) -> Tensor:
    logits = padded([oracle.cloze(text) for text, _ in rows], 7)
    return F.cross_entropy(logits[target >= 0], target[target >= 0])


def hidden_of(rows: list[tuple[Tensor, Tensor]], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """States of masked regions, and which those are."""
    masked = given["masked_regions"] & real(PICTURES, 6)
    return padded([picture for _, picture in rows], 6)[masked], masked


@pytest.mark.parametrize("task", ["words", "features", "classes", "divergence"])
def test_hidden_words_and_regions(tmp_path: Path, task: str) -> None:
    oracle, ours = loaded(tmp_path, "UniterForPretraining")
    given = inputs(masked=task != "words")
    rows = oracle.states(given)
    draw = torch.Generator().manual_seed(4)
    if task == "words":
        labels = torch.randint(WORDS, (3, 7), generator=draw).where(real(TEXTS, 7), -100)
        labels[:, ::2] = -100
        want, target = word_loss(oracle, rows, labels), {"labels": labels}
    else:
        x, masked = hidden_of(rows, given)
        p = torch.rand(3, 6, CLASSES, generator=draw).softmax(-1)
        if task == "features":
            target = {"feature_targets": given["regions"]}
            want = (oracle.features(x) - given["regions"][masked]).square().mean()
        elif task == "classes":
            labels = (p[..., 1:].argmax(-1) + 1).masked_fill(~given["masked_regions"], -100)
            want, target = F.cross_entropy(oracle.classes(x), labels[masked]), {"class_labels": labels}
        else:
            target = {"class_probabilities": p}
            want = (p[masked] * (p[masked].log() - oracle.classes(x).log_softmax(-1))).sum(1).mean()
    assert_gradients(oracle, ours, (want, ours(**given, **target).loss))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_matching_and_alignment(tmp_path: Path, weight: float) -> None:
    oracle, ours = loaded(tmp_path, "UniterForPretraining", itm_ot_lambda=weight)
    given, labels = inputs(), torch.tensor([1, 0, 1])
    rows = oracle.states(given)
    want = F.cross_entropy(oracle.linear("itm_output", oracle.pooled(rows)), labels)
    for (x, y), label in zip(rows, labels.tolist(), strict=True):
        costs = 1 - (x / x.norm(dim=-1, keepdim=True)) @ (y / y.norm(dim=-1, keepdim=True)).T
        plan = transport(costs.detach(), 0.5, 50).float()
        want = want + weight * (1 if label else -1) * (costs * plan).sum() / 3
    assert_gradients(oracle, ours, (want, ours(**given, matching_labels=labels).loss))


def test_answers(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForVisualQuestionAnswering")
    given, labels = inputs(), torch.rand(3, ANSWERS, generator=torch.Generator().manual_seed(5))
    x = oracle.through("vqa_output", ("0", "2"), oracle.pooled(oracle.states(given)))
    logits = oracle.linear("vqa_output.3", x)
    likely = logits.sigmoid()
    want = -(labels * likely.log() + (1 - labels) * (1 - likely).log()).sum() / 3
    assert_close(ours(**given).logits, logits, "logits")
    assert_gradients(oracle, ours, (want, ours(**given, labels=labels).loss))


def test_other_heads(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForSequenceClassification")
    rows = oracle.states(inputs())
    assert_close(ours(**inputs()).logits, oracle.linear("classifier", oracle.pooled(rows)), "classes")
    with pytest.warns(UserWarning, match="has no use for"):
        cloze = from_pretrained(tmp_path, architecture="UniterForMaskedLM")
    assert_close(cloze(**inputs()).logits, padded([oracle.cloze(x) for x, _ in rows], 7), "words")


def test_a_call_without_targets_gets_everything(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UniterForPretraining")
    rows, out = oracle.states(inputs()), ours(**inputs())
    assert out.loss is None
    assert_close(out.prediction_logits, padded([oracle.cloze(x) for x, _ in rows], 7), "words")
    assert_close(out.region_features, padded([oracle.features(x) for _, x in rows], 6), "features")
    assert_close(out.region_logits, padded([oracle.classes(x) for _, x in rows], 6), "classes")
    assert_close(out.matching_logits, oracle.linear("itm_output", oracle.pooled(rows)), "matching")
