"""Longformer against transformers, and what transformers lacks against attention written out."""

from __future__ import annotations

import copy
import json
import pydoc_data.topics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import pkernels
from pkernels.models import build, from_pretrained, longformer
from pkernels.models.parts.attention import split_heads
from pkernels.models.parts.objectives import cut, mask_tokens

from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

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


LARGE = 30


def backward(*losses: Tensor) -> None:
    """Gradients so large that the tolerance, absolute below 1, means something, and that the rounding noise of
    a key's bias, whose gradient is 0, is within it."""
    for loss in losses:
        (loss * LARGE).backward()


def token_labels(mask: Tensor, classes: int) -> Tensor:
    """Every other real token is labelled."""
    labels = torch.randint(classes, mask.shape, generator=torch.Generator().manual_seed(3))
    labels[:, 1::2] = -100
    return labels.masked_fill(mask == 0, -100)


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


# What transformers lacks -----------------------------------------------------------------

STEPS = [1, (1, 3)]  # the second head of the second layer


def written_out(model: torch.nn.Module, ids: Tensor, chosen: Tensor, lengths: list[int]) -> Tensor:
    """Last hidden states, with the mask of every layer and head as a matrix."""
    c, layers = model.config, model.body.layers
    out = torch.zeros(*ids.shape, c.hidden_size, dtype=torch.float64)
    for b, n in enumerate(lengths):
        empty = pkernels.models.parts.layouts.Whole(1, n, ids.device)
        x = model.body.embeddings(empty, ids[b : b + 1, :n], None, None, None)
        marked, step = chosen[b, :n].bool(), torch.arange(n)[None] - torch.arange(n)[:, None]
        for layer, (width, steps) in zip(layers, c.windows(), strict=True):
            attention = layer.attention.inner
            d = torch.tensor(steps)[:, None, None]
            reach = width // 2 * d
            kept = (step % d == 0) & (step >= -reach) & (step <= (0 if c.autoregressive else reach))
            q, k, v = split_heads(attention.qkv(x), 3, c.num_attention_heads)
            (gq,) = split_heads(attention.of_globals.q(x), 1, c.num_attention_heads)
            gk, gv = split_heads(attention.of_globals.kv(x), 2, c.num_attention_heads)
            scale = q.shape[-1] ** -0.5
            scores = (q @ k.mT * scale).masked_fill(~(kept | marked), -torch.inf)
            mixed = torch.where(marked[:, None], (gq @ gk.mT * scale).softmax(-1) @ gv, scores.softmax(-1) @ v)
            mixed = attention.out(mixed.transpose(1, 2).flatten(2))
            x = layer.feed_forward(layer.attention.norm(x + mixed))
        out[b, :n] = x[0]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("autoregressive", "chosen"), [(True, "nowhere"), *((False, name) for name in ("nowhere", "leading", "scattered"))]
)
@pytest.mark.parametrize("dilation", [1, 2, STEPS], ids=str)
def test_dilation_and_autoregression(dilation: object, autoregressive: bool, chosen: str, dtype: torch.dtype) -> None:
    c = config(attention_dilation=dilation, autoregressive=autoregressive, attention_window=6)
    model = build("LongformerModel", c).eval()
    fill_with_noise(model)
    exact = copy.deepcopy(model).double()
    ids, mask = inputs(MASKS["right"])["input_ids"], MASKS["right"]
    want = written_out(exact, ids, GLOBALS[chosen], mask.sum(1).tolist())
    got = model.to(dtype)(ids, mask, GLOBALS[chosen]).last_hidden_state
    assert_close(got, want.to(dtype), "last_hidden_state")
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    backward(*((weights * x).sum() / LARGE for x in (want, got)))
    for (name, mine), theirs in zip(model.body.named_parameters(), exact.body.parameters(), strict=True):
        assert (mine.grad is None) <= (theirs.grad is None or not theirs.grad.any()), name
        if mine.grad is not None:
            assert_close(mine.grad, theirs.grad.to(dtype), f"gradient of {name}")


def test_autoregressive_models_do_not_look_ahead() -> None:
    model = build("LongformerForMaskedLM", config(autoregressive=True, attention_dilation=2)).eval()
    fill_with_noise(model)
    ids = inputs(MASKS["one"])["input_ids"]
    changed = ids.clone()
    changed[0, 9] = (ids[0, 9] + 1) % 90 + 3
    differs = (model(ids).logits != model(changed).logits).any(-1)[0]
    assert not differs[:9].any()
    assert differs[[9, 11, 13]].all()
    assert not differs[10], "an odd distance away, at a dilation of 2"
    with pytest.raises(ValueError, match="global_attention_mask: no token is allowed in autoregressive"):
        model(ids, global_attention_mask=torch.ones_like(ids))
    build("LongformerForSequenceClassification", config(autoregressive=True))(ids)


def test_settings_of_layers_and_heads_survive_the_file(tmp_path: Path) -> None:
    for c in (config(attention_dilation=STEPS, autoregressive=True), config(attention_window=4)):
        assert hash(c) == hash(replace(c))
        build("LongformerModel", c).save_pretrained(tmp_path)
        assert from_pretrained(tmp_path).config == c
    assert config(attention_window=[4, 8]) == config(attention_window=(4, 8))


# Ways to say the same --------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["LongformerModel", "LongformerForQuestionAnswering"])
@pytest.mark.parametrize("chosen", ["none", "leading", "scattered"])
def test_lengths_and_offsets_are_the_same_batch(architecture: str, chosen: str) -> None:
    model = build(architecture, config()).eval()
    fill_with_noise(model)
    ids = questions([3, 4, 22], [1, 2, 8], [9, 10, 15])
    real = ids != 1
    lengths, total = real.sum(1), int(real.sum())
    mask = GLOBALS[chosen]
    padded, packed = ({}, {}) if mask is None else ({"global_attention_mask": mask},) * 2
    if mask is not None:
        packed = {"global_attention_mask": mask[real][None]}
    name = "last_hidden_state" if architecture == "LongformerModel" else "start_logits"
    want = getattr(model(ids, real.long(), **padded), name)
    assert torch.equal(getattr(model(ids, lengths=lengths, **padded), name), want)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    got = getattr(model(ids[real][None], offsets=offsets, **packed), name)
    assert got.shape[1] == total
    assert_close(got[0], want[real], name)


def test_positions_are_the_same_as_a_mask() -> None:
    model = build("LongformerModel", config()).eval()
    fill_with_noise(model)
    given = inputs(MASKS["right"])
    want = model(**given, global_attention_mask=GLOBALS["scattered"]).last_hidden_state
    positions = torch.tensor([[22, 0, 8, 7], [22, -1, -1, -1], [12, 3, -1, 3]])
    assert torch.equal(model(**given, global_positions=positions).last_hidden_state, want)


def test_rows_without_tokens_stay_finite() -> None:
    model = build("LongformerModel", config()).eval()
    ids = torch.randint(3, 97, (2, 9))
    out = model(ids, lengths=torch.tensor([0, 5]), global_positions=torch.tensor([0, 3]))
    assert torch.isfinite(out.last_hidden_state).all()
    alone = model(ids[1:, :5], global_positions=torch.tensor([0, 3])).last_hidden_state
    assert_close(out.last_hidden_state[1:, :5], alone, "last_hidden_state")


def test_an_empty_batch_works() -> None:
    out = build("LongformerForMaskedLM", config())(torch.zeros(0, 4, dtype=torch.long), torch.ones(0, 4))
    assert out.logits.shape == (0, 4, 97)


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    c = config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5, attention_dilation=STEPS)
    model = build("LongformerModel", c)
    ids = torch.randint(3, 97, (2, 9))

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(ids, global_positions=torch.tensor([0, 4])).last_hidden_state

    model.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 3]])}, "attention_mask: 0, 1, 2 are allowed, got .1, 3."),
        ({"attention_mask": torch.ones(2, 1)}, "attention_mask: a tensor of shape"),
        ({"global_attention_mask": torch.tensor([[0, 2]])}, "global_attention_mask: 0, 1 are allowed, got .0, 2."),
        ({"global_attention_mask": torch.ones(1, 3)}, r"global_attention_mask: a tensor of shape \(1, 2\)"),
        ({"global_attention_mask": [[0, 1]]}, "global_attention_mask: a tensor .* got list"),
        ({"global_positions": torch.tensor([2])}, "global_positions: -1 .none. to 1 is allowed, got .2."),
        ({"global_positions": torch.tensor([0.0])}, "global_positions: integers"),
        (
            {"global_positions": torch.tensor([0]), "global_attention_mask": torch.ones(1, 2)},
            "global_attention_mask, global_positions: one of them",
        ),
        ({"input_ids": torch.full((1, 39), 5)}, "at most 38 tokens"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    model = build("LongformerForMaskedLM", config())
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": torch.tensor([[4, 5]]), **arguments})


def test_tasks_name_what_they_miss() -> None:
    ids = torch.tensor([[4, 2, 5], [4, 5, 6]])
    with pytest.raises(ValueError, match="input_ids: a sep_token_id .2. in every text .* 1 of 2 texts have none"):
        build("LongformerForQuestionAnswering", config())(ids)
    with pytest.raises(ValueError, match="global_attention_mask: needed, as the config has no sep_token_id"):
        build("LongformerForQuestionAnswering", config(sep_token_id=None))(ids)
    model = build("LongformerForMultipleChoice", config())
    with pytest.raises(ValueError, match=r"input_ids: shape \(B, choices, S\) is allowed, got \(2, 3\)"):
        model(ids)
    with pytest.raises(ValueError, match=r"inputs_embeds: shape \(B, choices, S, width\) is allowed, got NoneType"):
        model()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_window": 5}, "attention_window: an even number of at least 2 is allowed, got 5"),
        ({"attention_window": [4, 0]}, "attention_window: an even number of at least 2 is allowed, got 0"),
        ({"attention_window": [4]}, "attention_window: one number or a list of one for each of the 2 layers"),
        ({"attention_window": "4"}, r"attention_window: int or a list of \(int\) is allowed, got '4'"),
        ({"attention_window": [4, True]}, "attention_window: int or a list of"),
        ({"attention_dilation": 0}, "attention_dilation: a number of at least 1 is allowed"),
        ({"attention_dilation": [1, [1]]}, "attention_dilation: one number or a list of one for each of the 2 heads"),
        ({"attention_dilation": [1, [1, 1.5]]}, "attention_dilation: int or a list of"),
        ({"autoregressive": 1}, "autoregressive: bool is allowed, got 1"),
        ({"pad_token_id": 39}, "pad_token_id: one of"),
        ({"pad_token_id": None}, "pad_token_id: int is allowed, got None"),
        ({"is_decoder": True}, "is_decoder: False is supported"),
    ],
)
def test_settings_that_are_not_supported_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    build("LongformerModel", config()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(tmp_path)
    assert "config.json" in str(raised.value)


# Long text -------------------------------------------------------------------------------


def long_text(length: int) -> Tensor:
    """Rows of real English, Python's own documentation: bytes are its tokens, from 4 on."""
    topics = pydoc_data.topics.topics
    tokens = [4 + byte for name in sorted(topics) for byte in topics[name].encode()]
    return cut(tokens, length, first=0, last=2)


def test_training_learns_long_text_by_heart() -> None:
    torch.manual_seed(0)
    size = 512
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    c = longformer.Config.base(size, **sizes | {"vocab_size": 300})
    model = build("LongformerForMaskedLM", replace(c, attention_window=(16, 32))).train()
    ids = long_text(size)[:2]
    masked, labels = mask_tokens(ids, ids < 4, mask_id=3, words=300)
    chosen = torch.zeros_like(ids)
    chosen[:, ::100] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = model(masked, global_attention_mask=chosen, labels=labels).loss
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
    size = 32768
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = build("LongformerModel", replace(longformer.Config.base(size, **sizes), attention_window=64))
    ids = long_text(size)[:1]
    chosen = torch.zeros_like(ids)
    chosen[0, [0, 1000, size - 1]] = 1
    out = model(ids, global_attention_mask=chosen).last_hidden_state
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for name, p in model.body.named_parameters())


# Tracing ---------------------------------------------------------------------------------


@pytest.mark.compiles
def test_compiles_in_one_graph() -> None:
    model = build("LongformerForSequenceClassification", config(num_hidden_layers=1, attention_window=4)).eval()
    fill_with_noise(model)
    given = inputs(MASKS["right"])
    ids, types, lengths = given["input_ids"], given["token_type_ids"], MASKS["right"].sum(1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(**given).logits
    assert_close(compiled(ids, token_type_ids=types, lengths=lengths).logits, want, "with lengths")
    assert_close(compiled(**given).logits, want, "with a mask")
    positions = torch.tensor([[22, 0, 8, 7], [22, -1, -1, -1], [12, 3, -1, 3]])
    want = model(**given, global_attention_mask=GLOBALS["scattered"])
    got = compiled(ids, token_type_ids=types, lengths=lengths, global_positions=positions)
    assert_close(got.logits, want.logits, "with positions")
    labels = torch.tensor([1, 0, 1])
    grads = []
    for run in (model, compiled):
        loss = run(ids, lengths=lengths, global_positions=positions, labels=labels).loss
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for mine, theirs in zip(*grads, strict=True):
        assert_close(mine, theirs, "gradient")


@pytest.mark.compiles
def test_a_mask_of_two_is_refused_while_tracing() -> None:
    torch._dynamo.reset()  # after many recompilations the call would be eager, which takes a 2
    model = build("LongformerModel", config(num_hidden_layers=1, attention_window=4))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = torch.randint(3, 97, (1, 9))
    with pytest.raises(RuntimeError, match="attention_mask: while tracing, 0 and 1 are allowed"):
        compiled(ids, torch.full_like(ids, 2))


class Exported(torch.nn.Module):
    """Names the arguments that are to be dynamic."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, lengths: Tensor):
        return self.model(input_ids, lengths=lengths)


@pytest.mark.compiles
def test_exports_with_a_dynamic_batch() -> None:
    c = config(num_hidden_layers=1, attention_window=4)
    model = Exported(build("LongformerForSequenceClassification", c).eval())
    batch, size = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("size", min=2, max=38)
    shapes = {"input_ids": {0: batch, 1: size}, "lengths": {0: batch}}
    given = (torch.randint(3, 97, (3, 7)), torch.tensor([7, 1, 4]))
    exported = torch.export.export(model, given, dynamic_shapes=shapes).module()
    given = (torch.randint(3, 97, (2, 9)), torch.tensor([9, 5]))
    assert_close(exported(*given).logits, model(*given).logits, "logits")
