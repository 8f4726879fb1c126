"""ELMo against its authors' code, step by step, and its training."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pkernels.models import Model, build, elmo
from pkernels.models.elmo_hdf5 import load_variables
from pkernels.models.parts.objectives import both_directions, sampled_softmax_loss

from . import bilm
from .agreement import count
from .pairs import assert_close, fill_with_noise, paragraphs

TINY = {
    "max_characters_per_token": 9,
    "char_dim": 3,
    "filters": ((1, 4), (2, 5), (3, 2)),
    "dim": 13,
    "projection_dim": 5,
    "cell_clip": 0.6,
    "proj_clip": 0.8,
    "vocab_size": 40,
    "dropout": 0.0,
}
TEXTS = {
    "ragged": [["They", "étudient", "unabbreviatedly", "x", "."], ["So"], ["a", "b", "c"]],
    "one": [["One", "sentence"]],
    "empty": [[], ["after", "nothing"]],
}
NEXT = {"ragged": [["And"], ["so", "on", "it"], ["goes", "."]], "one": [["Then"]], "empty": [["some"], ["more"]]}
KINDS = {
    "clipped": {},
    "unclipped": {"cell_clip": None, "proj_clip": None, "n_highway": 1},
    "deep": {"n_layers": 3, "n_highway": 0, "activation": "tanh", "cell_clip": 3.0},
}


def pair(dtype: torch.dtype, architecture: str = "ElmoModel", **changes) -> tuple[elmo.Config, bilm.Variables, Model]:
    """Config, the authors' variables, and our model of them."""
    config = elmo.Config(**TINY | changes)
    variables = bilm.draw(config, dtype)
    model = build(architecture, config).to(dtype).eval()
    fill_with_noise(model)
    load_variables(model, variables)
    return config, variables, model


def weights_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(x.numel()), dtype=torch.float64).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", TEXTS)
def test_two_batches_agree_with_the_authors_code(texts: str, kind: str, dtype: torch.dtype) -> None:
    """Layers, states and all gradients, which go through the states of the first batch too."""
    config, variables, model = pair(dtype, **KINDS[kind])
    states, kept = None, [{} for _ in TEXTS[texts]]
    losses = [torch.zeros((), dtype=dtype) for _ in range(2)]
    for batch in (TEXTS[texts], NEXT[texts]):
        ids, lengths = elmo.character_ids(batch, config.max_characters_per_token)
        out = model(ids, states=states, output_hidden_states=True)
        states = out.states
        for row, words in enumerate(batch):
            layers, kept[row] = bilm.sentence(config, variables, words, kept[row])
            for number, (layer, found) in enumerate(zip(layers, out.hidden_states, strict=True)):
                want, got = layer[1:-1], found[row, : lengths[row]]
                assert_close(got, want, f"layer {number} of row {row}") if words else None
                assert not found[row, lengths[row] :].any()
                losses[0] = losses[0] + (weights_like(want) * want).sum()
                losses[1] = losses[1] + (weights_like(want) * got).sum()
            for (way, layer), (h, c) in kept[row].items():
                assert_close(states.h[layer, way, row], h, "h")
                assert_close(states.c[layer, way, row], c, "c")
    for loss in losses:
        (loss * 0.01).backward()
    want = bilm.gradients(config, variables)
    for name, parameter in model.body.named_parameters():
        assert_close(parameter.grad, want[name], f"gradient of {name}")


def test_clips_of_these_tests_clip() -> None:
    config, _, model = pair(torch.float32)
    ids, lengths = elmo.character_ids(TEXTS["ragged"], config.max_characters_per_token)
    states = model(ids, lengths=lengths).states
    for x, bound in ((states.h, config.proj_clip), (states.c, config.cell_clip)):
        assert x.abs().max() == torch.tensor(bound)
        assert 0.05 < (x.abs() == torch.tensor(bound)).float().mean() < 0.9


def test_batches_may_shrink_and_grow() -> None:
    """Rows that a batch lacks keep their states; new ones begin at 0."""
    config, _, model = pair(torch.float64)
    one, two = (elmo.character_ids(x, config.max_characters_per_token) for x in (TEXTS["ragged"], TEXTS["one"]))
    first = model(one[0], lengths=one[1]).states
    second = model(two[0], lengths=two[1], states=first).states
    assert second.h.shape == first.h.shape
    assert torch.equal(second.h[:, :, 1:], first.h[:, :, 1:]) and torch.equal(second.c[:, :, 1:], first.c[:, :, 1:])
    alone = model(two[0], lengths=two[1], states=first.rows(1))
    assert torch.equal(alone.states.h[:, :, 0], second.h[:, :, 0])
    grown = model(one[0], lengths=one[1], states=alone.states)
    fresh = model(one[0], lengths=one[1])
    assert torch.equal(grown.states.c[:, :, 1:], fresh.states.c[:, :, 1:])
    assert not torch.equal(grown.states.c[:, :, 0], fresh.states.c[:, :, 0])
    assert not second.detach().h.requires_grad and second.h.requires_grad


@pytest.mark.parametrize("norm", [False, True])
def test_the_mix_is_equation_1(norm: bool) -> None:
    config, _, model = pair(torch.float64, layer_norm=norm)
    ids, lengths = elmo.character_ids(TEXTS["ragged"], config.max_characters_per_token)
    out = model(ids, lengths=lengths, output_hidden_states=True)
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    weights, total = model.head.weights.exp() / model.head.weights.exp().sum(), 0
    for weight, layer in zip(weights, out.hidden_states, strict=True):
        words = layer[real]
        if norm:
            words = (words - words.mean()) / (words.var(unbiased=False) + 1e-12).sqrt()
        total = total + weight * words
    assert_close(out.representation[real], model.head.gamma * total, "representation")
    assert not out.representation[~real].any()


def test_padding_may_be_a_mask_or_nothing_at_all() -> None:
    config, _, model = pair(torch.float32)
    ids, lengths = elmo.character_ids(TEXTS["ragged"], config.max_characters_per_token)
    want = model(ids, lengths=lengths).representation
    mask = (torch.arange(5) < lengths[:, None]).long()
    assert torch.equal(model(ids, mask).representation, want)
    assert torch.equal(model(ids).representation, want)
    junk = ids.where(mask[..., None] > 0, 7)
    assert torch.equal(model(junk, mask).representation, want)


# Language models ----------------------------------------------------------------------------


@pytest.mark.parametrize("texts", ["ragged", "one"])
def test_the_loss_is_both_directions_of_every_word_and_mark(texts: str) -> None:
    config, variables, model = pair(torch.float64, "ElmoForBidirectionalLM")
    batch = TEXTS[texts]
    ids, lengths = elmo.character_ids(batch, config.max_characters_per_token)
    labels = torch.randint(2, 40, ids.shape[:2], generator=torch.Generator().manual_seed(4))
    losses: tuple[list, list] = ([], [])
    for row, words in enumerate(batch):
        top = bilm.sentence(config, variables, words, {})[0][-1]
        whole = [config.bos_token_id, *labels[row, : len(words)].tolist(), config.eos_token_id]
        for t in range(len(whole) - 1):
            for way, (place, target) in enumerate(((t, whole[t + 1]), (t + 1, whole[t]))):
                state = top[place].chunk(2)[way]
                losses[way].append(-model.head.words(state).log_softmax(-1)[target])
    want = [sum(found) / len(found) for found in losses]
    out = model(ids, lengths=lengths, labels=labels)
    for got, wanted in ((out.forward_loss, want[0]), (out.backward_loss, want[1]), (out.loss, sum(want) / 2)):
        assert_close(got, wanted, "loss")
    open_ = model(ids, lengths=lengths)
    assert open_.loss is None and open_.forward_logits.shape == (len(batch), ids.shape[1] + 2, 40)
    first = -open_.forward_logits[0, 0].log_softmax(-1)[labels[0, 0]]
    assert_close(first, losses[0][0], "the first word's loss")


def test_the_loss_may_be_against_sampled_words() -> None:
    config, _, model = pair(torch.float64, "ElmoForBidirectionalLM")
    ids, lengths = elmo.character_ids(TEXTS["ragged"], config.max_characters_per_token)
    labels = torch.randint(2, 40, ids.shape[:2], generator=torch.Generator().manual_seed(4))
    torch.manual_seed(0)
    out = model(ids, lengths=lengths, labels=labels, negatives=12)
    assert model(ids, lengths=lengths, labels=labels, negatives=12).loss != out.loss
    assert out.loss == (out.forward_loss + out.backward_loss) / 2
    torch.manual_seed(0)
    body = model.body(ids, lengths=lengths)
    states, targets = body.layers[-1].chunk(2, -1)[0], both_directions(labels, lengths, 0, 1)[0]
    want = sampled_softmax_loss(
        states.flatten(0, 1), model.head.words.weight, model.head.words.bias, targets.flatten(), 12
    )
    assert torch.equal(out.forward_loss, want)


def corpus(sentences: int, vocabulary: int) -> tuple[list[list[str]], dict[str, int]]:
    """Lines of Python's documentation, cut to 12 words, and its commonest words by falling frequency."""
    texts = [text.split()[:12] for text in list(paragraphs())[:sentences]]
    common = Counter(word for words in texts for word in words).most_common(vocabulary - 2)
    return texts, {word: number + 2 for number, (word, _) in enumerate(common)}


@pytest.mark.parametrize("negatives", [None, 60])
def test_it_learns_more_than_how_often_words_occur(negatives: int | None) -> None:
    texts, known = corpus(24, 400)
    counts = Counter(word for words in texts for word in (*words, "</S>"))
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    config = elmo.Config(
        max_characters_per_token=12, char_dim=8, filters=((1, 8), (2, 16), (3, 24)), n_highway=1,
        dim=64, projection_dim=32, vocab_size=len(known) + 2, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build("ElmoForBidirectionalLM", config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids, lengths = elmo.character_ids(texts, 12)
    labels = torch.tensor([[known[word] for word in words] + [0] * (12 - len(words)) for words in texts])
    for _ in range(45):
        optimizer.zero_grad()
        model(ids, lengths=lengths, labels=labels, negatives=negatives).loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(ids, lengths=lengths, labels=labels)
    assert max(out.forward_loss, out.backward_loss) < 0.85 * entropy


def test_dropout_is_at_work_while_training_alone() -> None:
    model = build("ElmoModel", elmo.Config(**TINY | {"dropout": 0.5}))
    ids, lengths = elmo.character_ids(TEXTS["ragged"], 9)
    model.train()
    torch.manual_seed(1)
    one, two = (model(ids, lengths=lengths).representation for _ in range(2))
    assert not torch.equal(one, two)
    model.eval()
    assert torch.equal(*(model(ids, lengths=lengths).representation for _ in range(2)))


# Sizes, settings, tracing -------------------------------------------------------------------


def test_parameter_counts_of_the_published_models() -> None:
    """93.6, 28.0 and 13.6 million (allennlp.org/elmo), and three weights and gamma of the mix."""
    assert count("ElmoModel", elmo.Config.original()) == 93_600_864 + 4
    assert count("ElmoModel", elmo.Config.medium()) == 28_027_744 + 4
    assert count("ElmoModel", elmo.Config.small()) == 13_593_312 + 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_characters": 261}, "n_characters: at least 262"),
        ({"filters": ((10, 4),)}, "filters: pairs of a width up to 9"),
        ({"filters": ()}, "filters: at least one"),
        ({"proj_clip": 0.0}, "proj_clip: more than 0"),
        ({"eos_token_id": 40}, "eos_token_id: one of"),
        ({"dropout": 1.0}, r"dropout: in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        elmo.Config(**TINY | changes)


def test_bad_input_is_named() -> None:
    model = build("ElmoForBidirectionalLM", elmo.Config(**TINY))
    ids, _ = elmo.character_ids(TEXTS["ragged"], 9)
    cases = (
        ({"input_ids": ids[..., :8]}, r"input_ids: integers of shape \(B, S, 9\)"),
        (
            {"input_ids": ids, "attention_mask": torch.tensor([[0, 1, 1, 1, 1]] * 3)},
            "attention_mask: padding on the right",
        ),
        ({"input_ids": ids, "labels": ids[..., 0, 0]}, r"labels: shape \(3, 5\)"),
        ({"input_ids": ids, "labels": torch.full((3, 5), 40)}, "labels: -100 and 0 to 39"),
        ({"input_ids": ids, "labels": torch.zeros(3, 5).long(), "negatives": 40}, "count: between 1 and 39"),
    )
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**given)
    with pytest.raises(ValueError, match="size: at least 3"):
        elmo.character_ids([["a"]], 2)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    _, _, model = pair(torch.float32)
    ids, lengths = elmo.character_ids(TEXTS["ragged"], 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(ids, lengths=lengths)
    got = compiled(ids, lengths=lengths)
    assert_close(got.representation, want.representation, "representation")
    got.representation.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
