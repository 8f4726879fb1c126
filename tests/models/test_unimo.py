"""UNIMO against its equations in plain torch, one row at a time, under the names of Paddle's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pkernels.models import Model, build, roberta, unimo
from pkernels.models.parts.objectives import ContrastBatch
from pkernels.models.parts.regions import Image

from .agreement import count
from .dense_joint import CLASSES, FEATURES, LAYERS, PLACES, SIZES, WIDTH, WORDS, Rows, Shapes, gelu, noise, padded
from .joint_cases import (
    PICTURES,
    REGIONS,
    assert_gradients,
    assert_masks_are_lengths,
    assert_saved,
    load,
    ragged,
    real,
)
from .pairs import assert_close, fill_with_noise

LABELS = 4
INNER = 4 * WIDTH  # published settings have no such field
PUBLISHED = {name: x for name, x in SIZES.items() if name != "intermediate_size"}
TEXTS, SOURCES = [9, 4, 6], [5, 2, 6]


def shapes() -> Shapes:
    """Names and shapes of a file with all heads."""
    linears = {"image_emb": (FEATURES, WIDTH), "image_loc": (5, WIDTH), "match_fc": (WIDTH, 1)}
    linears |= {f"pooled_fc_{name}": (WIDTH, WIDTH) for name in ("text", "image")}
    for name, out in (("lm", 0), ("feature", FEATURES), ("class", CLASSES)):
        linears |= {f"mask_{name}_trans_fc": (WIDTH, WIDTH), **({f"mask_{name}_out_fc": (WIDTH, out)} if out else {})}
    norms = ["pre_encoder", "v_pre_encoder", "mask_lm_trans", "mask_feature_trans", "mask_class_trans"]
    for i in range(LAYERS):
        layer = f"encoder_layer_{i}"
        for name in ("query", "key", "value", "output"):
            linears[f"{layer}_multi_head_att_{name}_fc"] = (WIDTH, WIDTH)
        linears |= {f"{layer}_ffn_fc_0": (WIDTH, INNER), f"{layer}_ffn_fc_1": (INNER, WIDTH)}
        norms += [f"{layer}_post_att", f"{layer}_post_ffn"]
    found: Shapes = {"word_embedding": (WORDS, WIDTH), "pos_embedding": (PLACES, WIDTH)}
    found |= {"mask_lm_out_fc.b_0": (WORDS,), "cls_out_w": (WIDTH, LABELS), "cls_out_b": (LABELS,)}
    for name, shape in linears.items():
        found |= {f"{name}.w_0": shape, f"{name}.b_0": shape[1:]}
    for name in norms:
        found |= {f"{name}_layer_norm_scale": (WIDTH,), f"{name}_layer_norm_bias": (WIDTH,)}
    return found


class Oracle(Rows):
    names: ClassVar = {
        **{x[0]: f"encoder_layer_{{}}_multi_head_att_{x}_fc" for x in ("query", "key", "value")},
        "out": "encoder_layer_{}_multi_head_att_output_fc",
        "norm": "encoder_layer_{}_post_att",
        "up": "encoder_layer_{}_ffn_fc_0",
        "down": "encoder_layer_{}_ffn_fc_1",
        "last": "encoder_layer_{}_post_ffn",
    }

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.p[f"{name}.w_0"] + self.p[f"{name}.b_0"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return self.centred(x, 1e-5) * self.p[f"{name}_layer_norm_scale"] + self.p[f"{name}_layer_norm_bias"]

    def states(self, given: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each row the states of its regions and of its words."""
        found = []
        for b in range(len(next(iter(given.values())))):
            parts, before = [], 0
            if "regions" in given:
                before = int(given["region_lengths"][b])
                x, where = given["regions"][b, :before], given["locations"][b, :before]
                if "masked_regions" in given:
                    x = x * ~given["masked_regions"][b, :before, None]
                x = self.linear("image_emb", x) + self.linear("image_loc", where)
                parts.append(self.norm("v_pre_encoder", x))
            if "input_ids" in given:
                ids = given["input_ids"][b, : given["lengths"][b]]
                x = self.p["word_embedding"][ids] + self.p["pos_embedding"][2 : 2 + len(ids)]
                parts.append(self.norm("pre_encoder", x))
            x = torch.cat(parts)
            keep = None
            if "source_lengths" in given:
                prefix = before + int(given["source_lengths"][b])
                keep = torch.tensor([[j < prefix or j <= i for j in range(len(x))] for i in range(len(x))])
            x = self.encoder(x, keep)
            found.append((x[:before], x[before:]))
        return found

    def told(self, what: str, x: Tensor) -> Tensor:
        x = self.norm(f"mask_{what}_trans", gelu(self.linear(f"mask_{what}_trans_fc", x)))
        if what == "lm":
            return x @ self.p["word_embedding"].T + self.p["mask_lm_out_fc.b_0"]
        return self.linear(f"mask_{what}_out_fc", x)

    def vector(self, what: str, x: Tensor) -> Tensor:
        """Of states ``(n, width)``."""
        return self.linear(f"pooled_fc_{what}", x[0]).relu()

    def relevance(self, text: Tensor, image: Tensor) -> Tensor:
        return self.linear("match_fc", text * image)[0]


def inputs(rows: int = 3, *, masked: bool = False, written: bool = False) -> dict[str, Tensor]:
    given = ragged(TEXTS, rows, first=2, location=5)
    if masked:
        given["masked_regions"] = torch.tensor([[0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    if written:
        given["source_lengths"] = torch.tensor(SOURCES[:rows])
    return given


def loaded(folder: Path, architecture: str, **changes: Any) -> tuple[Oracle, Model]:
    tensors = noise(shapes(), "scale")
    values = {"model_type": "unimo", "architectures": [architecture], "num_labels": LABELS, **PUBLISHED, **changes}
    return Oracle(tensors), load(folder, tensors, values)


# Against the equations ------------------------------------------------------------------


@pytest.mark.parametrize("case", ["both", "masked", "one", "written", "text", "written text", "picture"])
def test_states_and_gradients(tmp_path: Path, case: str) -> None:
    oracle, ours = loaded(tmp_path, "UNIMOModel")
    given = inputs(1 if case == "one" else 3, masked=case == "masked", written="written" in case)
    if "text" in case:
        given = {name: x for name, x in given.items() if name in ("input_ids", "lengths", "source_lengths")}
    if case == "picture":
        given = {name: x for name, x in given.items() if "region" in name or name == "locations"}
    rows = oracle.states(given)
    out = ours(**given, output_hidden_states=True)
    sizes = (6 if "regions" in given else 0, 9 if "input_ids" in given else 0)
    want = torch.cat([padded([row[i] for row in rows], size) for i, size in enumerate(sizes) if size], 1)
    assert_close(out.last_hidden_state, want, "states")
    assert out.pooler_output is None and torch.equal(out.hidden_states[-1], out.last_hidden_state)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    assert_gradients(oracle, ours, ((weight * want).sum(), (weight * out.last_hidden_state).sum()))


@pytest.mark.parametrize("written", [False, True])
def test_words_in_sight_and_words_to_write(tmp_path: Path, written: bool) -> None:
    oracle, ours = loaded(tmp_path, "UNIMOForPreTraining")
    given = inputs(written=written)
    labels = torch.randint(WORDS, (3, 9), generator=torch.Generator().manual_seed(4))
    labels[torch.arange(9) >= torch.tensor(TEXTS)[:, None]] = -100
    labels[:, 1::3] = -100
    logits = padded([oracle.told("lm", text) for _, text in oracle.states(given)], 9)
    want = F.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    out = ours(**given, labels=labels)
    assert_close(out.prediction_logits, logits, "words")
    assert_gradients(oracle, ours, (want, out.loss))


def test_hidden_regions(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UNIMOForPreTraining")
    given = inputs(masked=True)
    p = torch.rand(3, 6, CLASSES, generator=torch.Generator().manual_seed(4)).softmax(-1)
    masked = given["masked_regions"] & real(PICTURES, REGIONS)
    x = padded([picture for picture, _ in oracle.states(given)], 6)[masked]
    want = (oracle.told("feature", x) - given["regions"][masked]).square().mean()
    want = want + (p[masked] * (p[masked].log() - oracle.told("class", x).log_softmax(-1))).sum(1).mean()
    out = ours(**given, feature_targets=given["regions"], class_probabilities=p)
    assert_gradients(oracle, ours, (want, out.loss))


def test_classes_of_pairs_and_of_texts(tmp_path: Path) -> None:
    oracle, ours = loaded(tmp_path, "UNIMOForSequenceClassification")
    given, labels = inputs(), torch.tensor([3, 0, 2])
    found = [oracle.vector("text", text) * oracle.vector("image", picture) for picture, text in oracle.states(given)]
    logits = torch.stack(found) @ oracle.p["cls_out_w"] + oracle.p["cls_out_b"]
    assert_gradients(oracle, ours, (F.cross_entropy(logits, labels), ours(**given, labels=labels).loss))
    texts = {name: given[name] for name in ("input_ids", "lengths")}
    found = [oracle.vector("text", text) for _, text in oracle.states(texts)]
    alone = torch.stack(found) @ oracle.p["cls_out_w"] + oracle.p["cls_out_b"]
    assert_close(ours(**texts).logits, alone, "texts")


def contrast_of(given: dict[str, Tensor], *, found: bool) -> ContrastBatch:
    """Two anchors; of three pairs the first two are the first anchor's."""
    text, picture = ({n: x for n, x in given.items() if ("region" in n or n == "locations") == p} for p in (0, 1))
    n = 3 if found else 2
    return ContrastBatch(
        given, torch.tensor([0, 0, 1]), torch.tensor([True, False, True]),
        {name: x[:n] for name, x in text.items()}, torch.tensor([0])[: n - 2],
        {name: x[:n] for name, x in picture.items()}, torch.tensor([1])[: n - 2],
    )  # fmt: skip


@pytest.mark.parametrize("found", [False, True])
def test_contrast(tmp_path: Path, found: bool) -> None:
    oracle, ours = loaded(tmp_path, "UNIMOForPreTraining")
    batch = contrast_of(inputs(), found=found)
    joint = [
        oracle.relevance(oracle.vector("text", y), oracle.vector("image", x)) for x, y in oracle.states(batch.pairs)
    ]
    w = [oracle.vector("text", y) for _, y in oracle.states(batch.texts)]
    v = [oracle.vector("image", x) for x, _ in oracle.states(batch.images)]
    good, all_ = [[joint[0]], [joint[2]]], [[joint[0], joint[1]], [joint[2]]]
    if found:
        for a in (0, 1):
            near = [oracle.relevance(w[2], v[a]), oracle.relevance(w[a], v[2])]
            all_[a] += near
            good[a].append(near[a])  # the text is the first anchor's, the picture the second's
    t = 0.7
    terms = [sum((s / t).exp() for s in all_[a]).log() - sum((s / t).exp() for s in good[a]).log() for a in (0, 1)]
    assert_gradients(oracle, ours, (sum(terms) / 2, unimo.contrast(ours, batch, temperature=t)))


def test_contrast_wants_its_head() -> None:
    with pytest.raises(ValueError, match="model: a UNIMOForPreTraining is allowed, got UNIMOModel"):
        unimo.contrast(build("UNIMOModel", unimo.Config(**SIZES)), contrast_of(inputs(), found=False))


# Calls and files ------------------------------------------------------------------------


def test_who_sees_whom() -> None:
    model = build("UNIMOModel", unimo.Config(**SIZES)).eval()
    fill_with_noise(model)
    given = inputs(1, written=True)
    want = model(**given).last_hidden_state

    def changed(name: str, place: int) -> list[int]:
        other = {**given, name: given[name].clone()}
        other[name][0, place] = 3 if name == "input_ids" else 9.0
        return (model(**other).last_hidden_state != want).any(-1)[0].nonzero().flatten().tolist()

    # Places 0 to 3 hold regions, 6 to 10 the source, 11 to 14 the target.
    everybody = [*range(4), *range(6, 15)]
    assert changed("regions", 2) == everybody and changed("input_ids", 1) == everybody
    assert changed("input_ids", 6) == [12, 13, 14]
    assert changed("regions", 5) == []


def test_masks_are_lengths_and_holes_are_left_out() -> None:
    model = build("UNIMOModel", unimo.Config(**SIZES)).eval()
    fill_with_noise(model)
    assert_masks_are_lengths(model, TEXTS, inputs(written=True), 0)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    ours = build("UNIMOForPreTraining", unimo.Config(**{**SIZES, "num_hidden_layers": 1}))
    fill_with_noise(ours.eval())
    given, labels = inputs(masked=True, written=True), torch.full((3, 9), 5)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(compiled(**given, labels=labels).loss, ours(**given, labels=labels).loss, "loss")


@pytest.mark.parametrize("architecture", unimo.HEADS)
def test_saves_what_it_loads(tmp_path: Path, architecture: str) -> None:
    assert_saved(tmp_path, build(architecture, unimo.Config(**SIZES)).eval())


@pytest.mark.parametrize("size", ["base", "large"])
def test_parameter_counts(size: str) -> None:
    """RoBERTa's without its segments, and what takes regions in."""
    c = getattr(unimo.Config, size)()
    width = c.hidden_size
    like = getattr(roberta.Config, size)()
    regions = (2048 + 1) * width + (5 + 1) * width + 2 * width
    want = count("RobertaForMaskedLM", like) - width + regions
    assert count("UNIMOForMaskedLM", c) == want == {"base": 126_276_441, "large": 357_517_401}[size]


def test_a_picture_has_all_of_it_in_front() -> None:
    image = Image("a", 10, 20, torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([[0.0, 5, 5, 10], [1, 2, 3, 4]]))
    features, where = unimo.view(image)
    assert features.tolist() == [[2.0, 4.0], [1.0, 2.0], [3.0, 6.0]]
    assert_close(where, torch.tensor([[0, 0, 1, 1, 1], [0, 0.25, 0.5, 0.5, 0.125], [0.1, 0.1, 0.3, 0.2, 0.02]]), "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"locations": torch.zeros(3, 6, 7)}, r"locations: shape \(3, 6, 5\) is allowed, got \(3, 6, 7\)"),
        ({"source_lengths": torch.tensor([1, 1])}, r"source_lengths: integers of shape \(3,\) are allowed, got \(2,\)"),
        ({"source_lengths": 3}, "source_lengths: .* got int"),
        ({"class_labels": torch.full((3, 6), 7)}, "class_labels: -100 and 0 to 6 are allowed, got 7 to 7"),
        ({"class_probabilities": torch.zeros(3, 6, 2)}, r"class_probabilities: shape \(3, 6, 7\) is allowed"),
    ],
)
def test_wrong_calls_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("UNIMOForPreTraining", unimo.Config(**SIZES))(**{**inputs(), **changes})
