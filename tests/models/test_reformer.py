"""Reformer against transformers, through files: both kinds of layers, every padding, training too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, build, from_pretrained, reformer

from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair, paragraphs

SIZE = 48  # four chunks of 12 and three of 16; 41 is filled up to it
TINY = {
    "vocab_size": 97,
    "hidden_size": 52,
    "num_attention_heads": 2,
    "attention_head_size": 26,
    "feed_forward_size": 37,
    "attn_layers": ["local", "lsh"],
    "axial_pos_shape": [6, 8],
    "axial_pos_embds_dim": [20, 32],
    "max_position_embeddings": 48,
    "local_attn_chunk_length": 12,
    "lsh_attn_chunk_length": 16,
    "num_buckets": 6,
    "num_hashes": 3,
    "hash_seed": 7,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
}
KINDS = {
    "mixed": {},
    "causal": {"is_decoder": True},
    "local": {"attn_layers": ["local", "local"], "local_num_chunks_after": 1},
    "lsh, one round": {"attn_layers": ["lsh", "lsh"], "num_hashes": 1, "lsh_num_chunks_after": 1},
    "factors": {"num_buckets": [4, 2], "is_decoder": True},
    "buckets by length": {"num_buckets": None},
    "in chunks": {"chunk_size_feed_forward": 12},
    "table of positions": {"axial_pos_embds": False},
}
LARGE = 30


def tiny(**changes) -> transformers.ReformerConfig:
    return transformers.ReformerConfig(**TINY | changes)


def config(**changes) -> reformer.Config:
    return reformer.Config.from_dict(TINY | changes)


def both(folder: Path, architecture: str, **changes) -> tuple[nn.Module, Model]:
    """In training mode, without which transformers' backward refuses; nothing is random but hashes."""
    oracle, ours = pair(folder, architecture, tiny(**changes))
    return oracle.train(), ours.train()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls of a model in float64 with the rotations of float32, results in float32 again.

    In float32 transformers' own results are off by 0.4 % of a token's that sees itself alone:
    scores are -1e5 there, and sums of their exponentials are rounded to 0.008.
    """
    draw = torch.randn

    def call(model: nn.Module, *args: Any, weights: Tensor | None = None, **named: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *shape, dtype, **kind: draw(*shape, **kind).to(dtype))
            out = model.double()(*args, **named)
            loss = out.loss if weights is None else (out.last_hidden_state * weights).mean()
            (LARGE * loss).backward()
        model.float()
        return type(out)(**{name: x.float() for name, x in out.items() if isinstance(x, Tensor)})

    return call


def without_bias(model: Model) -> None:
    """As transformers 5, which reads the bias of word scores and leaves it out."""
    bias = model.head.words.bias
    assert bias.abs().min() > 0  # it was read from the file
    nn.init.zeros_(bias)


def words(size: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(1, TINY["vocab_size"], (batch, size), generator=torch.Generator().manual_seed(seed))


def paddings(size: int) -> dict[str, Tensor | None]:
    place = torch.arange(size)
    return {
        "none": None,
        "right": torch.stack([place < size, place < size - 7]).long(),
        "left": torch.stack([place >= 0, place >= 9]).long(),
        "one row": (place < size - 3).long()[None],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients(tmp_path: Path, exact: Callable[..., Any], kind: str) -> None:
    oracle, ours = both(tmp_path, "ReformerModel", **KINDS[kind])
    ids = words(SIZE)
    weights = torch.randn(2, SIZE, 2 * TINY["hidden_size"], generator=torch.Generator().manual_seed(1))
    want, got = exact(oracle, ids, weights=weights.double()), ours(ids)
    (LARGE * (got.last_hidden_state * weights).mean()).backward()
    assert_close(got.last_hidden_state, want.last_hidden_state, "last_hidden_state")
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("size", [5, 13, 17, 41, 48])
@pytest.mark.parametrize("padding", ["none", "right", "left", "one row"])
def test_lengths_and_paddings(tmp_path: Path, size: int, padding: str) -> None:
    if padding != "none" and size < 12:
        pytest.skip("too short to be padded by nine")
    oracle, ours = (model.eval() for model in both(tmp_path, "ReformerForMaskedLM"))
    without_bias(ours)
    mask = paddings(size)[padding]
    ids = words(size, 1 if padding == "one row" else 2)
    real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    labels = ids.masked_fill(~real, -100)
    labels[:, ::2] = -100
    want, got = (model(ids, attention_mask=mask, labels=labels, output_hidden_states=True) for model in (oracle, ours))
    assert_close(got.loss, want.loss, "loss")
    assert_close(got.logits[real], want.logits[real], "logits")
    assert len(got.hidden_states) == len(want.hidden_states) == 3
    for mine, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        assert_close(mine[real], theirs[:, :size][real], "hidden_states")


def test_causal_lm(tmp_path: Path, exact: Callable[..., Any]) -> None:
    oracle, ours = both(tmp_path, "ReformerModelWithLMHead", is_decoder=True)
    without_bias(ours)
    ids = words(SIZE)
    want, got = exact(oracle, ids, labels=ids), ours(ids, labels=ids)
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")
    (LARGE * got.loss).backward()
    ours.head.words.bias.grad = None  # transformers has none
    assert_same_gradients(oracle, ours)


def test_sequence_classification(tmp_path: Path) -> None:
    oracle, ours = both(tmp_path, "ReformerForSequenceClassification", num_labels=3)
    given = {"input_ids": words(SIZE), "attention_mask": paddings(SIZE)["right"], "labels": torch.tensor([2, 0])}
    want, got = (model(**given) for model in (oracle, ours))
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")
    for loss in (want.loss, got.loss):
        (LARGE * loss).backward()
    assert_same_gradients(oracle, ours)


def test_question_answering(tmp_path: Path) -> None:
    oracle, ours = both(tmp_path, "ReformerForQuestionAnswering")
    given = {
        "input_ids": words(SIZE),
        "start_positions": torch.tensor([3, 46]),
        "end_positions": torch.tensor([7, 99]),  # outside: carries no loss
    }
    want, got = (model(**given) for model in (oracle, ours))
    assert_close(got.start_logits, want.start_logits, "start_logits")
    assert_close(got.loss, want.loss, "loss")
    for loss in (want.loss, got.loss):
        (LARGE * loss).backward()
    assert_same_gradients(oracle, ours)


def test_rounds_of_a_call(tmp_path: Path) -> None:
    oracle, ours = (model.eval() for model in both(tmp_path, "ReformerModel"))
    with torch.no_grad():
        want, got = (model(words(SIZE), num_hashes=5).last_hidden_state for model in (oracle, ours))
        fewer = ours(words(SIZE)).last_hidden_state
    assert_close(got, want, "last_hidden_state")
    assert not torch.equal(got, fewer)


def test_what_pkernels_saves_loads_in_transformers(tmp_path: Path) -> None:
    ours = build("ReformerForMaskedLM", config()).eval()
    fill_with_noise(ours)
    nn.init.zeros_(ours.head.words.bias)
    ours.save_pretrained(tmp_path)
    theirs = transformers.ReformerForMaskedLM.from_pretrained(tmp_path).eval()
    again = from_pretrained(tmp_path)
    with torch.no_grad():
        ids = words(SIZE)
        assert_close(ours(ids).logits, theirs(ids).logits, "logits")
        assert torch.equal(ours(ids).logits, again(ids).logits)


def test_dropout_is_that_of_the_layers_one_by_one() -> None:
    """The backward of the stack meets the random numbers of its forward: gradients are those of
    the same layers without rebuilding, which ``output_hidden_states`` runs."""
    dropped = {name: 0.2 for name in TINY if "dropout" in name}
    ours = build("ReformerModel", config(**dropped)).train()
    fill_with_noise(ours)
    gradients = []
    for traced in (False, True):
        ours.zero_grad()
        torch.manual_seed(3)
        out = ours(words(SIZE), output_hidden_states=traced).last_hidden_state
        out.square().mean().mul(LARGE).backward()
        gradients.append({name: p.grad.clone() for name, p in ours.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name], name)
    torch.manual_seed(4)
    other = ours(words(SIZE)).last_hidden_state
    assert not torch.equal(other, out)


def test_memory_does_not_grow_with_depth() -> None:
    """Of each layer nothing is saved but its orders."""

    def saved(layers: int) -> int:
        model = build("ReformerModel", config(attn_layers=["local", "lsh"] * layers)).train()
        total = 0

        def count(x: Tensor) -> Tensor:
            nonlocal total
            total += 0 if isinstance(x, nn.Parameter) else x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            model(words(SIZE))
        return total

    assert saved(6) == saved(1)


def test_learns_real_text() -> None:
    text = "\n".join(paragraphs())[: 64 * 48].encode("latin-1", "replace")
    rows = (torch.tensor(list(text)) % TINY["vocab_size"]).view(-1, 48)
    torch.manual_seed(0)
    model = build("ReformerModelWithLMHead", config(is_decoder=True)).train()
    frequency = torch.bincount(rows.flatten()).float()
    unigram = -(frequency / frequency.sum() * (frequency / frequency.sum()).clamp(min=1e-9).log()).sum()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(120):
        batch = rows[torch.arange(step * 16, step * 16 + 16) % len(rows)]
        loss = model(batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert sum(losses[-10:]) / 10 < 0.85 * unigram, (losses[-1], float(unigram))


def test_parameter_counts_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert build("ReformerModelWithLMHead", reformer.Config.enwik8()).num_parameters() == 149_182_722
        novel = reformer.Config.crime_and_punishment()
        assert build("ReformerModelWithLMHead", novel).num_parameters() == 2_748_224


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_layers": ["global"]}, "attn_layers: one or more of"),
        ({"axial_pos_embds_dim": [10, 10]}, "axial_pos_embds_dim: numbers whose sum is hidden_size"),
        ({"axial_pos_shape": [4, 4, 4]}, "axial_pos_shape, axial_pos_embds_dim: two numbers"),
        ({"num_hashes": 0}, "num_hashes: at least 1"),
        ({"hidden_act": "geglu"}, "hidden_act: one of gelu"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_bad_input() -> None:
    model = build("ReformerModel", config())
    with pytest.raises(ValueError, match="input_ids: at most 48 tokens are allowed, got 49"):
        model(words(49))
    with pytest.raises(ValueError, match="is_decoder: True is allowed"):
        build("ReformerModelWithLMHead", config())(words(5))
    with pytest.raises(ValueError, match="is_decoder: False is allowed"):
        build("ReformerForMaskedLM", config(is_decoder=True))(words(5))


def test_positions_of_ones_own(tmp_path: Path) -> None:
    oracle, ours = (model.eval() for model in both(tmp_path, "ReformerModel"))
    places = torch.stack([torch.arange(SIZE).flip(0), torch.arange(SIZE)])
    with torch.no_grad():
        want, got = (model(words(SIZE), position_ids=places).last_hidden_state for model in (oracle, ours))
    assert_close(got, want, "last_hidden_state")
