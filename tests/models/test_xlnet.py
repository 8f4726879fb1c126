"""XLNet against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, build, xlnet
from pkernels.models.parts.objectives import partial_spans, permutation_lm

from . import agreement
from .agreement import MASKS, WORDS, count, inputs, labels_for
from .pairs import assert_close, assert_same_gradients, fill_with_noise, pair

# Two heads of 13.
TINY = {"vocab_size": WORDS, "d_model": 26, "n_layer": 2, "n_head": 2, "d_inner": 37}
KIND = {"types": 3, "padding": 5}
SUMMED_UP = ("XLNetForSequenceClassification", "XLNetForMultipleChoice")
BEAMS = "XLNetForQuestionAnswering"
# The last token of these is real; transformers sums a text up from the last, be it padding.
LAST_IS_REAL = ("whole", "left", "one")


def tiny(**changes: Any) -> transformers.XLNetConfig:
    return transformers.XLNetConfig(**TINY | changes)


def labels_number(architecture: str) -> int:
    return 2 if architecture.endswith("Simple") else agreement.LABELS


@pytest.mark.parametrize("architecture", xlnet.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str) -> None:
    if architecture in SUMMED_UP and padding not in LAST_IS_REAL:
        pytest.skip("transformers sums up padding")
    other = {"ff_activation": "relu", "clamp_len": 3} if padding == "left" else {}
    if architecture == BEAMS:
        other |= {"start_n_top": 1, "end_n_top": 1} if padding != "whole" else {"start_n_top": 3, "end_n_top": 2}
    # Of padding, memories of ours are 0.
    memories = {"use_mems_eval": padding in ("whole", "one")}
    config = tiny(num_labels=labels_number(architecture), **memories, **other)
    labels = labels_for(architecture.removesuffix("Simple"), MASKS[padding])
    if architecture == BEAMS:  # transformers looks for answers in padding too, unless it is told
        real = MASKS[padding]
        labels = {"p_mask": 1.0 - real, "cls_index": (torch.arange(1, real.shape[1] + 1) * real).argmax(1)}
    agreement.assert_head_agrees(tmp_path, architecture, config, MASKS[padding], labels, torch.float32, **KIND)


@pytest.mark.parametrize("padding", ["left", "holes"])
def test_one_stream_agrees_in_float64(tmp_path: Path, padding: str) -> None:
    config = tiny(use_mems_eval=False)
    agreement.assert_head_agrees(tmp_path, "XLNetModel", config, MASKS[padding], {}, torch.float64, **KIND)


def order(batch: int, size: int, targets: int, seed: int = 0) -> dict[str, Tensor]:
    """A mask and targets: each token sees the first one, and about half of the others."""
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.rand(batch, size, size, generator=draw) < 0.5).float()
    mask[:, :, 0] = 0
    places = torch.stack([torch.randperm(size, generator=draw)[:targets] for _ in range(batch)])
    mapping = torch.nn.functional.one_hot(places, size).float()
    mapping[-1, -1] = 0  # predicts nothing
    return {"perm_mask": mask, "target_mapping": mapping}


def assert_two_segments_agree(
    oracle: nn.Module, ours: Model, given: dict[str, Any], real: Tensor | None = None
) -> None:
    """The second segment sees the memories of the first: outputs, hidden states, memories, gradients."""
    batch, size = given["input_ids"].shape
    first = torch.randint(2, WORDS, (batch, size + 1), generator=torch.Generator().manual_seed(5))
    mems = [model(first).mems for model in (oracle, ours)]
    for want, got in zip(*mems, strict=True):
        assert_close(got, want, "mems")
    shape = (batch, size if given.get("target_mapping") is None else given["target_mapping"].shape[1])
    labels = torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(6))
    if real is not None and labels.shape == real.shape:
        labels = labels.masked_fill(~real, -100)
    outs = [
        model(**given, mems=m, labels=labels, output_hidden_states=True)
        for model, m in zip((oracle, ours), mems, strict=True)
    ]
    for name in ("logits", "hidden_states", "mems"):
        wants, gots = (getattr(out, name) for out in outs)
        for want, got in zip(*((x if isinstance(x, tuple) else (x,)) for x in (wants, gots)), strict=True):
            if real is not None and want.shape[:2] == real.shape:
                want, got = want[real], got[real]
            if real is None or name != "mems":
                assert_close(got, want, name)
    for out in outs:
        (out.loss * 10).backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize(
    "what",
    ["plain", "order", "order alone", "targets", "padding", "mask", "backwards", "backwards, uni", "uni", "reused",
     "same length", "same length, bi"],
)  # fmt: skip
def test_orders_and_memories_agree_with_transformers(tmp_path: Path, what: str) -> None:
    changes: dict[str, Any] = {
        "backwards": {"bi_data": True, "clamp_len": 3},
        "uni": {"attn_type": "uni"},
        "backwards, uni": {"bi_data": True, "attn_type": "uni"},
        "same length": {"attn_type": "uni", "same_length": True, "mem_len": 3},
        "same length, bi": {"same_length": True, "mem_len": 3},
        "reused": {"reuse_len": 4, "mem_len": 6},
        "order": {"mem_len": 6},
    }.get(what, {})
    oracle, ours = pair(tmp_path, "XLNetLMHeadModel", tiny(**changes))
    given, real = dict(inputs(torch.ones(4, 7, dtype=torch.long), **KIND)), None
    del given["attention_mask"]
    if what != "plain":
        given |= order(4, 7, 3)
    if what == "order alone":
        del given["target_mapping"]
    if what in (
        "targets",
        "uni",
        "backwards, uni",
        "same length",
    ):  # transformers' causal mask takes no other beside it
        del given["perm_mask"], given["token_type_ids"]
    if what in ("padding", "mask"):
        mask = torch.cat([MASKS["left"], MASKS["left"][2:]])
        real = mask.bool()
        given |= {"attention_mask": mask} if what == "padding" else {"input_mask": 1 - mask}
        given["perm_mask"][:, :, 0], given["perm_mask"][:, :, -1] = 1, 0
        if what == "mask":
            del given["target_mapping"]
    assert_two_segments_agree(oracle, ours, given, real)


@pytest.mark.parametrize("architecture", xlnet.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    agreement.assert_transformers_loads(tmp_path, architecture, xlnet.Config(**TINY, labels=labels), **KIND)


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("XLNetModel", xlnet.Config(**TINY)).eval(), **KIND)


def noisy(architecture: str = "XLNetLMHeadModel", **changes: Any) -> Model:
    model = build(architecture, xlnet.Config(**TINY | changes))
    fill_with_noise(model)
    return model.eval()


@pytest.mark.parametrize("mem_len", [512, 6, None])
def test_writes_the_words_that_transformers_writes(tmp_path: Path, mem_len: int | None) -> None:
    oracle, ours = pair(tmp_path, "XLNetLMHeadModel", tiny(vocab_size=23, mem_len=mem_len))
    ids = torch.randint(2, 23, (3, 5), generator=torch.Generator().manual_seed(1))
    for beams in (1, 2):
        settings = {"max_new_tokens": 6, "num_beams": beams}
        want = oracle.generate(ids, do_sample=False, eos_token_id=None, pad_token_id=0, **settings)
        assert torch.equal(ours.generate(ids, eos_token_id=(), **settings), want)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_go_on_as_alone(side: str) -> None:
    model = noisy(mem_len=6)
    mask = MASKS[side]
    ids = inputs(mask, **KIND)["input_ids"]
    got = model.generate(ids, mask, max_new_tokens=4, eos_token_id=())
    for row, alone in enumerate(ids):
        words = alone[mask[row].bool()][None]
        assert torch.equal(model.generate(words, max_new_tokens=4, eos_token_id=())[0, -4:], got[row, -4:])


@pytest.mark.parametrize("changes", [{}, {"attn_type": "uni"}, {"attn_type": "uni", "same_length": True}], ids=str)
def test_prompts_may_follow_memories(changes: dict[str, Any]) -> None:
    model = noisy(**changes)
    first, then = torch.randint(2, WORDS, (2, 2, 6), generator=torch.Generator().manual_seed(1))
    mems = model(first).mems
    prompt = model.prepare(then, mems=mems, room=lambda size: 2)
    behind = torch.cat([then, then[:, :1]], 1)
    mask, mapping = torch.zeros(2, 7, 7), torch.zeros(2, 1, 7)
    mask[:, :, -1], mapping[:, :, -1] = 1, 1
    assert_close(
        prompt.scores, model(behind, mems=mems, perm_mask=mask, target_mapping=mapping).logits[:, -1], "scores"
    )


@pytest.mark.parametrize("dropout", ["dropout", "summary_last_dropout"])
def test_dropouts_are_at_work(dropout: str) -> None:
    none = {"dropout": 0.0, "summary_last_dropout": 0.0}
    head = "XLNetForSequenceClassification"
    agreement.assert_head_drops(head, lambda p: xlnet.Config(**TINY | none | {dropout: p}))


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    agreement.assert_dropout_is_in_attention(build("XLNetModel", xlnet.Config(**TINY, dropout=0.5)), **KIND)


def test_parameter_counts_of_the_published_sizes() -> None:
    """The paper names sizes of BERT's; these are the published files'."""
    assert count("XLNetModel", xlnet.Config.base()) == 116_718_336
    assert count("XLNetLMHeadModel", xlnet.Config.base()) == 116_750_336
    assert count("XLNetLMHeadModel", xlnet.Config.large()) == 360_300_800


def test_it_learns_to_predict_in_any_order() -> None:
    """Rows of a repeating pattern: what is hidden follows from what is seen, of which a unigram knows nothing."""
    torch.manual_seed(0)
    model = build("XLNetLMHeadModel", xlnet.Config(**TINY | {"vocab_size": 12}, dropout=0.0, use_mems_train=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(80):
        ids = (torch.randint(4, (16, 1), generator=draw) + torch.arange(16)) % 4 + 4
        chosen = partial_spans(torch.ones_like(ids, dtype=torch.bool), count=4, generator=draw)
        given = permutation_lm(ids, chosen, ids < 4, split=8, generator=draw)
        loss = model(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 2 and sum(losses[-5:]) / 5 < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mems": [torch.zeros(2, 1, 26)]}, "mems: 2 tensors .* got 1 values"),
        ({"mems": [torch.zeros(2, 3, 26)] * 2}, r"mems: 2 tensors \(M, 1, 26\) are allowed, got \(2, 3, 26\)"),
        ({"perm_mask": torch.zeros(1, 3, 4)}, r"perm_mask: shape \(1, 4, 4\)"),
        ({"target_mapping": torch.ones(1, 1, 4)}, "target_mapping: rows with a single 1"),
        ({"target_mapping": torch.eye(4)[None, [1, 1]]}, "target_mapping: a token is allowed in one row"),
        ({"ranks": torch.zeros(1, 4, dtype=torch.long), "perm_mask": torch.zeros(1, 4, 4)}, "perm_mask, ranks: one"),
        ({"split": 2}, "split: 0, or with ranks"),
        ({"token_type_ids": torch.tensor([[0, 1, 2, 5]])}, "token_type_ids: 0 to 4 are allowed, got 0 to 5"),
        ({"offsets": torch.tensor([0, 4]), "use_mems": True}, "use_mems: without offsets"),
        ({"offsets": torch.tensor([0, 4]), "target_mapping": torch.eye(4)[None]}, "offsets: texts without mems"),
        ({"attention_mask": torch.ones(1, 4), "input_mask": torch.ones(1, 4)}, "attention_mask, input_mask: one"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    model = build("XLNetModel", xlnet.Config(**TINY))
    with pytest.raises(ValueError, match=message):
        model(torch.tensor([[5, 6, 7, 8]]), **arguments)


def test_bad_settings_are_named() -> None:
    for changes, message in (
        ({"attn_type": "left"}, "attn_type: one of bi, uni"),
        ({"summary_type": "attn"}, "summary_type: one of last, first, mean, cls_index"),
        ({"start_n_top": 0}, "start_n_top: at least 1"),
        ({"d_head": 12}, r"d_head: d_model / n_head \(13\)"),
        ({"mem_len": -1}, "mem_len: at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            xlnet.Config.from_dict({**TINY, **changes})
    with pytest.raises(ValueError, match="bi_data: an even batch"):
        build("XLNetModel", xlnet.Config(**TINY, bi_data=True))(torch.tensor([[5, 6]]))
    uni = build("XLNetModel", xlnet.Config(**TINY, attn_type="uni"))
    with pytest.raises(ValueError, match="ranks: allowed where attn_type"):
        uni(torch.tensor([[5, 6]]), ranks=torch.tensor([[0, -1]]))


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    config = xlnet.Config(**TINY | {"n_layer": 1}, use_mems_eval=False)
    agreement.assert_traces(build("XLNetModel", config).eval(), **KIND)
