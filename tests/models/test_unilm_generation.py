"""UniLM's decoding: with keys and values kept, what it says is what it says when all is done anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pkernels.models import Model, build, from_pretrained, unilm
from pkernels.models.parts.cache import Caches
from pkernels.models.parts.generation import generate
from pkernels.models.parts.objectives import mask_targets
from pkernels.models.parts.writing import PLAIN, Prompt

from .dense_unilm import CONFIG, RELATIVE, WORDS, Oracle, weights
from .pairs import assert_close
from .test_unilm import VERSIONS, config, saved

MASK, EOS = 3, 7
SOURCES = [[5, 9, 11, 4, 6, 20, 31], [8], [5, 9, 40, 12]]
LENGTHS = torch.tensor([len(source) for source in SOURCES])
BATCH = torch.tensor([source + [0] * (7 - len(source)) for source in SOURCES])


@pytest.fixture(params=VERSIONS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Oracle, Model]:
    tensors = weights(relative=request.param == "v2")
    changes = {"mask_token_id": MASK, "eos_token_id": EOS, **VERSIONS[request.param]}
    saved(tmp_path, tensors, **changes)
    with pytest.warns(UserWarning, match="has no use for"):
        return Oracle(tensors), from_pretrained(tmp_path, architecture="UniLMForSeq2SeqLM")


class Anew:
    """The same writer, each text from its beginning each time, by the oracle."""

    config = SimpleNamespace(eos_token_id=EOS, pad_token_id=0)

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.texts: list[tuple[list[int], list[int]]] = [(source, []) for source in SOURCES]

    def prepare(self, room: Callable[[int], int]) -> Prompt:
        caches = Caches([self], LENGTHS)  # type: ignore[list-item]
        return Prompt(self.scores(), caches, torch.zeros(len(self.texts), 0, dtype=torch.int64), rules=PLAIN)

    def scores(self) -> Tensor:
        return torch.stack([self.oracle.after(source, target, MASK) for source, target in self.texts])

    def step(self, ids: Tensor, caches: Caches | None = None) -> Tensor:
        self.texts = [(s, [*t, word]) for (s, t), word in zip(self.texts, ids.tolist(), strict=True)]
        return self.scores()

    def reorder(self, rows: Tensor) -> None:
        self.texts = [self.texts[row] for row in rows.tolist()]


@torch.no_grad()
def test_scores_of_each_step_are_those_of_the_whole_text(both: tuple[Oracle, Model]) -> None:
    anew, model = Anew(both[0]), both[1]
    prompt = model.prepare(BATCH, lengths=LENGTHS, room=lambda size: 9)
    assert_close(prompt.scores, anew.scores(), "first")
    draw = torch.Generator().manual_seed(1)
    for step in range(8):
        if step in (0, 3, 4):  # texts are repeated, left out, and change places
            rows = torch.randint(3, (5,) if step == 0 else (len(anew.texts),), generator=draw)
            prompt.caches.reorder(rows)
            anew.reorder(rows)
        words = torch.randint(WORDS, (len(anew.texts),), generator=draw)
        assert_close(model.step(words, prompt.caches), anew.step(words), f"step {step}")


@pytest.mark.parametrize(
    "how",
    [
        {"max_new_tokens": 9},
        {"max_new_tokens": 7, "num_beams": 3, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 6, "num_beams": 4, "length_penalty": 0.0, "min_new_tokens": 3},
    ],
)
@torch.no_grad()
def test_texts_are_those_without_a_cache(both: tuple[Oracle, Model], how: dict) -> None:
    oracle, model = both
    oracle.p["cls.predictions.bias"][EOS] += 4  # ends come early in some texts
    model.head.words.bias[EOS] += 4
    got = unilm.generate(model, BATCH, lengths=LENGTHS, **how)
    assert torch.equal(got, generate(Anew(oracle), **how))
    mask = (torch.arange(7) < LENGTHS[:, None]).long()
    assert torch.equal(model.generate(BATCH, mask, **how), got)
    left = torch.stack([row.roll(7 - n) for row, n in zip(BATCH, LENGTHS.tolist(), strict=True)])
    assert torch.equal(unilm.generate(model, left, mask.flip(1), **how), got)


def test_drawn_texts_are_those_without_a_cache(both: tuple[Oracle, Model]) -> None:
    def how() -> dict:
        draw = torch.Generator().manual_seed(5)
        return {
            "max_new_tokens": 5,
            "do_sample": True,
            "temperature": 3.0,
            "top_k": 20,
            "top_p": 0.9,
            "generator": draw,
        }

    got = unilm.generate(both[1], BATCH, lengths=LENGTHS, **how())
    with torch.no_grad():
        assert torch.equal(got, generate(Anew(both[0]), **how()))
    assert len(set(map(tuple, got.tolist()))) == 3


def test_a_text_alone_is_that_of_the_batch(both: tuple[Oracle, Model]) -> None:
    together = unilm.generate(both[1], BATCH, lengths=LENGTHS, max_new_tokens=6, eos_token_id=())
    for row, source in enumerate(SOURCES):
        alone = unilm.generate(both[1], torch.tensor([source]), max_new_tokens=6, eos_token_id=())
        assert torch.equal(alone[0], together[row])


def test_a_trained_model_turns_words_round() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "intermediate_size": 64}
    ids = {"mask_token_id": 3, "eos_token_id": 2, "max_position_embeddings": 16, **RELATIVE}
    model = build("UniLMForSeq2SeqLM", unilm.Config.base(**sizes, **without, **ids)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    draw = torch.Generator().manual_seed(0)
    lengths, sources = torch.full((64,), 8), torch.full((64,), 5)
    for _ in range(150):
        words = torch.randint(4, 12, (64, 3), generator=draw)
        first, last = torch.ones(64, 1, dtype=torch.long), torch.full((64, 1), 2)
        text = torch.cat([first, words, last, words.flip(1), last], 1)[:, :9]
        masked, labels = mask_targets(
            text, lengths + 1, sources, mask_id=3, words=12, shares=(1.0, 0.0), generator=draw
        )
        loss = model(masked, source_lengths=sources, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    for beams in (1, 2):
        found = unilm.generate(model, text[:, :5], max_new_tokens=8, num_beams=beams)
        assert float((found[:, :4] == text[:, 5:]).all(1).float().mean()) > 0.9
        assert found.shape[1] == 4 or float((found[:, 4:] == 0).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 34}, r"max_new_tokens: at most 33 \(max_position_embeddings less the longest source\)"),
        ({"lengths": torch.tensor([0, 2])}, "attention_mask, lengths: at least one real token in each row"),
        ({"num_beams": 2, "do_sample": True}, "num_beams: 1 is allowed with do_sample=True, got 2"),
    ],
)
def test_wrong_calls_are_named(given: dict, message: str) -> None:
    model = build("UniLMForSeq2SeqLM", config(mask_token_id=MASK)).eval()
    ids = BATCH if "max_new_tokens" in given else torch.tensor([[5, 6], [7, 8]])
    with pytest.raises(ValueError, match=message):
        unilm.generate(model, ids, **given)


def test_models_that_cannot_write_are_named() -> None:
    with pytest.raises(ValueError, match="model: a UniLM that predicts words is allowed, got UniLMModel"):
        unilm.generate(build("UniLMModel", config()), BATCH)
    assert CONFIG["vocab_size"] == WORDS
    with pytest.raises(ValueError, match=r"mask_token_id: a word of the vocabulary \(97\) is allowed, got 103"):
        unilm.generate(build("UniLMForMaskedLM", config()), BATCH)
