"""Writing: the same words as without caches, and as transformers' ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pkernels.models import Model, build, gpt2, gpt3, gpt_neo
from pkernels.models.parts.scores import Repetition, Sampling

from .pairs import assert_close, fill_with_noise, pair

# So few words that texts end early now and then. (Beams of transformers take a padding of 0 for none.)
WORDS = 23
SIZES = {"vocab_size": WORDS, "n_positions": 40, "n_embd": 26, "n_layer": 2, "n_head": 2}
NEO = {"vocab_size": WORDS, "max_position_embeddings": 40, "hidden_size": 26, "num_layers": 2, "num_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 2}
LEFT = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
RIGHT = LEFT.flip(1)


def prompts(mask: Tensor) -> Tensor:
    """The same words in each row, whichever side is padded."""
    ids = torch.randint(3, WORDS, (4, 6), generator=torch.Generator().manual_seed(1))
    out = torch.full_like(ids, 2)
    for row, n in enumerate(mask.sum(1).tolist()):
        out[row, mask[row].bool()] = ids[row, :n]
    return out


def noisy(name: str) -> Model:
    if name == "gpt2":
        model = build("GPT2LMHeadModel", gpt2.Config(**SIZES, **ENDS))
    elif name == "gpt_neo":
        model = build("GPTNeoForCausalLM", gpt_neo.Config(**NEO, **ENDS, window_size=4))
    else:
        model = build("GPT3LMHeadModel", gpt3.Config(**NEO, **ENDS, window_size=4))
    fill_with_noise(model)
    return model.eval()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "gpt3"])
@pytest.mark.parametrize("mask", [LEFT, RIGHT, torch.ones_like(LEFT)], ids=["left", "right", "whole"])
def test_scores_with_caches_are_those_without(name: str, mask: Tensor) -> None:
    """Token by token, past the window of banded layers."""
    model, ids = noisy(name), prompts(mask)
    with torch.no_grad():
        prompt = model.prepare(ids, mask, room=lambda size: 12)
        texts = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
        scores = prompt.scores
        for _ in range(12):
            want = torch.stack([model(text[None]).logits[0, -1] for text in texts])
            assert_close(scores, want, "scores")
            words = scores.argmax(-1)
            texts = [torch.cat([text, word[None]]) for text, word in zip(texts, words, strict=True)]
            scores = model.step(words, prompt.caches)


def test_several_words_at_once_are_the_same_as_one_by_one() -> None:
    model, ids = noisy("gpt3"), prompts(LEFT)
    more = torch.randint(2, WORDS, (4, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        one, all_ = (model.prepare(ids, LEFT, room=lambda size: 9).caches for _ in range(2))
        states = model.body.step(more, all_)
        for place, words in enumerate(more.T):
            assert_close(model.step(words, one), model.head.words(states)[:, place], "scores")
        assert torch.equal(one.lengths, all_.lengths)


def test_half_precision_writes_too() -> None:
    model, ids = noisy("gpt3"), prompts(LEFT)
    half = noisy("gpt3").to(torch.bfloat16)
    with torch.no_grad():
        want, got = (one.prepare(ids, LEFT, room=lambda size: 3) for one in (model, half))
        scores = [(want.scores, got.scores)]
        for words in torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]]):
            scores.append((model.step(words, want.caches), half.step(words, got.caches)))
    assert got.caches.layers[1].k.dtype == torch.bfloat16
    for exact, rough in scores:
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert half.generate(ids, LEFT, max_new_tokens=8, repetition_penalty=1.1, eos_token_id=()).shape == (4, 14)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Model]]:
    folder: Path = tmp_path_factory.mktemp("models")
    neo = transformers.GPTNeoConfig(**NEO, **ENDS, window_size=4, attention_types=[[["global", "local"], 1]])
    return {
        "gpt2": pair(folder / "gpt2", "GPT2LMHeadModel", transformers.GPT2Config(**SIZES, **ENDS)),
        "gpt_neo": pair(folder / "neo", "GPTNeoForCausalLM", neo),
    }


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_transformers(models: dict, name: str, beams: int) -> None:
    oracle, ours = models[name]
    given = {"attention_mask": LEFT, "max_new_tokens": 14, "num_beams": beams}
    ids = prompts(LEFT)
    want, got = oracle.generate(ids, **given, do_sample=False), ours.generate(ids, **given)
    assert torch.equal(got, want)
    assert got.shape[1] > 10


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("ends", [1, [1, 4, 9], ()], ids=["one end", "three ends", "no end"])
def test_beams_are_transformers(models: dict, early_stopping: bool | str, length_penalty: float, ends: Any) -> None:
    oracle, ours = models["gpt2"]
    given = {"max_new_tokens": 7, "num_beams": 4, "num_return_sequences": 3, "attention_mask": LEFT}
    given |= {"early_stopping": early_stopping, "length_penalty": length_penalty}
    eos = oracle.generation_config.eos_token_id
    if ends == ():
        oracle.generation_config.eos_token_id = None
    want = oracle.generate(prompts(LEFT), **given, do_sample=False, **{} if ends == () else {"eos_token_id": ends})
    oracle.generation_config.eos_token_id = eos
    assert torch.equal(ours.generate(prompts(LEFT), **given, eos_token_id=ends), want)


@pytest.mark.parametrize("early_stopping", [False, "never"])
def test_long_texts_that_may_still_win_are_followed(models: dict, early_stopping: bool | str) -> None:
    """With a penalty above 1 and many ends "never" finds texts that False does not wait for."""
    oracle, ours = models["gpt2"]
    given = {"max_new_tokens": 14, "num_beams": 2, "length_penalty": 2.5, "eos_token_id": [3, 6, 8, 10]}
    given |= {"attention_mask": LEFT, "early_stopping": early_stopping}
    want = oracle.generate(prompts(LEFT), **given, do_sample=False)
    assert torch.equal(ours.generate(prompts(LEFT), **given), want)


@pytest.mark.parametrize("beams", [1, 3])
def test_repetition_costs_as_in_transformers(models: dict, beams: int) -> None:
    oracle, ours = models["gpt2"]
    given = {"max_length": 20, "num_beams": beams, "repetition_penalty": 1.7}
    ids = prompts(torch.ones_like(LEFT))
    want = oracle.generate(ids, **given, do_sample=False, attention_mask=torch.ones_like(LEFT))
    assert torch.equal(ours.generate(ids, **given), want)
    assert not torch.equal(ours.generate(ids, **given | {"repetition_penalty": 1.0}), want)


@pytest.mark.parametrize("beams", [1, 3])
def test_ngrams_come_once_as_in_transformers(models: dict, beams: int) -> None:
    oracle, ours = models["gpt2"]
    given = {"max_length": 24, "num_beams": beams, "no_repeat_ngram_size": 2}
    ids = prompts(torch.ones_like(LEFT))
    want = oracle.generate(ids, **given, do_sample=False, attention_mask=torch.ones_like(LEFT))
    assert torch.equal(ours.generate(ids, **given), want)
    assert not torch.equal(ours.generate(ids, **given | {"no_repeat_ngram_size": 0}), want)


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_have_the_least_words_as_in_transformers(models: dict, beams: int) -> None:
    oracle, ours = models["gpt2"]
    given = {"max_new_tokens": 12, "num_beams": beams, "attention_mask": LEFT, "eos_token_id": [3, 6, 8, 10]}
    free, want = (oracle.generate(prompts(LEFT), **given, min_new_tokens=least, do_sample=False) for least in (None, 9))
    got = ours.generate(prompts(LEFT), **given, min_new_tokens=9)
    assert torch.equal(got, want) and not torch.equal(free, want)
    assert not torch.isin(got[:, 6:15], torch.tensor(given["eos_token_id"])).any()


@pytest.mark.parametrize("name", ["gpt2", "gpt3"])
@pytest.mark.parametrize("beams", [1, 3])
def test_padding_changes_no_word(name: str, beams: int) -> None:
    model = noisy(name)
    given = {"max_new_tokens": 9, "num_beams": beams, "repetition_penalty": 1.2}
    left = model.generate(prompts(LEFT), LEFT, **given)[:, 6:]
    assert torch.equal(model.generate(prompts(RIGHT), RIGHT, **given)[:, 6:], left)
    assert torch.equal(model.generate(prompts(RIGHT), lengths=RIGHT.sum(1), **given)[:, 6:], left)
    for row, n in enumerate(RIGHT.sum(1).tolist()):
        alone = model.generate(prompts(RIGHT)[row : row + 1, :n], **given)[0, n:]
        assert torch.equal(alone, left[row, : len(alone)])
        assert (left[row, len(alone) :] == 2).all()


def test_rows_end_one_by_one_and_are_filled() -> None:
    """Scores that say when each row ends, and what stands where there is no padding."""
    model = noisy("gpt2")
    ends = torch.tensor([2, 5, 3, 4])

    def script(ids: Tensor, scores: Tensor) -> Tensor:
        word = torch.where(ids.shape[1] - 6 + 1 >= ends, 1, 7)
        return torch.full_like(scores, -9.0).scatter(1, word[:, None], 0.0)

    new = model.generate(prompts(RIGHT), RIGHT, max_new_tokens=30, logits_processor=[script])[:, 6:]
    assert new.tolist() == [[7, 1, 2, 2, 2], [7, 7, 7, 7, 1], [7, 7, 1, 2, 2], [7, 7, 7, 1, 2]]
    new = model.generate(prompts(RIGHT), RIGHT, max_new_tokens=4, pad_token_id=8, logits_processor=[script])[:, 6:]
    assert new.tolist() == [[7, 1, 8, 8], [7, 7, 7, 7], [7, 7, 1, 8], [7, 7, 7, 1]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("top_k", [None, 4, 500])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.8, 1.0])
def test_words_are_drawn_from_transformers_distribution(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    scores = torch.randn(5, 29, generator=torch.Generator().manual_seed(0)) * 2
    want = TemperatureLogitsWarper(temperature)(None, scores)
    want = want if top_k is None else TopKLogitsWarper(top_k)(None, want)
    want = want if top_p is None else TopPLogitsWarper(top_p)(None, want)
    assert torch.equal(Sampling(temperature, top_k, top_p).probabilities(scores), want.softmax(-1))


def test_words_beyond_the_nucleus_go_though_their_sum_is_exact() -> None:
    scores = torch.zeros(1, 4)
    want = TopPLogitsWarper(0.5)(None, scores)
    assert torch.equal(Sampling(top_p=0.5).probabilities(scores), want.softmax(-1)) and want.isinf().sum() == 2


def test_frequencies_are_probabilities() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    pick = Sampling(temperature=2.0, top_k=3, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(pick(scores.expand(20000, 4)), minlength=4) / 20000
    assert drawn[0] == 0 and (drawn - pick.probabilities(scores)[0]).abs().max() < 0.01


def test_the_generator_governs_sampling() -> None:
    model, ids = noisy("gpt2"), prompts(LEFT)

    def sampled(seed: int, **more: Any) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(ids, LEFT, max_new_tokens=9, do_sample=True, generator=generator, **more)

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))
    assert torch.equal(sampled(1, top_k=1), model.generate(ids, LEFT, max_new_tokens=9))
    several = sampled(3, num_return_sequences=2, eos_token_id=())
    assert several.shape == (8, 15) and torch.equal(several[:, :6], ids.repeat_interleave(2, 0))
    assert not torch.equal(several[0], several[1])


def test_the_penalty_is_transformers_and_padding_is_no_word() -> None:
    scores = torch.randn(2, 9)
    ids = torch.tensor([[3, 3, 8], [1, 0, 4]])
    assert torch.equal(Repetition(1.5)(ids, scores), RepetitionPenaltyLogitsProcessor(1.5)(ids, scores))
    got = Repetition(1.5, torch.tensor([[False], [True]]))(torch.tensor([[7, 2], [7, 2]]), scores)
    assert torch.equal(got != scores, torch.tensor([[i == 2 for i in range(9)], [i in (2, 7) for i in range(9)]]))


def test_beams_find_better_texts_than_greed(models: dict) -> None:
    _, ours = models["gpt2"]
    ids = prompts(torch.ones_like(LEFT))

    def likelihood(texts: Tensor) -> Tensor:
        logs = ours(texts).logits.log_softmax(-1)[:, 5:-1]
        return logs.gather(2, texts[:, 6:, None]).sum((1, 2))

    given = {"max_new_tokens": 6, "eos_token_id": ()}
    greedy, beams = (likelihood(ours.generate(ids, **given, num_beams=n)) for n in (1, 8))
    assert (beams >= greedy - 1e-5).all() and (beams > greedy + 1e-3).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "max_new_tokens, max_length: one of them"),
        ({"max_new_tokens": 3, "max_length": 9}, "max_new_tokens, max_length: one of them"),
        ({"max_new_tokens": 0}, "max_new_tokens: an integer, at least 1"),
        ({"max_new_tokens": 36}, "max_new_tokens: prompt and new words of at most 41 tokens"),
        ({"max_length": 6}, "max_length: more than the 6 tokens"),
        ({"max_new_tokens": 3, "temperature": 0.5}, "temperature, top_k, top_p: allowed with do_sample"),
        ({"max_new_tokens": 3, "temperature": 0.0, "do_sample": True}, "temperature: above 0"),
        ({"max_new_tokens": 3, "top_p": 1.5, "do_sample": True}, "top_p: above 0 and up to 1"),
        ({"max_new_tokens": 3, "do_sample": True, "num_beams": 2}, "num_beams: 1 is allowed"),
        ({"max_new_tokens": 3, "num_return_sequences": 2}, "num_return_sequences: without do_sample"),
        ({"max_new_tokens": 3, "early_stopping": "soon"}, "early_stopping: True, False or"),
        ({"max_new_tokens": 3, "attention_mask": torch.zeros(4, 6)}, "attention_mask, lengths: at least one real"),
        ({"max_new_tokens": 3, "input_ids": [[5]]}, "input_ids: shape"),
        ({"max_new_tokens": 3, "attention_mask": LEFT[:2]}, "attention_mask: a tensor of shape"),
    ],
)
def test_bad_arguments(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noisy("gpt2").generate(**{"input_ids": prompts(LEFT), **given})


def test_the_longest_text_fits() -> None:
    assert noisy("gpt2").generate(prompts(LEFT), max_new_tokens=35, eos_token_id=()).shape == (4, 41)


def test_other_heads_do_not_write() -> None:
    model = build("GPT2Model", gpt2.Config(**SIZES))
    with pytest.raises(ValueError, match="generate: a model that predicts the next word is allowed, got GPT2Model"):
        model.generate(torch.tensor([[1]]), max_new_tokens=1)
    assert isinstance(model.head, nn.Module)
