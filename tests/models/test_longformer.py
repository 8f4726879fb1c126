"""Longformer against transformers, and its sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pkernels.models import build, from_pretrained, longformer

from .pairs import assert_close, assert_same_gradients, backward, fill_with_noise, pair, token_labels

# Two heads of 26 and 23 tokens: no multiple of anything. A window for each layer.
SIZE = 23
TINY = {
    "vocab_size": 97,
    "hidden_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "attention_window": [4, 8],
    "layer_norm_eps": 1e-5,
}


def reals(*spans: tuple[int, int]) -> Tensor:
    """Masks that are 1 from a first position to an end."""
    place = torch.arange(SIZE)
    return torch.stack([((place >= first) & (place < end)).long() for first, end in spans])


HOLES = reals((0, 23), (0, 23), (2, 20))
HOLES[0, [3, 11, 12]] = 0
MASKS = {
    "whole": reals((0, 23), (0, 23), (0, 23)),
    "right": reals((0, 23), (0, 1), (0, 14)),
    "left": reals((0, 23), (22, 23), (9, 23)),
    "holes": HOLES,
    "one": reals((0, 23))[:1],
}


def marks(*rows: list[int]) -> Tensor:
    mask = torch.zeros(3, SIZE, dtype=torch.long)
    for b, row in enumerate(rows):
        mask[b, row] = 1
    return mask


GLOBALS = {
    "none": None,
    "nowhere": marks(),
    "leading": marks([0, 1, 2], [0], [0, 1]),
    "scattered": marks([0, 7, 8, 22], [22], [3, 12]),
    "not in every row": marks([], [0, 22], [13]),
    "padding too": marks([3, 12], [0, 1, 22], [0, 1, 13, 22]),
}


def tiny(**changes) -> transformers.LongformerConfig:
    return transformers.LongformerConfig(**TINY | changes)


def config(**changes) -> longformer.Config:
    return longformer.Config(**TINY | changes)


def inputs(mask: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Padding has the padding's id, 1, which no other token has."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, TINY["vocab_size"], mask.shape, generator=draw)
    return {
        "input_ids": ids.where(mask > 0, 1),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, mask.shape, generator=draw),
    }


@pytest.mark.parametrize("chosen", GLOBALS)
@pytest.mark.parametrize("padding", MASKS)
def test_masked_lm_agrees_with_transformers(tmp_path: Path, padding: str, chosen: str) -> None:
    oracle, ours = pair(tmp_path, "LongformerForMaskedLM", tiny())
    mask = MASKS[padding]
    given = inputs(mask)
    if GLOBALS[chosen] is not None:
        given["global_attention_mask"] = GLOBALS[chosen][: len(mask)]
    labels = token_labels(mask, TINY["vocab_size"])
    want, got = (model(**given, labels=labels, output_hidden_states=True) for model in (oracle, ours))
    real = mask.bool()
    assert_close(got.logits[real], want.logits[real], "logits")
    assert_close(got.loss, want.loss, "loss")
    assert not got.logits[~real].any()
    assert len(got.hidden_states) == len(want.hidden_states) == 3
    for mine, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        assert_close(mine[real], theirs[real], "hidden_states")
        assert not mine[~real].any()
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 38])
def test_every_length_agrees_with_transformers(tmp_path: Path, size: int) -> None:
    oracle, ours = pair(tmp_path, "LongformerModel", tiny(attention_window=8))
    ids = torch.randint(3, 97, (2, size), generator=torch.Generator().manual_seed(size))
    mask = torch.zeros_like(ids)
    mask[1, size // 2] = mask[0, size - 1] = 1
    want, got = (model(ids, global_attention_mask=mask) for model in (oracle, ours))
    assert_close(got.last_hidden_state, want.last_hidden_state, "last_hidden_state")
    assert_close(got.pooler_output, want.pooler_output, "pooler_output")
    weights = torch.randn(want.last_hidden_state.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x.last_hidden_state).mean() + x.pooler_output.mean() for x in (want, got)))
    assert_same_gradients(oracle, ours)


def questions(*rows: list[int]) -> Tensor:
    """Three separators, id 2, per text, as in RoBERTa's format of pairs."""
    ids = torch.randint(3, TINY["vocab_size"], (len(rows), SIZE), generator=torch.Generator().manual_seed(5))
    for row, places in zip(ids, rows, strict=True):
        row[places] = 2
        row[places[-1] + 1 :] = 1
    return ids


def test_attention_masks_of_two_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "LongformerModel", tiny())
    given = inputs(MASKS["right"])
    given["attention_mask"] = given["attention_mask"] * (1 + GLOBALS["scattered"])
    assert given["attention_mask"].max() == 2
    want, got = oracle(**given), ours(**given)
    real = MASKS["right"].bool()
    assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")


def test_position_ids_and_inputs_embeds_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "LongformerModel", tiny())
    embeds = torch.randn(3, SIZE, 52)
    mask, real = MASKS["right"], MASKS["right"].bool()
    for given in ({}, {"position_ids": torch.arange(SIZE).flip(0).expand(3, -1) + 10}):
        given |= {"inputs_embeds": embeds, "attention_mask": mask, "global_attention_mask": GLOBALS["scattered"]}
        want, got = oracle(**given), ours(**given)
        assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")


def test_paddings_without_a_mask_agree_with_transformers(tmp_path: Path) -> None:
    """Tokens with the padding's id are attended to, at the padding's position, and do not count."""
    oracle, ours = pair(tmp_path, "LongformerModel", tiny())
    ids = inputs(MASKS["holes"])["input_ids"]
    want, got = (model(ids).last_hidden_state for model in (oracle, ours))
    assert_close(got, want, "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).mean() for x in (want, got)))
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("architecture", longformer.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = ("bad", "fair") if architecture == "LongformerForQuestionAnswering" else ("bad", "fair", "good")
    model = build(architecture, config(labels=labels, hidden_act="relu")).eval()
    fill_with_noise(model)
    model.save_pretrained(tmp_path)
    theirs, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = questions([3, 4, 22], [1, 2, 8])
    given = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    if architecture == "LongformerForMultipleChoice":
        given = {name: x[:, None] for name, x in given.items()}
    want, got = theirs.eval()(**given), model(**given)
    real = (ids != 1) if architecture != "LongformerForMultipleChoice" else slice(None)
    for name, mine in vars(got).items():
        if torch.is_tensor(mine):
            rows = real if mine.dim() > 1 and mine.shape[1] == SIZE else slice(None)
            assert_close(mine[rows], want[name][rows], name)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_global_projections_start_as_copies_of_the_local_ones() -> None:
    for layer in build("LongformerModel", config()).body.layers:
        attention = layer.attention.inner
        assert torch.equal(
            torch.cat([attention.of_globals.q.weight, attention.of_globals.kv.weight]), attention.qkv.weight
        )


def test_parameter_counts_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert build("LongformerForMaskedLM", longformer.Config.base()).num_parameters() == 148_711_257
        assert build("LongformerModel", longformer.Config.base()).num_parameters() == 148_659_456
        assert build("LongformerForMaskedLM", longformer.Config.large()).num_parameters() == 434_653_273
        assert build("LongformerModel", longformer.Config.large()).num_parameters() == 434_600_960
    longer = longformer.Config.base(length=32768)
    assert longer.max_position_embeddings == 32770 and longer.attention_window == 512
