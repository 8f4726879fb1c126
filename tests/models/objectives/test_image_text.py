"""Tasks on captioned pictures: what is hidden, what is exchanged, what is to be told; and that a model
learns by them which picture a text is about."""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pkernels.models import build, unimo, uniter
from pkernels.models.parts.objectives import (
    SPANS,
    UNIMO,
    UNITER,
    Pairs,
    batches,
    best_classes,
    candidates_loss,
    choose_regions,
    contrast_batch,
    divergence_loss,
    exchange,
    feature_loss,
    fragment_batch,
    fragments,
    spread_overlapping,
)
from pkernels.models.parts.objectives.image_text import hidden_classes
from pkernels.models.parts.regions import Caption, Images, View, read_captions

from .. import scenes
from ..agreement import count
from ..scenes import VOCABULARY, encode


def pairs_of(folder: Path, view: View, *, longest: int = 60) -> Pairs:
    images = Images(folder)
    return Pairs(read_captions(folder, images), dict(images), encode, view, VOCABULARY, longest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes")
    scenes.write(path, 40, seed=1)
    return path


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size) < lengths[:, None]


# UNITER ---------------------------------------------------------------------------------


def test_either_words_are_hidden_or_regions(folder: Path) -> None:
    pairs = pairs_of(folder, uniter.view)
    tasks = {**UNITER, "classes": (1.0, hidden_classes)}
    seen = set()
    for seed in range(6):
        for task, given in batches(pairs, tasks, 8, seeded(seed)):
            seen.add(task)
            words = places(given["lengths"], given["input_ids"].shape[1])
            regions = places(given["region_lengths"], given["regions"].shape[1])
            assert ("labels" in given) + ("masked_regions" in given) + ("matching_labels" in given) == 1
            if task == "words":
                hidden = given["labels"] >= 0
                ends = words & ~places(given["lengths"] - 1, words.shape[1])
                assert hidden.any(1).all() and not hidden[:, 0].any() and not (hidden & (ends | ~words)).any()
            elif task != "matching":
                masked = given["masked_regions"]
                assert masked.any(1).all() and not (masked & ~regions).any()
                assert ("feature_targets" in given) == (task == "features")
            if task == "classes":
                # The scenes' detector is sure of what it sees.
                assert (given["class_labels"] >= 1).equal(given["masked_regions"])
    assert seen == set(tasks)


def test_words_hidden_are_those_of_the_text(folder: Path) -> None:
    pairs = pairs_of(folder, uniter.view)
    texts = sorted([1, *encode(caption.caption), 2] for caption in pairs.captions)
    found = []
    for _, given in batches(pairs, {"words": UNITER["words"]}, 10, seeded()):
        whole = given["input_ids"].where(given["labels"] < 0, given["labels"])
        found += [row[:n].tolist() for row, n in zip(whole, given["lengths"], strict=True)]
    assert sorted(found) == texts


def test_shares_of_tasks_and_of_what_is_hidden(folder: Path) -> None:
    pairs = pairs_of(folder, uniter.view)
    drawn = [name for seed in range(25) for name, _ in batches(pairs, UNITER, 2, seeded(seed))]
    for name, (share, _) in UNITER.items():
        assert abs(drawn.count(name) / len(drawn) - share / 6) < 0.06
    often = choose_regions(torch.full((400,), 20), 20, generator=seeded())
    assert abs(float(often.float().mean()) - 0.15) < 0.02
    assert choose_regions(torch.full((400,), 2), 3, rate=0.0, generator=seeded()).sum(0)[:2].min() > 150


def test_matching_exchanges_pictures_only(folder: Path) -> None:
    pairs = pairs_of(folder, uniter.view)
    labels = []
    for _, given in batches(pairs, {"matching": UNITER["matching"]}, 10, seeded()):
        for row in range(10):
            ids = given["input_ids"][row, 1 : given["lengths"][row] - 1].tolist()
            own = [pairs.images[c.image].features for c in pairs.captions if encode(c.caption) == ids]
            features = given["regions"][row, : given["region_lengths"][row]]
            same = any(x.shape == features.shape and torch.equal(x, features) for x in own)
            assert same or not given["matching_labels"][row]
            labels.append(int(given["matching_labels"][row]))
    assert 10 < sum(labels) < 30
    names, labels = exchange(["a"] * 2000, ["a", "b", "c"], 0.5, seeded())
    assert abs(float(labels.float().mean()) - 0.5) < 0.04
    assert all((name == "a") == bool(label) for name, label in zip(names, labels, strict=True))
    assert abs(names.count("b") - names.count("c")) < 100


def test_long_texts_are_cut(folder: Path) -> None:
    for _, given in batches(pairs_of(folder, uniter.view, longest=4), {"matching": UNITER["matching"]}, 10, seeded()):
        assert given["input_ids"].shape == (10, 4) and (given["input_ids"][:, 3] == VOCABULARY.last).all()


def test_wrong_settings_are_named(folder: Path) -> None:
    pairs = pairs_of(folder, uniter.view)
    for rows in (0, 41):
        with pytest.raises(ValueError, match=rf"rows: 1 to 40 \(the captions\) is allowed, got {rows}"):
            next(batches(pairs, UNITER, rows))
    with pytest.raises(ValueError, match=r"tasks: shares of at least 0, not all 0, are allowed, got \[0.0\]"):
        next(batches(pairs, {"words": (0.0, UNITER["words"][1])}, 2))
    with pytest.raises(ValueError, match="images: at least two are needed to exchange one"):
        exchange(["a"], ["a"], 0.5)
    with pytest.raises(ValueError, match="longest: at least 3"):
        pairs_of(folder, uniter.view, longest=2)
    silent = Pairs(pairs.captions, pairs.images, lambda text: [], uniter.view, VOCABULARY)
    with pytest.raises(ValueError, match="encode: at least one token of a text is allowed, got none for 'red"):
        silent.texts(["red box"])


def test_matching_is_learned(tmp_path: Path) -> None:
    """All tasks in turn, on some scenes; of others it is told whether a text is about a picture."""
    scenes.write(tmp_path / "seen", 768, seed=1)
    scenes.write(tmp_path / "new", 200, seed=2)
    seen, new = pairs_of(tmp_path / "seen", uniter.view), pairs_of(tmp_path / "new", uniter.view)
    torch.manual_seed(0)
    model = build("UniterForPretraining", small(uniter.Config, itm_ot_lambda=0.5)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=9 * 768 // 32)
    draw, tasks = seeded(), {**UNITER, "matching": (8.0, UNITER["matching"][1])}
    held_out = UNITER["matching"][1](new, new.captions, seeded(5))
    labels = held_out.pop("matching_labels")

    def accuracy() -> float:
        with torch.no_grad():
            found = model.eval()(**held_out).matching_logits.argmax(1)
        model.train()
        return float((found == labels).float().mean())

    before = accuracy()
    for _ in range(9):
        for _, given in batches(seen, tasks, 32, draw):
            optimizer.zero_grad()
            model(**given).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            slower.step()
    # Of three seeds the worst came to 0.855.
    assert before < 0.65 and accuracy() > 0.75


def small(config: type, **changes: float) -> uniter.Config | unimo.Config:
    return config(
        vocab_size=VOCABULARY.words, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=60, image_embedding_size=scenes.FEATURES, image_class_size=scenes.CLASSES,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.1, **changes,
    )  # fmt: skip


# UNIMO ----------------------------------------------------------------------------------


def test_unimo_hides_regions_but_never_the_whole_picture(folder: Path) -> None:
    pairs = pairs_of(folder, unimo.view)
    for _, given in batches(pairs, {"regions": (1.0, partial(UNIMO["regions"][1], rate=0.3))}, 10, seeded()):
        masked = given["masked_regions"]
        assert not masked[:, 0].any() and masked.any(1).all()
        assert not (masked & ~places(given["region_lengths"], masked.shape[1])).any()
        assert torch.equal(given["feature_targets"], given["regions"]) and "labels" not in given


def test_overlapping_regions_are_hidden_together() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6.4], [20, 20, 21, 21], [0, 0, 10, 10]]])
    chosen = torch.tensor([[True, False, False, False, False]])
    found = spread_overlapping(chosen, boxes, torch.tensor([4]), overlap=0.7)
    # The third overlaps the second, not the chosen; the last is padding.
    assert found.tolist() == [[True, True, False, False, False]]
    assert spread_overlapping(chosen, boxes, torch.tensor([5]), overlap=0.6)[0].tolist() == [
        True,
        True,
        True,
        False,
        True,
    ]
    with pytest.raises(ValueError, match=r"chosen, boxes: .* got torch.bool of \(1, 5\) and \(1, 4, 4\)"):
        spread_overlapping(chosen, boxes[:, :4], torch.tensor([4]))


def test_spans_have_the_lengths_of_the_paper(folder: Path) -> None:
    assert len(SPANS) == 10 and abs(sum(SPANS) - 1) < 1e-9 and abs(SPANS[1] / SPANS[0] - 0.8) < 1e-9
    pairs = pairs_of(folder, unimo.view)
    for _, given in batches(pairs, {"spans": UNIMO["spans"]}, 10, seeded()):
        hidden = given["labels"] >= 0
        assert hidden.any(1).all() and not hidden[:, 0].any() and "source_lengths" not in given


@pytest.mark.parametrize("size", [2, 7, 40, 400])
def test_fragments_are_a_quarter_of_the_text(size: int) -> None:
    lengths = []
    for seed in range(20):
        source, targets = fragments(range(size), generator=seeded(seed))
        written = sum(map(len, targets))
        assert written == max(1, size // 4) and sorted([*source, *chain(*targets)]) == list(range(size))
        assert source == sorted(source) and all(t == list(range(t[0], t[0] + len(t))) for t in targets)
        lengths += [len(t) for t in targets[:-1]]
        assert max(map(len, targets)) <= 32
    if size == 400:
        # All but the one that is cut, which may stand anywhere.
        assert len(lengths) > 60 and sum(n < 4 for n in lengths) <= 20 and max(lengths) > 28


def test_fragments_stand_behind_their_source() -> None:
    batch = fragment_batch([[11, 12, 13, 14, 15, 16, 17, 18], [21, 22]], first=1, last=2, padding=0, share=0.5,
                           lengths=(2, 2), generator=seeded())  # fmt: skip
    for row, (n, before) in enumerate(zip(batch.lengths.tolist(), batch.source_lengths.tolist(), strict=True)):
        ids, labels = batch.input_ids[row].tolist(), batch.labels[row].tolist()
        assert ids[0] == 1 and ids[before - 1] == 2 and ids[before] == 1 and ids[n - 1] == 2
        assert labels[:before] == [-100] * before and labels[n - 1 :] == [-100] * (len(ids) - n + 1)
        assert labels[before : n - 1] == ids[before + 1 : n]
    assert batch.lengths.tolist() == [6 + 8, 3 + 3] and batch.source_lengths.tolist() == [6, 3]
    for wrong, message in (
        ({"tokens": [1]}, "tokens: at least 2 are allowed, got 1"),
        ({"tokens": [1, 2], "lengths": (3, 2)}, r"lengths: the shortest, .* got \(3, 2\)"),
        ({"tokens": [1, 2], "share": 1.5}, "rate: in"),
    ):
        with pytest.raises(ValueError, match=message):
            fragments(**wrong)


def test_unimo_learns_all_its_tasks(folder: Path) -> None:
    """Its losses fall, each task's own, and contrast's."""
    pairs = pairs_of(folder, unimo.view)
    torch.manual_seed(0)
    model = build("UNIMOForPreTraining", small(unimo.Config)).train()
    fixed = {name: task(pairs, pairs.captions[:16], seeded(3)) for name, (_, task) in UNIMO.items()}
    anchors = contrast_batch(pairs, pairs.captions[:6])

    def losses() -> dict[str, Tensor]:
        found = {name: model(**given).loss for name, given in fixed.items()}
        return {**found, "contrast": unimo.contrast(model, anchors)}

    before = {name: float(loss.detach()) for name, loss in losses().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        optimizer.step()
    after = {name: float(loss.detach()) for name, loss in losses().items()}
    assert all(after[name] < 0.75 * before[name] for name in before), (before, after)


def test_contrast_sets_rewritten_and_found_against_each_other(folder: Path) -> None:
    pairs = pairs_of(folder, unimo.view)
    names = [caption.image for caption in pairs.captions]
    captions = [
        Caption(names[0], "red box", positives=("box",), negatives=("blue box", "red star"), similar_texts=("red",)),
        Caption(names[1], "blue ring", similar_images=(names[5], names[6])),
    ]
    batch = contrast_batch(pairs, captions)
    assert batch.anchors.tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert batch.positive.tolist() == [True, True, True, False, False, False, False]
    texts = [
        ["red", "box"],
        ["box"],
        ["blue", "ring"],
        ["blue", "box"],
        ["red", "star"],
        ["blue", "ring"],
        ["red", "box"],
    ]
    ids, lengths = batch.pairs["input_ids"], batch.pairs["lengths"]
    assert [row[1 : n - 1].tolist() for row, n in zip(ids, lengths, strict=True)] == [
        encode(" ".join(t)) for t in texts
    ]
    for row, name in enumerate(names[i] for i in batch.anchors.tolist()):
        n = pairs.images[name].regions
        assert torch.equal(batch.pairs["regions"][row, 1 : 1 + n], pairs.images[name].features)
    assert batch.texts["lengths"].tolist() == [4, 4, 3] and batch.text_anchors.tolist() == [0]
    assert len(batch.images["regions"]) == 4 and batch.image_anchors.tolist() == [1, 1]
    with pytest.raises(ValueError, match="captions: at least one is allowed, got none"):
        contrast_batch(pairs, [])


def test_contrast_counts_what_is_allowed() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 50.0], [0.0, 0.0, -1.0, 2.0]]).double()
    positive = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1]]).bool()
    allowed = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]]).bool()
    e = (scores / 2).exp()
    want = -((e[0, 0] + e[0, 1]) / e[0, :3].sum()).log() / 2 - (e[1, 3] / (e[1, 0] + e[1, 2] + e[1, 3])).log() / 2
    assert abs(float(candidates_loss(scores, positive, allowed, temperature=2.0) - want)) < 1e-12
    assert torch.isfinite(candidates_loss(scores.half() * 300, positive, allowed))
    for changes, message in (
        ({"positive": ~allowed}, "positive: at least one allowed candidate"),
        ({"allowed": allowed[:1]}, r"allowed: booleans of the scores' shape \(A, C\)"),
        ({"temperature": 0.0}, "temperature: above 0 is allowed, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            candidates_loss(**{"scores": scores, "positive": positive, "allowed": allowed, **changes})


# Losses ---------------------------------------------------------------------------------


def test_losses_count_masked_regions_alone() -> None:
    draw = seeded()
    x, y = torch.randn(2, 3, 4, generator=draw), torch.randn(2, 3, 4, generator=draw)
    masked = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.isclose(feature_loss(x, y, masked), (x[masked] - y[masked]).square().mean())
    p = y.softmax(-1)
    want = (p[masked] * (p[masked].log() - x[masked].log_softmax(-1))).sum(-1).mean()
    assert torch.isclose(divergence_loss(x, p, masked), want)
    # Nonsense elsewhere does no harm, nor do probabilities of 0.
    y[1] = float("nan")
    assert torch.isclose(feature_loss(x, y, masked), (x[masked] - y[masked]).square().mean())
    sure = torch.eye(4)[torch.tensor([[1, 2, 3]] * 2)]
    assert torch.isclose(divergence_loss(x, sure, masked), -x.log_softmax(-1)[masked][[0, 1], [1, 3]].mean())
    assert float(feature_loss(x, x, torch.zeros_like(masked))) == 0
    assert best_classes(torch.tensor([[[0.9, 0.0, 0.06, 0.04]] * 3] * 2), masked)[0].tolist() == [2, -100, 2]
    for call in (lambda: feature_loss(x, y[:1], masked), lambda: divergence_loss(x, p, masked[:1])):
        with pytest.raises(ValueError, match=r"features: shape \(2, 3, 4\)|masked: booleans of shape \(2, 3\)"):
            call()
    with pytest.raises(ValueError, match=r"lengths: 2 to 3 are allowed, got \[1, 3\]"):
        choose_regions(torch.tensor([1, 3]), 3, first=1)


def test_scenes_are_small() -> None:
    assert count("UniterModel", small(uniter.Config)) < 60_000
