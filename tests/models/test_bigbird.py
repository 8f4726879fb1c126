"""BigBird against transformers, in training too, and the authors' plan against attention written out."""

from __future__ import annotations

import copy
import json
import pydoc_data.topics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from pkernels import bigbird as authors_layout
from pkernels.models import bigbird, build, from_pretrained
from pkernels.models.parts.attention import split_heads
from pkernels.models.parts.layouts import Whole
from pkernels.models.parts.objectives import cut, mask_tokens

from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

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


LARGE = 30


def backward(*losses: Tensor) -> None:
    """Gradients so large that the tolerance, absolute below 1, means something."""
    for loss in losses:
        (loss * LARGE).backward()


def token_labels(mask: Tensor, classes: int) -> Tensor:
    """Every other real token is labelled."""
    labels = torch.randint(classes, mask.shape, generator=torch.Generator().manual_seed(3))
    labels[:, 1::2] = -100
    return labels.masked_fill(mask == 0, -100)


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


# What transformers lacks -----------------------------------------------------------------


def written_out(model: torch.nn.Module, ids: Tensor, length: int) -> Tensor:
    """Last hidden states of one text, with the count of every pair as a matrix."""
    c, size = model.config, ids.shape[1]
    layout = Whole(1, size, ids.device)
    x = model.body.embeddings(layout, ids, None, None, None)
    real = torch.arange(size) < length
    for i, layer in enumerate(model.body.layers):
        counts = authors_layout(size, 2, size=4, random=2, seed=i).multiplicity(slice(None), size, size, ids.device)
        attention = layer.attention.inner
        q, k, v = split_heads(attention.qkv(x), 3, c.num_attention_heads)
        scores = q @ k.mT * q.shape[-1] ** -0.5 + (counts * real).to(q.dtype).log()
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = layer.feed_forward(layer.attention.norm(x + attention.out(mixed)))
    return x[0, :length]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("length", [SIZE, 30])
def test_the_authors_plan_is_the_same_in_training_and_evaluation(length: int, training: bool) -> None:
    model = build("BigBirdModel", config(plan="original")).train(training)
    fill_with_noise(model)
    exact = copy.deepcopy(model).double()
    ids = inputs(MASKS["one"])["input_ids"]
    want = written_out(exact, ids, length)
    got = model(ids, lengths=torch.tensor([length])).last_hidden_state[0, :length]
    assert_close(got, want.float(), "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).sum() / LARGE for x in (want, got)))
    for (name, mine), theirs in zip(model.body.named_parameters(), exact.body.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad.float(), f"gradient of {name}")


def test_numpys_generator_stays_as_it_is() -> None:
    np.random.seed(5)
    want = np.random.random()
    np.random.seed(5)
    build("BigBirdModel", config()).train()(inputs(MASKS["one"])["input_ids"])
    assert np.random.random() == want


def test_a_short_batch_changes_nothing_for_later_ones() -> None:
    model = build("BigBirdModel", config()).eval()
    ids = inputs(MASKS["one"])["input_ids"]
    want = model(ids).last_hidden_state
    model(ids[:, :5])
    assert torch.equal(model(ids).last_hidden_state, want)


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


# Ways to say the same --------------------------------------------------------------------


@pytest.mark.parametrize("size", [20, SIZE])
def test_lengths_are_a_mask(size: int) -> None:
    model = build("BigBirdModel", config()).eval()
    mask = MASKS["right"][:, :size]
    ids = inputs(mask)["input_ids"]
    want = model(ids, mask).last_hidden_state
    assert torch.equal(model(ids, lengths=mask.sum(1)).last_hidden_state, want)
    real = mask.bool()
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
    packed = ids[real][None]
    if size == 20:
        assert_close(model(packed, offsets=offsets).last_hidden_state[0], want[real], "last_hidden_state")
    else:
        with pytest.raises(ValueError, match="offsets: sequences of at most 36 tokens.* got 46"):
            model(packed, offsets=offsets)


def test_rows_without_tokens_stay_finite() -> None:
    model = build("BigBirdModel", config()).eval()
    ids = inputs(MASKS["whole"])["input_ids"]
    out = model(ids[:2], lengths=torch.tensor([0, SIZE])).last_hidden_state
    assert torch.isfinite(out).all() and not out[0].any()
    assert_close(out[1:], model(ids[1:2]).last_hidden_state, "last_hidden_state")


def test_an_empty_batch_works() -> None:
    ids = torch.zeros(0, SIZE, dtype=torch.long)
    assert build("BigBirdForMaskedLM", config())(ids, torch.ones(0, SIZE)).logits.shape == (0, SIZE, 97)


def test_parameter_counts_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert build("BigBirdForMaskedLM", bigbird.Config.base()).num_parameters() == 128_111_286
        assert build("BigBirdForMaskedLM", bigbird.Config.large()).num_parameters() == 360_225_974


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 2]])}, "attention_mask: 1 .real. and 0 .padding. are allowed"),
        ({"input_ids": torch.full((1, 61), 5)}, "at most 60 tokens"),
        ({"token_type_ids": torch.tensor([[0, 2]])}, "token_type_ids: ids from 0 to 1"),
        ({"lengths": torch.tensor([3])}, "lengths: between 0 and 2"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    model = build("BigBirdForMaskedLM", config())
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": torch.tensor([[4, 5]]), **arguments})


def test_tasks_name_what_they_miss() -> None:
    ids = torch.tensor([[4, 2, 5], [4, 5, 6]])
    with pytest.raises(ValueError, match="question_lengths: needed, as the config has no sep_token_id"):
        build("BigBirdForQuestionAnswering", config(sep_token_id=None))(ids)
    with pytest.raises(ValueError, match="offsets: None is allowed"):
        build("BigBirdForQuestionAnswering", config())(ids[:1], offsets=torch.tensor([0, 3]))
    with pytest.raises(
        ValueError, match="question_lengths: integers of shape .2,. are allowed, got torch.int64 of shape .3,"
    ):
        build("BigBirdForQuestionAnswering", config())(ids, question_lengths=torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_type": "simulated_sparse"}, "attention_type: one of block_sparse, original_full is allowed"),
        ({"plan": "mine"}, "plan: one of transformers, original is allowed, got 'mine'"),
        ({"num_random_blocks": -1}, "num_random_blocks: at least 0 is allowed, got -1"),
        ({"block_size": 0}, "block_size: at least 1 is allowed, got 0"),
        ({"hidden_size": 51}, "hidden_size: a multiple of num_attention_heads"),
        ({"is_decoder": True}, "is_decoder: False is supported, got True"),
        ({"add_cross_attention": True}, "add_cross_attention: False is supported"),
        ({"use_bias": 1}, "use_bias: bool is allowed, got 1"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    build("BigBirdModel", config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert "config.json" in str(raised.value)


def test_the_plan_survives_the_file(tmp_path: Path) -> None:
    for plan in ("transformers", "original"):
        build("BigBirdModel", config(plan=plan)).save_pretrained(tmp_path)
        assert from_pretrained(tmp_path).config == config(plan=plan)


# Long text -------------------------------------------------------------------------------


def long_text(length: int) -> Tensor:
    """Rows of real English, Python's own documentation: bytes are its tokens, from 4 on."""
    topics = pydoc_data.topics.topics
    tokens = [4 + byte for name in sorted(topics) for byte in topics[name].encode()]
    return cut(tokens, length, first=1, last=2)


def test_training_learns_long_text_by_heart() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    sizes |= {"vocab_size": 300, "max_position_embeddings": 512, "block_size": 16}
    model = build("BigBirdForMaskedLM", replace(bigbird.Config.base(), **sizes)).train()
    ids = long_text(512)[:2]
    masked, labels = mask_tokens(ids, ids < 4, mask_id=3, words=300)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = model(masked, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - 5.7) < 0.3  # log(300): it knows nothing yet
    counts = labels[labels != -100].bincount()
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    assert losses[-1] < 0.3 * entropy, losses


def test_long_text_needs_no_square_of_its_length() -> None:
    """At 32,768 tokens a value for every pair would take 4 GiB for each head and layer."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    c = replace(bigbird.Config.base(), **sizes, max_position_embeddings=32768)
    out = build("BigBirdModel", c).train()(long_text(32768)[:1]).last_hidden_state
    out.square().mean().backward()


# Tracing ---------------------------------------------------------------------------------


@pytest.mark.compiles
@pytest.mark.parametrize("size", [20, SIZE])
def test_compiles_in_one_graph(size: int) -> None:
    torch._dynamo.reset()
    model = build("BigBirdForSequenceClassification", config(num_hidden_layers=1)).eval()
    fill_with_noise(model)
    mask = MASKS["right"][:, :size]
    given = inputs(mask)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    if size == SIZE:
        with pytest.raises(Exception, match=rf"before tracing, call model.body.blocks\({SIZE}\)"):
            compiled(**given)
    model.body.blocks(size)
    want = model(**given).logits
    assert_close(compiled(**given).logits, want, "with a mask")
    ids, types = given["input_ids"], given["token_type_ids"]
    assert_close(compiled(ids, token_type_ids=types, lengths=mask.sum(1)).logits, want, "with lengths")
    grads = []
    for run in (model, compiled):
        loss = run(ids, lengths=mask.sum(1), labels=torch.tensor([1, 0, 1])).loss
        loss.backward()
        grads.append([p.grad for p in model.body.parameters()])
        model.zero_grad()
    for mine, theirs in zip(*grads, strict=True):
        assert_close(mine, theirs, "gradient")
