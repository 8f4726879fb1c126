"""What a decoder beside an encoder writes: transformers' words, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pkernels import attention
from pkernels.models import Model, bart, build, t5
from pkernels.models.parts.crossing import Texts
from pkernels.models.parts.layouts import Masked, Ragged, Whole

from . import test_bart, test_t5
from .pairs import assert_close
from .seq2seq import MASKS, given, pair

ROOM = 14
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "repetition": {"repetition_penalty": 1.7},
    "beams": {"num_beams": 3, "repetition_penalty": 1.7},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3, "repetition_penalty": 2.0},
    "early": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, "repetition_penalty": 1.7},
}


def models(folder: Path, name: str) -> tuple[Any, Model]:
    """Scores that are spread, so that words differ and texts end early or not."""
    if name == "bart":
        both = pair(folder, test_bart.GENERATION, test_bart.tiny(max_position_embeddings=20))
    else:
        version = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if name == "t5 1.1" else {}
        both = pair(folder, test_t5.GENERATION, test_t5.tiny(**version))
    return both


def written(ids: Tensor, config: Any, end: int | None = None) -> list[list[int]]:
    """Texts up to their ends: behind them transformers' beams have the end once more, where padding is 0."""
    end = config.eos_token_id if end is None else end
    rows = [row.tolist() for row in ids]
    stops = [row.index(end, 1) if end in row[1:] else len(row) for row in rows]
    fills = {word for row, stop in zip(rows, stops, strict=True) for word in row[stop + 1 :]}
    assert fills <= {config.pad_token_id, end}
    return [row[: stop + 1] for row, stop in zip(rows, stops, strict=True)]


def sources(masks: str, padding: int) -> dict[str, Tensor]:
    inputs = given(MASKS[masks], padding)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["t5", "t5 1.1", "bart"])
def test_words_are_transformers(tmp_path: Path, name: str, kind: str) -> None:
    oracle, ours = models(tmp_path, name)
    for masks in ("right", "left", "one"):
        inputs = sources(masks, oracle.config.pad_token_id)
        want = oracle.generate(**inputs, **KINDS[kind], max_new_tokens=ROOM, do_sample=False)
        got = ours.generate(**inputs, **KINDS[kind], max_new_tokens=ROOM)
        assert got.shape == want.shape
        assert written(got, ours.config) == written(want, ours.config), masks
    assert kind == "greedy" or len(got[0].unique()) > 3  # left alone, random models say the same again


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_that_have_ended_are_padded(tmp_path: Path, beams: int) -> None:
    """A word that comes early is taken for the end."""
    oracle, ours = models(tmp_path, "t5")
    inputs = sources("right", 0)
    options = {"max_new_tokens": ROOM, "num_beams": beams, "repetition_penalty": 1.7}
    end = int(ours.generate(**inputs, **options, eos_token_id=())[0, 4])
    options["eos_token_id"] = end
    want, got = oracle.generate(**inputs, **options, do_sample=False), ours.generate(**inputs, **options)
    assert written(got, ours.config, end) == written(want, ours.config, end)
    assert (got == end).any() and (got[(got == end).any(1)][:, -1] == 0).any()


def test_the_last_word_is_the_end_where_the_config_wants_it(tmp_path: Path) -> None:
    _, ours = models(tmp_path, "bart")
    words = ours.generate(**sources("one", 1), max_new_tokens=3, eos_token_id=())
    assert words[0, -1] == 2


def test_a_text_may_begin_with_words(tmp_path: Path) -> None:
    oracle, ours = models(tmp_path, "bart")
    begin = {"decoder_input_ids": torch.tensor([[2, 9, 31]] * 3), "max_new_tokens": 6, "num_beams": 2}
    want = oracle.generate(**sources("right", 1), **begin, do_sample=False)
    assert torch.equal(ours.generate(**sources("right", 1), **begin), want)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_steps_are_the_models_own_scores(tmp_path: Path, name: str) -> None:
    """With caches, word by word, and all at once."""
    _, ours = models(tmp_path, name)
    inputs = sources("right", ours.config.pad_token_id)
    words = given(MASKS["right"], 0)["decoder_input_ids"].clamp(min=3)
    with torch.no_grad():
        want = ours(**inputs, decoder_input_ids=words).logits
        prompt = ours.prepare(**inputs, decoder_input_ids=words[:, :1], room=lambda size: 6)
        steps = [prompt.scores, *(ours.step(words[:, i], prompt.caches) for i in range(1, 5))]
    assert_close(torch.stack(steps, 1), want, "scores")


def test_lengths_and_what_was_encoded_before_give_the_same_words() -> None:
    model = build(test_t5.GENERATION, t5.Config(**test_t5.TINY)).eval()
    encoder = build("T5EncoderModel", t5.Config(**test_t5.TINY)).eval()
    encoder.body.encoder.load_state_dict(model.body.encoder.state_dict())
    inputs = sources("right", 0)
    want = model.generate(**inputs, max_new_tokens=5)
    lengths = inputs["attention_mask"].sum(1)
    assert torch.equal(model.generate(inputs["input_ids"], lengths=lengths, max_new_tokens=5), want)
    encoded = encoder(**inputs)
    again = model.generate(encoder_outputs=encoded, attention_mask=inputs["attention_mask"], max_new_tokens=5)
    assert torch.equal(again, want)


# The encoder's keys ----------------------------------------------------------------------


def layouts() -> dict[str, Whole]:
    real = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    return {
        "whole": Whole(3, 5, real.device),
        "ragged": Ragged(torch.tensor([5, 2, 3]), 5),
        "masked": Masked(real),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize(
    "rows", [[0, 1, 2], [0, 0, 1, 1, 2, 2], [2, 0, 0, 1], [1, 1, 0]], ids=["own", "beams", "any", "fewer"]
)
def test_rows_write_about_their_texts(name: str, rows: list[int]) -> None:
    noise = torch.Generator().manual_seed(0)
    k, v = (torch.randn(3, 2, 5, 8, generator=noise) for _ in range(2))
    q = torch.randn(len(rows), 2, 2, 8, generator=noise)
    layout = layouts()[name]
    texts = Texts([(k, v)], layout)
    texts.reorder(torch.tensor(rows))
    got = texts[0].attend(q, nn.Identity(), layout, 0.0, None)
    real = getattr(layout, "real", torch.ones(3, 5).bool())
    for row, text in enumerate(rows):
        keys = [x[text : text + 1, :, real[text]] for x in (k, v)]
        assert_close(got[row : row + 1], attention(q[row : row + 1], *keys), f"row {row}")
    assert (texts.pairs[0][0] is k) == (rows in ([0, 1, 2], [0, 0, 1, 1, 2, 2]))


def test_bad_settings_are_named() -> None:
    model = build(test_bart.GENERATION, bart.Config(**test_bart.TINY)).eval()
    ids = torch.full((2, 5), 9)
    with pytest.raises(ValueError, match=r"max_new_tokens: a text of at most 13 tokens .* is allowed, got 14"):
        model.generate(ids, max_new_tokens=13)
    with pytest.raises(ValueError, match=r"decoder_input_ids: shape \(2, P\) is allowed, got \(1, 1\)"):
        model.generate(ids, decoder_input_ids=torch.tensor([[2]]), max_new_tokens=3)
    with pytest.raises(ValueError, match="generate: a model that predicts the next word is allowed, got BartModel"):
        build("BartModel", bart.Config(**test_bart.TINY)).generate(ids, max_new_tokens=3)
