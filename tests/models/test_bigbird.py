"""BigBird against transformers, in training too; its dropout and its sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pkernels.models import bigbird, build, from_pretrained

from .pairs import LARGE, assert_close, assert_same_gradients, backward, fill_with_noise, pair, token_labels

# Two heads of 26; 46 tokens are 12 blocks, of which the last is half full. Up to 36 see all.
SIZE = 46
TINY = {
    "vocab_size": 97,
    "hidden_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 60,
    "block_size": 4,
    "num_random_blocks": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def reals(*spans: tuple[int, int]) -> Tensor:
    """Masks that are 1 from a first position to an end."""
    place = torch.arange(SIZE)
    return torch.stack([((place >= first) & (place < end)).long() for first, end in spans])


HOLES = reals((0, 46), (0, 46), (2, 44))
HOLES[0, [3, 11, 12, 20, 21, 22, 23, 45]] = 0
MASKS = {
    "whole": reals((0, 46), (0, 46), (0, 46)),
    "right": reals((0, 46), (0, 1), (0, 30)),
    "left": reals((0, 46), (45, 46), (9, 46)),
    "holes": HOLES,
    "one": reals((0, 46))[:1],
}


def tiny(**changes) -> transformers.BigBirdConfig:
    return transformers.BigBirdConfig(**TINY | changes)


def config(**changes) -> bigbird.Config:
    return bigbird.Config(**TINY | changes)


def inputs(mask: Tensor, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1, TINY["vocab_size"], mask.shape, generator=draw),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, mask.shape, generator=draw),
    }


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("padding", MASKS)
def test_pretraining_agrees_with_transformers(tmp_path: Path, padding: str, training: bool) -> None:
    oracle, ours = (model.train(training) for model in pair(tmp_path, "BigBirdForPreTraining", tiny()))
    mask = MASKS[padding]
    labels = {
        "labels": token_labels(mask, TINY["vocab_size"]),
        "next_sentence_label": torch.tensor([0, 1, 1])[: len(mask)],
    }
    want, got = (model(**inputs(mask), **labels, output_hidden_states=True) for model in (oracle, ours))
    real = mask.bool()
    assert_close(got.prediction_logits[real], want.prediction_logits[real], "prediction_logits")
    assert_close(got.seq_relationship_logits, want.seq_relationship_logits, "seq_relationship_logits")
    assert_close(got.loss, want.loss, "loss")
    assert not got.prediction_logits[~real].any()
    assert len(got.hidden_states) == len(want.hidden_states) == 3
    for mine, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        assert_close(mine[real], theirs[:, :SIZE][real], "hidden_states")
        assert not mine[~real].any()
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("size", [1, 4, 36, 37, 40, 41, 60])
def test_every_length_agrees_with_transformers(tmp_path: Path, size: int, training: bool) -> None:
    """Up to 36 tokens all see all, in this call alone; longer ones see blocks."""
    oracle, ours = (model.train(training) for model in pair(tmp_path, "BigBirdModel", tiny(rescale_embeddings=True)))
    ids = torch.randint(1, 97, (2, size), generator=torch.Generator().manual_seed(size))
    mask = torch.ones_like(ids)
    mask[1, (size + 1) // 2 :] = 0
    ours(ids[:, :1])
    want, got = (model(ids, mask) for model in (oracle, ours))
    real = mask.bool()
    assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")
    assert_close(got.pooler_output, want.pooler_output, "pooler_output")
    weights = torch.randn(want.last_hidden_state.shape, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    backward(*((weights * x.last_hidden_state).sum() / LARGE + x.pooler_output.mean() for x in (want, got)))
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize(("size", "longest"), [(1024, 1024), (1010, 4096), (2048, 4096), (3072, 3072)])
def test_the_papers_lengths_agree_with_transformers_in_training(tmp_path: Path, size: int, longest: int) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 9, "max_position_embeddings": longest, "block_size": 64}
    oracle, ours = (model.train() for model in pair(tmp_path, "BigBirdModel", tiny(**sizes, num_random_blocks=3)))
    ids = torch.randint(1, 97, (1, size), generator=torch.Generator().manual_seed(size))
    want, got = (model(ids).last_hidden_state for model in (oracle, ours))
    assert_close(got, want, "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).sum() / LARGE for x in (want, got)))
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("padding", ["right", "left", "holes"])
@pytest.mark.parametrize("size", [20, SIZE])
def test_full_attention_agrees_with_transformers(tmp_path: Path, size: int, padding: str) -> None:
    changes = {"attention_type": "original_full", "use_bias": False, "hidden_act": "relu"}
    oracle, ours = pair(tmp_path, "BigBirdForMaskedLM", tiny(**changes))
    mask = MASKS[padding][:, -size:] if padding == "left" else MASKS[padding][:, :size]
    labels = token_labels(mask, TINY["vocab_size"])
    want, got = (model(**inputs(mask), labels=labels) for model in (oracle, ours))
    assert_close(got.logits[mask == 1], want.logits[mask == 1], "logits")
    backward(want.loss, got.loss)
    assert_same_gradients(oracle, ours)


def questions(*ends: int) -> Tensor:
    """A separator, id 66, behind each question and at the end."""
    ids = torch.randint(1, 66, (len(ends), SIZE), generator=torch.Generator().manual_seed(5))
    for row, end in zip(ids, ends, strict=True):
        row[[end, -1]] = 66
    return ids


def test_position_ids_and_inputs_embeds_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "BigBirdModel", tiny(rescale_embeddings=True))
    mask, real = MASKS["right"], MASKS["right"].bool()
    for given in ({}, {"position_ids": torch.arange(SIZE).flip(0).expand(3, -1) + 10}):
        given |= {"inputs_embeds": torch.randn(3, SIZE, 52), "attention_mask": mask}
        want = oracle(**given, token_type_ids=torch.zeros_like(mask))
        assert_close(ours(**given).last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")


@pytest.mark.parametrize("architecture", bigbird.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = ("bad", "fair") if architecture == "BigBirdForQuestionAnswering" else ("bad", "fair", "good")
    model = build(architecture, config(labels=labels, hidden_act="relu")).eval()
    fill_with_noise(model)
    model.save_pretrained(tmp_path)
    theirs, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = {"input_ids": questions(5, 3)}
    if architecture == "BigBirdForMultipleChoice":
        given = {name: x[:, None] for name, x in given.items()}
    want, got = theirs.eval()(**given), model(**given)
    for name, mine in vars(got).items():
        if torch.is_tensor(mine):
            assert_close(mine, want[name], name)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_dropout_of_embeddings_comes_before_their_norm() -> None:
    model = build("BigBirdModel", config(hidden_dropout_prob=0.5)).train()
    x = model(inputs(MASKS["one"])["input_ids"], output_hidden_states=True).hidden_states[0]
    assert (x.mean(-1).abs() < 1e-5).all() and ((x.var(-1, correction=0) - 1).abs() < 1e-3).all()
    assert (x[0, :, 0] == x[0, :, 0].median()).sum() < SIZE


def test_only_full_attention_has_dropout() -> None:
    model = build("BigBirdModel", config(attention_probs_dropout_prob=0.5)).train()
    ids = inputs(MASKS["one"])["input_ids"]
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    short = ids[:, :20]
    assert not torch.equal(model(short).last_hidden_state, model(short).last_hidden_state)


def test_parameter_counts_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert build("BigBirdForMaskedLM", bigbird.Config.base()).num_parameters() == 128_111_286
        assert build("BigBirdForMaskedLM", bigbird.Config.large()).num_parameters() == 360_225_974
