"""Transformer-XL against its equations written out, and against transformers 4's where that is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pkernels.models import Model, build, from_pretrained, transformer_xl
from pkernels.models.parts.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, AdaptiveStates
from pkernels.models.parts.layouts import Whole

from . import agreement
from .agreement import WORDS, count
from .dense_transformer_xl import Sizes, log_probabilities, read
from .pairs import assert_close, fill_with_noise

# Two heads of 13.
TINY: dict[str, Any] = {
    "vocab_size": WORDS,
    "cutoffs": (20, 50),
    "d_model": 24,
    "d_embed": 24,
    "n_head": 2,
    "d_head": 13,
    "d_inner": 37,
    "div_val": 2,
    "n_layer": 2,
    "mem_len": 5,
    "clamp_len": 4,
    "pad_token_id": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "published": {},
    "trained": {"same_length": False, "clamp_len": -1, "mem_len": 8},
    "one width": {"div_val": 1},
    "narrow": {"div_val": 1, "d_embed": 16},
    "norms first": {"pre_lnorm": True},
    "one cluster": {"div_val": 1, "cutoffs": ()},
    "shared": {"untie_r": False},
    "own projections": {"tie_projs": (False, False, True)},
}


def noisy(architecture: str = "TransfoXLLMHeadModel", **changes: Any) -> Model:
    model = build(architecture, transformer_xl.Config(**TINY | changes))
    fill_with_noise(model)
    return model.eval()


def sizes(c: transformer_xl.Config) -> Sizes:
    return Sizes(
        c.n_head, c.n_layer, c.mem_len, c.clamp_len, c.same_length, c.pre_lnorm,
        c.layer_norm_epsilon, c.cutoffs, c.div_val,
    )  # fmt: skip


def words(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, WORDS, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_segments_agree_with_the_equations(kind: str) -> None:
    """Two segments: scores, memories, losses, and the gradients of all parameters."""
    model = noisy(**KINDS[kind])
    tensors = {n: x.detach().clone().requires_grad_() for n, x in model.named_tensors().items() if "inv_freq" not in n}
    if kind == "shared":
        for name in ("r_w_bias", "r_r_bias"):
            own = tensors[f"transformer.{name}"]
            tensors |= {n: own for n in tensors if n.endswith(name)}
    s = sizes(model.config)
    mems = None
    for given in (words(2, 7), words(2, 3, seed=1), words(2, 6, seed=2)):
        before = None if mems is None else [x.clone() for x in mems]
        got = model(given, mems=mems)
        states, want_mems = read(tensors, s, given, before)
        want = log_probabilities(tensors, s, states, WORDS)
        assert_close(got.logits, want, "logits")
        for x, y in zip(got.mems, want_mems, strict=True):
            assert_close(x, y, "mems")
        mems = got.mems
    labels = given.clone()
    labels[0, 2] = -100
    out = model(given, mems=before, labels=labels)
    real = labels[:, 1:] >= 0
    losses = -want[:, :-1].gather(2, given[:, 1:, None]).squeeze(2) * real
    assert out.logits is None
    assert_close(out.losses, losses, "losses")
    assert_close(out.loss, losses.sum() / real.sum(), "loss")
    out.loss.backward()
    (losses.sum() / real.sum()).backward()
    gradients = model.named_tensors({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    theirs = {n: x.grad for n, x in tensors.items() if x.grad is not None}
    assert set(gradients) <= set(theirs)
    assert {n for n in theirs if n not in gradients} == (
        {n for n in theirs if ".layers." in n and n.endswith(("r_w_bias", "r_r_bias"))} if kind == "shared" else set()
    )
    for name, gradient in gradients.items():
        assert_close(gradient, theirs[name], name)


def test_memories_of_no_tokens_start_without_any() -> None:
    model = noisy(same_length=False)
    none = [torch.zeros(0, 2, 24)] * 2
    ids = words(2, 4)
    tensors = {n: x.detach() for n, x in model.named_tensors().items()}
    states, _ = read(tensors, sizes(model.config), ids, none)
    got = model(ids, mems=none)
    assert_close(got.logits, log_probabilities(tensors, sizes(model.config), states, WORDS), "logits")
    assert not torch.allclose(got.logits, model(ids).logits, atol=1e-3)
    assert [x.shape[0] for x in got.mems] == [4, 4]


def test_a_long_text_in_segments_is_the_same_however_it_is_cut() -> None:
    """Where every token sees as many, the seams of segments show in deeper layers' reach alone: of one layer not."""
    model = noisy("TransfoXLModel", n_layer=1)
    ids = words(1, 12)
    whole = model(ids).last_hidden_state
    mems, parts = None, []
    for part in ids.split((5, 1, 6), 1):
        out = model(part, mems=mems)
        mems = out.mems
        parts.append(out.last_hidden_state)
    assert_close(torch.cat(parts, 1), whole, "last_hidden_state")


def test_no_gradient_flows_through_memories() -> None:
    model = noisy()
    first = model(words(1, 4))
    assert not any(x.requires_grad for x in first.mems)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("same_length", [True, False])
def test_writing_goes_on_as_reading_does(side: str, same_length: bool) -> None:
    """Prompts of several lengths; each word's scores are those of one more segment of one token."""
    model = noisy(same_length=same_length, pre_lnorm=same_length)
    texts = [words(n, seed=n) for n in (6, 1, 3)]
    ids, mask = torch.ones(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
    for row, text in enumerate(texts):
        where = slice(6 - len(text), 6) if side == "left" else slice(len(text))
        ids[row, where], mask[row, where] = text, 1
    with torch.no_grad():
        prompt = model.prepare(ids, mask, room=lambda size: 9)
        outs = [model(text[None]) for text in texts]
        scores = prompt.scores
        for _ in range(9):
            assert_close(scores, torch.cat([out.logits[:, -1] for out in outs]), "scores")
            chosen = scores.argmax(-1)
            outs = [model(word.view(1, 1), mems=out.mems) for word, out in zip(chosen, outs, strict=True)]
            scores = model.step(chosen, prompt.caches)
    assert model.generate(ids, mask, max_new_tokens=3, num_beams=2, eos_token_id=()).shape == (3, 9)


def test_a_prompt_may_follow_memories() -> None:
    model = noisy()
    first, then = words(2, 6), words(2, 4, seed=1)
    mems = model(first).mems
    assert_close(
        model.prepare(then, mems=mems, room=lambda size: 1).scores, model(then, mems=mems).logits[:, -1], "scores"
    )


@pytest.mark.parametrize("lengths", [False, True])
def test_padding_on_the_right_leaves_words_and_memories_alone(lengths: bool) -> None:
    model = noisy()
    ids, counts = words(2, 6), torch.tensor([6, 4])
    more = {"lengths": counts} if lengths else {"attention_mask": (torch.arange(6) < counts[:, None]).long()}
    got, alone = model(ids, **more), model(ids[1:, :4])
    assert_close(got.logits[1:, :4], alone.logits, "logits")
    assert not got.logits[1, 4:].any()
    for x, y in zip(got.mems, alone.mems, strict=True):
        assert_close(x[:, 1:], y, "mems")
    labels = model(ids, labels=ids, **more)
    assert not labels.losses[1, 3:].any() and labels.losses[1, :3].all()


def test_classes_come_from_the_last_word_that_is_no_padding() -> None:
    model = noisy("TransfoXLForSequenceClassification")
    ids = words(2, 6)
    ids[1, 4:] = 1
    assert_close(model(ids).logits[1:], model(ids[1:, :4]).logits, "logits")
    assert model(ids, labels=torch.tensor([0, 1])).loss.isfinite()


@pytest.mark.parametrize("kind", ["published", "one width", "shared", "own projections"])
def test_what_we_save_loads_and_copies_in_old_files_too(tmp_path: Path, kind: str) -> None:
    model = noisy(**KINDS[kind])
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    # Published files are pickles with every tied tensor twice.
    tensors = model.named_tensors()
    for i in range(3 if model.config.div_val > 1 else 1):
        tensors[f"crit.out_layers.{i}.weight"] = tensors[f"transformer.word_emb.emb_layers.{i}.weight"]
    for i, tied in enumerate(model.config.tie_projs):
        if tied and model.config.div_val > 1:
            tensors[f"crit.out_projs.{i}"] = tensors[f"transformer.word_emb.emb_projs.{i}"]
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    again = from_pretrained(tmp_path)
    ids = words(1, 4)
    assert torch.equal(again(ids).logits, model(ids).logits)
    tensors["crit.out_layers.0.weight"] = tensors["crit.out_layers.0.weight"] + 1
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"crit\.out_layers\.0\.weight: must equal"):
        from_pretrained(tmp_path)


def test_shared_vectors_stay_one_after_loading(tmp_path: Path) -> None:
    model = noisy(untie_r=False)
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.num_parameters() == model.num_parameters() == noisy().num_parameters() - 2 * 26
    assert again.body.layers[0].attention.inner.biases.content is again.body.layers[1].attention.inner.biases.content


def test_parameter_counts() -> None:
    """Table 1 and 2: 257M, 151M, 41M, 277M; what the first leaves out the authors do not say."""
    head, config = "TransfoXLLMHeadModel", transformer_xl.Config
    assert count(head, config.wikitext103()) == 285_205_322
    assert round(count(head, config.wikitext103_base()) / 1e6) == 151
    assert round(count(head, config.enwik8()) / 1e6) == 41
    assert round(count(head, config.enwik8_large()) / 1e6) == 277


def test_the_softmax_is_one() -> None:
    softmax = AdaptiveSoftmax((4, 6), 9, width=8, narrow=8, div=2, tied=(False, True, True))
    embedding = AdaptiveEmbedding((4, 6), 9, width=8, narrow=8, div=2)
    fill_with_noise(softmax)
    fill_with_noise(embedding)
    states = AdaptiveStates(
        torch.randn(2, 3, 8), Whole(2, 3, torch.device("cpu")), torch.zeros(0), tables=embedding.parts()
    )
    all_ = softmax(states)
    assert_close(all_.exp().sum(-1), torch.ones(2, 3), "sum")
    labels = torch.tensor([0, 3, 4, 5, 8, -100])
    want = -all_.flatten(0, 1).gather(1, labels.clamp(min=0)[:, None]).squeeze(1) * (labels >= 0)
    assert_close(softmax.losses(states, labels), want, "losses")


def test_memories_help() -> None:
    """Each segment comes twice: with memories the second is known, without it is not."""
    draw = torch.Generator().manual_seed(0)
    losses = {}
    for mem_len in (4, 0):
        torch.manual_seed(0)
        changes = {"mem_len": mem_len, "same_length": False, "clamp_len": -1, "cutoffs": (), "vocab_size": 8}
        model = build("TransfoXLLMHeadModel", transformer_xl.Config(**TINY | changes | {"div_val": 1, "dropout": 0.0}))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        recent = []
        for _ in range(100):
            ids = torch.randint(2, 8, (16, 4), generator=draw)
            mems = model(ids).mems if mem_len else None
            loss = model(ids, mems=mems, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recent.append(float(loss.detach()))
        losses[mem_len] = sum(recent[-10:]) / 10
    assert losses[0] > 1.6  # log 6 = 1.79
    assert losses[4] < 0.6 * losses[0]


def test_dropouts_are_at_work() -> None:
    for name in ("dropout", "dropatt"):
        none = {"dropout": 0.0, "dropatt": 0.0}
        agreement.assert_head_drops("TransfoXLModel", lambda p: transformer_xl.Config(**TINY | none | {name: p}))  # noqa: B023


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutoffs": (50, 20)}, "cutoffs: must rise"),
        ({"d_embed": 3}, r"d_embed: at least div_val \*\* 2"),
        ({"tie_projs": (True,)}, "tie_projs: 3 values"),
        ({"mem_len": 0}, "mem_len: at least 1 is allowed here"),
        ({"attn_type": 2}, "attn_type: 0 is supported"),
        ({"n_head": 0}, "n_head: at least 1"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer_xl.Config.from_dict({**TINY, **changes})


def test_bad_arguments_are_named() -> None:
    model = noisy()
    with pytest.raises(ValueError, match="attention_mask: padding on the right"):
        model(words(1, 3), attention_mask=torch.tensor([[0, 1, 1]]))
    with pytest.raises(ValueError, match="mems: 2 tensors"):
        model(words(1, 3), mems=[torch.zeros(5, 2, 24)] * 2)
    with pytest.raises(ValueError, match="input_ids: ids from 0 to 96"):
        model(torch.tensor([[97]]))
    with pytest.raises(ValueError, match="mem_len: at least 1 is needed to write"):
        noisy(mem_len=0, same_length=False).generate(words(1, 3), max_new_tokens=1)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    model, ids = noisy("TransfoXLModel", n_layer=1), words(2, 7)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(compiled(ids).last_hidden_state, model(ids).last_hidden_state, "last_hidden_state")


MODULE = "transformers.models.deprecated.transfo_xl.modeling_transfo_xl"


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """transformers 4's module, in which every call fails (huggingface/transformers#29650), with that line mended."""
    try:
        spec = importlib.util.find_spec(MODULE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip("transformers 5 has no Transformer-XL; with 4.57 this test runs")
    source = Path(spec.origin).read_text()
    wrong = ".type_as(\n                dtype=word_emb.dtype\n            )"
    assert wrong in source
    module = types.ModuleType(MODULE)
    module.__package__ = MODULE.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(source.replace(wrong, ".to(word_emb.dtype)"), spec.origin, "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("shared", "own projections")])
def test_segments_agree_with_transformers_4(tmp_path: Path, mended: types.ModuleType, kind: str) -> None:
    ours = noisy(**KINDS[kind])
    ours.save_pretrained(tmp_path)
    theirs = mended.TransfoXLLMHeadModel.from_pretrained(tmp_path).eval()
    mems = [None, None]
    for ids in (words(2, 7), words(2, 3, seed=1)):
        want, got = theirs(ids, mems=mems[0]), ours(ids, mems=mems[1])
        mems = [want.mems, got.mems]
        assert_close(got.logits, want.prediction_scores, "logits")
        for x, y in zip(got.mems, want.mems, strict=True):
            assert_close(x, y, "mems")
