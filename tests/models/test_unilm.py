"""UniLM against its equations in plain torch, and against transformers' BERT where it is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from safetensors.torch import save_file
from torch import Tensor

from pkernels.models import Model, bert, build, from_pretrained, unilm
from pkernels.models.parts.objectives import MODES

from . import agreement, dense_unilm
from .agreement import MASKS, count, token_labels
from .dense_unilm import CONFIG, RELATIVE, WORDS, Oracle, pairs_of, weights
from .pairs import assert_close, fill_with_noise

VERSIONS = {"v1": {}, "v2": RELATIVE}


def config(**changes: Any) -> unilm.Config:
    return unilm.Config.from_dict({**CONFIG, **changes})


def saved(folder: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_labels": 4, **changes}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def loaded(folder: Path, architecture: str, version: str) -> tuple[Oracle, Model]:
    """The oracle, its parameters with gradients, and our model of the same file."""
    tensors = weights(relative=version == "v2")
    saved(folder, tensors, **VERSIONS[version])
    with pytest.warns(UserWarning, match="has no use for"):
        ours = from_pretrained(folder, architecture=architecture)
    return Oracle({name: x.requires_grad_() for name, x in tensors.items()}), ours


def firsts_of(mask: Tensor) -> list[int]:
    """Tokens of the first segments, padding on the left among them."""
    return [first + before for first, before in zip([4, 1, 3], mask.argmax(1).tolist(), strict=False)]


def pooled_of(oracle: Oracle, states: Tensor, mask: Tensor, version: str) -> Tensor:
    """Of the first place, as BERT has it, or beside a position bias of the first real token."""
    first = mask.argmax(1) if version == "v2" else torch.zeros(len(mask), dtype=torch.long)
    return oracle.pooled(states[torch.arange(len(mask)), first][:, None])


def batch(mask: Tensor, mode: str) -> tuple[dict[str, Any], Tensor]:
    """Arguments of our model, and the pairs that attention keeps."""
    firsts = firsts_of(mask)
    ids = torch.randint(2, WORDS, mask.shape, generator=torch.Generator().manual_seed(1)).where(mask > 0, 0)
    given = {"input_ids": ids, "attention_mask": mask}
    given |= unilm.in_mode(mode, torch.tensor(firsts), mask.shape[1])
    return given, pairs_of(mode, firsts, mask)


def assert_gradients(oracle: Oracle, ours: Model, losses: tuple[Tensor, Tensor]) -> None:
    """Of all parameters, in losses that are made large enough for their errors to be seen."""
    wanted = torch.autograd.grad(losses[0], list(oracle.p.values()), allow_unused=True)
    largest = max(x.abs().max() for x in wanted if x is not None)
    (losses[1] / largest).backward()
    got = ours.named_tensors({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    want = {name: x / largest for name, x in zip(oracle.p, wanted, strict=True) if x is not None}
    prefix = "" if ours.architecture != "UniLMModel" else "bert."
    assert {prefix + name for name in got} == set(want)
    for name, gradient in got.items():
        assert_close(gradient, want[prefix + name], f"gradient of {name}")


# Against the equations ------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", MASKS)
def test_pre_training_in_every_mode(tmp_path: Path, version: str, mode: str, padding: str) -> None:
    oracle, ours = loaded(tmp_path, "UniLMForPreTraining", version)
    mask = MASKS[padding]
    given, pairs = batch(mask, mode)
    labels = token_labels(mask, WORDS)
    relation = torch.tensor([1, 0, 1])[: len(mask)] if mode == "bidirectional" else None
    states = oracle.states(given["input_ids"], given["token_type_ids"], pairs)
    words, related = (
        oracle.words(states),
        oracle.linear("cls.seq_relationship", pooled_of(oracle, states, mask, version)),
    )
    loss = F.cross_entropy(words.flatten(0, 1), labels.flatten())
    loss = loss if relation is None else loss + F.cross_entropy(related, relation)
    out = ours(**given, labels=labels, next_sentence_label=relation)
    real = mask.bool()
    assert_close(out.prediction_logits[real], words[real], "words")
    assert (out.prediction_logits[~real] == 0).all()
    if version == "v2" or real[:, 0].all() or mode != "left_to_right":  # else the first place sees nothing
        assert_close(out.seq_relationship_logits, related, "relation")
    assert_close(out.loss, loss, "loss")
    assert_gradients(oracle, ours, (loss, out.loss))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("padding", ["right", "left", "one"])
def test_other_heads(tmp_path: Path, version: str, padding: str) -> None:
    mask = MASKS[padding]
    given, pairs = batch(mask, "seq2seq")
    real = mask.bool()
    for architecture in ("UniLMModel", "UniLMForMaskedLM", "UniLMForSeq2SeqLM", "UniLMForSequenceClassification"):
        oracle, ours = loaded(tmp_path, architecture, version)
        states = oracle.states(given["input_ids"], given["token_type_ids"], pairs)
        if architecture == "UniLMModel":
            out = ours(**given)
            pooled = pooled_of(oracle, states, mask, version)
            assert_close(out.last_hidden_state[real], states[real], "states")
            assert_close(out.pooler_output, pooled, "pooled")
            noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(2)) * mask[..., None]
            losses = (
                (states * noise).sum() + pooled.sum(),
                (out.last_hidden_state * noise).sum() + out.pooler_output.sum(),
            )
        elif architecture == "UniLMForSequenceClassification":
            labels = torch.tensor([3, 0, 2])[: len(mask)]
            classes = oracle.linear("classifier", pooled_of(oracle, states, mask, version))
            out = ours(**given, labels=labels)
            assert_close(out.logits, classes, "classes")
            losses = F.cross_entropy(classes, labels), out.loss
        else:
            labels = token_labels(mask, WORDS)
            words = oracle.words(states)
            arguments = given
            if architecture == "UniLMForSeq2SeqLM":
                arguments = {name: given[name] for name in ("input_ids", "attention_mask")}
                arguments["source_lengths"] = torch.tensor(firsts_of(mask))
            out = ours(**arguments, labels=labels)
            assert_close(out.logits[real], words[real], "words")
            losses = F.cross_entropy(words.flatten(0, 1), labels.flatten()), out.loss
        assert_close(losses[1], losses[0], "loss")
        assert_gradients(oracle, ours, losses)


def test_far_distances_share_the_last_bucket() -> None:
    relative = build("UniLMModel", config(**RELATIVE)).body.relative
    fill_with_noise(relative)
    buckets = [dense_unilm.bucket_of(step) for step in range(-39, 40)]
    assert torch.equal(relative(40).values, relative.table.weight[:, buckets])


@pytest.mark.parametrize("padding", ["whole", "right", "left"])
def test_smoothed_labels_are_those_of_the_authors(padding: str) -> None:
    model = build("UniLMForSeq2SeqLM", config(label_smoothing=0.1)).eval()
    fill_with_noise(model)
    mask = MASKS[padding]
    given, _ = batch(mask, "seq2seq")
    labels = token_labels(mask, WORDS)
    out = model(given["input_ids"], mask, source_lengths=torch.tensor(firsts_of(mask)), labels=labels)
    want = torch.full((int((labels >= 0).sum()), WORDS), 0.1 / (WORDS - 2))
    want[:, 0] = 0
    want[torch.arange(len(want)), labels[labels >= 0]] = 0.9
    assert (labels != 0).all()
    likely = out.logits[labels >= 0].log_softmax(-1)
    assert_close(out.loss, F.kl_div(likely, want, reduction="sum") / len(want), "loss")


# Files ----------------------------------------------------------------------------------


def fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the layout of the files of UniLMv2 (with TensorFlow's names of norms, as in the oldest)."""
    out = {}
    for name, x in tensors.items():
        stem, _, leaf = name.rpartition("attention.self.")
        if leaf == "query.weight":
            parts = [tensors[f"{stem}attention.self.{other}.weight"] for other in dense_unilm.PROJECTIONS]
            out[f"{stem}attention.self.qkv_linear.weight"] = torch.cat(parts)
        elif leaf in ("query.bias", "value.bias"):
            out[f"{stem}attention.self.{leaf[0]}_bias"] = x[None, None].clone()
        elif not stem:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            out[name.replace("bert.rel_pos_bias", "bert.encoder.rel_pos_bias")] = x
    return out


def test_fused_files_load_and_are_saved_apart(tmp_path: Path) -> None:
    tensors = weights(relative=True)
    tensors |= {name: torch.zeros_like(x) for name, x in tensors.items() if name.endswith("self.key.bias")}
    without = {name: x for name, x in tensors.items() if not name.startswith("classifier")}
    saved(tmp_path, fused(without), **RELATIVE, architectures=["UniLMForPreTraining"])
    ours = from_pretrained(tmp_path)
    assert set(ours.named_tensors()) == set(without)
    assert all(torch.equal(x, without[name]) for name, x in ours.named_tensors().items())
    ours.save_pretrained(tmp_path / "again")
    again = from_pretrained(tmp_path / "again")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def test_a_file_without_biases_of_positions_is_no_v2(tmp_path: Path) -> None:
    saved(tmp_path, weights(relative=False), **RELATIVE)
    with pytest.raises(ValueError, match=r"missing: bert\.rel_pos_bias\.weight"):
        from_pretrained(tmp_path, architecture="UniLMForPreTraining")
    saved(
        tmp_path, {**weights(relative=False), "bert.encoder.layer.0.attention.self.seg_emb.weight": torch.ones(6, 26)}
    )
    with pytest.raises(ValueError, match=r"unknown: bert\.encoder\.layer\.0\.attention\.self\.seg_emb\.weight"):
        from_pretrained(tmp_path, architecture="UniLMForPreTraining")


# Against transformers' BERT -------------------------------------------------------------

SIZES = {name: CONFIG[name] for name in CONFIG if name not in ("model_type", "source_type_id", "target_type_id")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("head", ["Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification"])
def test_bidirectional_v1_is_bert(
    tmp_path: Path, monkeypatch: Any, head: str, padding: str, dtype: torch.dtype
) -> None:
    mask = MASKS[padding]
    labels = agreement.labels_for(f"Bert{head}", mask)
    if head == "ForPreTraining":
        labels = {"labels": token_labels(mask, WORDS), "next_sentence_label": torch.tensor([1, 0, 1])[: len(mask)]}

    def pair(folder: Path, architecture: str, theirs: Any, dtype: torch.dtype) -> tuple[Any, Model]:
        oracle = getattr(transformers, architecture)(theirs)
        fill_with_noise(oracle)
        oracle.save_pretrained(folder)
        renamed(folder, "unilm", f"UniLM{head}")
        oracle.set_attn_implementation("eager")
        return oracle.to(dtype).eval(), from_pretrained(folder, dtype=dtype)

    monkeypatch.setattr(agreement, "pair", pair)
    theirs = transformers.BertConfig(**SIZES, num_labels=agreement.labels_number(head))
    agreement.assert_head_agrees(tmp_path, f"Bert{head}", theirs, mask, labels, dtype, types=6)


def renamed(folder: Path, model_type: str, architecture: str) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "model_type": model_type, "architectures": [architecture]}))


def test_transformers_loads_what_we_save_as_bert(tmp_path: Path) -> None:
    ours = build("UniLMForPreTraining", config()).eval()
    fill_with_noise(ours)
    ours.save_pretrained(tmp_path)
    renamed(tmp_path, "bert", "BertForPreTraining")
    theirs, report = transformers.BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    given = agreement.inputs(MASKS["whole"], types=6)
    agreement.assert_outputs_agree(theirs.eval()(**given), ours(**given), torch.ones(3, 7).bool())


# Calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_lengths_and_offsets_are_the_same_batch(version: str) -> None:
    model = build("UniLMModel", config(**VERSIONS[version])).eval()
    fill_with_noise(model)
    agreement.assert_layouts_are_the_same_batch(model, types=6)
    mask, real = MASKS["right"], MASKS["right"].bool()
    given, _ = batch(mask, "seq2seq")
    want = model(**given).last_hidden_state
    del given["attention_mask"]
    assert torch.equal(model(**given, lengths=mask.sum(1)).last_hidden_state, want)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
    packed = {name: given[name][real][None] for name in ("input_ids", "token_type_ids")}
    assert torch.equal(model(**packed, offsets=offsets, pattern=given["pattern"]).last_hidden_state[0], want[real])


def test_sources_say_who_sees_whom(tmp_path: Path) -> None:
    model = build("UniLMForSeq2SeqLM", config(**RELATIVE)).eval()
    fill_with_noise(model)
    ids, sources = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([3])
    want = model(ids, source_lengths=sources).logits
    types = torch.tensor([[4, 4, 4, 5, 5]])
    assert torch.equal(model(ids, token_type_ids=types, source_lengths=sources).logits, want)
    packed = model(ids, token_type_ids=types, source_lengths=sources, offsets=torch.tensor([0, 5])).logits
    assert_close(packed, want, "packed")
    later = torch.tensor([[5, 6, 7, 8, 1]])
    changed = (model(later, source_lengths=sources).logits != want).any(-1)
    assert changed.tolist() == [[False, False, False, False, True]]
    assert (model(torch.tensor([[5, 6, 1, 8, 9]]), source_lengths=sources).logits != want).any(-1).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"source_lengths: integers of shape \(B,\) are allowed, got None"),
        ({"source_lengths": torch.tensor([[3]])}, r"source_lengths: .* got \(1, 1\)"),
        ({"source_lengths": torch.tensor([3, 3])}, r"source_lengths: shape \(1,\) is allowed, got \(2,\)"),
        ({"source_lengths": torch.tensor([3]), "offsets": torch.tensor([0, 5])}, "token_type_ids: those of packed"),
    ],
)
def test_wrong_sources_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("UniLMForSeq2SeqLM", config())(torch.tensor([[5, 6, 7, 8, 9]]), **given)


def test_wrong_calls_are_named() -> None:
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="pattern: a Band is allowed, got Tensor"):
        build("UniLMModel", config())(ids, pattern=torch.ones(3, 3))
    with pytest.raises(ValueError, match="position_ids: None is allowed beside relative positions"):
        build("UniLMModel", config(**RELATIVE))(ids, position_ids=torch.arange(3)[None])
    with pytest.raises(ValueError, match="mode: one of bidirectional, seq2seq, left_to_right, right_to_left is"):
        unilm.in_mode("causal", torch.tensor([3]), 5)


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    without = config(**RELATIVE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    agreement.assert_dropout_is_in_attention(build("UniLMModel", without), types=6)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    model = build("UniLMModel", config(**RELATIVE, num_hidden_layers=1)).eval()
    given, _ = batch(MASKS["right"], "seq2seq")
    lengths = given.pop("attention_mask").sum(1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        want = model(**given, lengths=lengths).last_hidden_state
        assert_close(compiled(**given, lengths=lengths).last_hidden_state, want, "seq2seq")


# Sizes and settings ---------------------------------------------------------------------


@pytest.mark.parametrize("size", ["base", "large"])
def test_parameter_counts_of_the_published_sizes(size: str) -> None:
    first, second = getattr(unilm.Config, size)(), getattr(unilm.Config, f"{size}_v2")()
    assert count("UniLMForPreTraining", first) == {"base": 108_936_006, "large": 334_666_054}[size]
    like = {"vocab_size": 28996, "type_vocab_size": 6}
    sizes = {
        name: getattr(first, name)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    assert count("UniLMModel", first) == count("BertModel", bert.Config(**sizes, **like))
    assert count("UniLMModel", second) == count("BertModel", bert.Config(**sizes)) + 32 * second.num_attention_heads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_type_id": 6}, "source_type_id: one of 0, 1, 2, 3, 4, 5 is allowed, got 6"),
        ({"target_type_id": -1}, "target_type_id: one of"),
        ({"rel_pos_bins": 6}, "rel_pos_bins: 0 or a multiple of 4 is allowed, got 6"),
        (
            {"rel_pos_bins": 32, "max_rel_pos": 8},
            r"max_rel_pos: at least 9 \(rel_pos_bins / 4 \+ 1\) is allowed, got 8",
        ),
        ({"label_smoothing": 1.0}, r"label_smoothing: in \[0, 1\)"),
        ({"num_qkv": 4}, "num_qkv: 0 or 1 is supported, got 4"),
        ({"ffn_type": 1}, "ffn_type: 0 is supported, got 1"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
