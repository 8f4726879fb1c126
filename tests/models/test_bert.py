"""BERT against transformers: outputs, losses and gradients, for every kind of padding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from torch import Tensor

from pkernels.models import bert, build, from_pretrained
from pkernels.models.parts.objectives import mask_tokens

from . import agreement
from .pairs import Exported, assert_close, assert_same_gradients, minilm, pair, paragraphs

# Two heads of 26: no multiple of anything.
TINY = {
    "vocab_size": 97,
    "hidden_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "max_position_embeddings": 40,
}

MASKS = {
    "whole": [[1, 1, 1, 1, 1, 1, 1]] * 3,
    "right": [[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0, 0]],
    "one": [[1, 1, 1, 1, 1]],
}


def tiny(**changes) -> transformers.BertConfig:
    return transformers.BertConfig(**TINY | changes)


def inputs(mask: Tensor, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(TINY["vocab_size"], mask.shape, generator=draw),
        "attention_mask": mask,
        "token_type_ids": torch.randint(2, mask.shape, generator=draw),
    }


def token_labels(mask: Tensor, classes: int) -> Tensor:
    """Every other real token is labelled."""
    labels = torch.randint(classes, mask.shape, generator=torch.Generator().manual_seed(3))
    labels[:, 1::2] = -100
    return labels.masked_fill(mask == 0, -100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", MASKS)
def test_pretraining_agrees_with_transformers(tmp_path: Path, padding: str, dtype: torch.dtype) -> None:
    oracle, ours = pair(tmp_path, "BertForPreTraining", tiny(), dtype)
    mask = torch.tensor(MASKS[padding])
    labels = {
        "labels": token_labels(mask, TINY["vocab_size"]),
        "next_sentence_label": torch.tensor([0, 1, 1])[: len(mask)],
    }
    want, got = oracle(**inputs(mask), **labels), ours(**inputs(mask), **labels)
    real = mask.bool()
    assert_close(got.prediction_logits[real], want.prediction_logits[real], "prediction_logits")
    assert_close(got.seq_relationship_logits, want.seq_relationship_logits, "seq_relationship_logits")
    assert_close(got.loss, want.loss, "loss")
    assert not got.prediction_logits[~real].any()
    want.loss.backward()
    got.loss.backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("padding", MASKS)
def test_model_agrees_with_transformers(tmp_path: Path, padding: str) -> None:
    oracle, ours = pair(tmp_path, "BertModel", tiny(hidden_act="gelu_new", layer_norm_eps=1e-5))
    mask = torch.tensor(MASKS[padding])
    want, got = (model(**inputs(mask), output_hidden_states=True) for model in (oracle, ours))
    real = mask.bool()
    assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")
    assert_close(got.pooler_output, want.pooler_output, "pooler_output")
    assert len(got.hidden_states) == len(want.hidden_states) == 3
    for mine, theirs in zip(got.hidden_states, want.hidden_states, strict=True):
        assert_close(mine[real], theirs[real], "hidden_states")
        assert not mine[~real].any()
    for output in (want, got):
        (output.last_hidden_state[real].square().mean() + output.pooler_output.sum()).backward()
    assert_same_gradients(oracle, ours)


HEADS = {
    "BertForMaskedLM": lambda mask: {"labels": token_labels(mask, TINY["vocab_size"])},
    "BertForNextSentencePrediction": lambda mask: {"labels": torch.tensor([1, 0, 1])},
    "BertForSequenceClassification": lambda mask: {"labels": torch.tensor([4, 0, 2])},
    "BertForTokenClassification": lambda mask: {"labels": token_labels(mask, 5)},
}


@pytest.mark.parametrize("architecture", HEADS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str) -> None:
    oracle, ours = pair(tmp_path, architecture, tiny(num_labels=5))
    mask = torch.tensor(MASKS["right"])
    want, got = (model(**inputs(mask), **HEADS[architecture](mask)) for model in (oracle, ours))
    real = mask.bool() if got.logits.dim() == 3 else slice(None)
    assert_close(got.logits[real], want.logits[real], "logits")
    assert_close(got.loss, want.loss, "loss")
    want.loss.backward()
    got.loss.backward()
    assert_same_gradients(oracle, ours)


@pytest.mark.parametrize("padding", MASKS)
def test_multiple_choice_agrees_with_transformers(tmp_path: Path, padding: str) -> None:
    config, mask = tiny(), torch.tensor(MASKS[padding])
    labels = agreement.labels_for("BertForMultipleChoice", mask)
    agreement.assert_head_agrees(tmp_path, "BertForMultipleChoice", config, mask, labels, torch.float32)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [("regression", torch.rand(3, 5)), ("multi_label_classification", torch.randint(2, (3, 5)).float())],
)
def test_classification_problems_agree_with_transformers(tmp_path: Path, problem: str, labels: Tensor) -> None:
    oracle, ours = pair(tmp_path, "BertForSequenceClassification", tiny(num_labels=5, problem_type=problem))
    mask = torch.tensor(MASKS["right"])
    assert_close(ours(**inputs(mask), labels=labels).loss, oracle(**inputs(mask), labels=labels).loss, "loss")


def test_question_answering_agrees_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "BertForQuestionAnswering", tiny())
    places = {"start_positions": torch.tensor([1, 0, 99]), "end_positions": torch.tensor([3, 0, 6])}
    mask = torch.tensor(MASKS["whole"])
    want, got = (model(**inputs(mask), **places) for model in (oracle, ours))
    assert_close(got.loss, want.loss, "loss")
    mask = torch.tensor(MASKS["right"])
    want, got = (model(**inputs(mask)) for model in (oracle, ours))
    real = mask.bool()
    for name in ("start_logits", "end_logits"):
        assert_close(getattr(got, name)[real], getattr(want, name)[real], name)
        assert (getattr(got, name)[~real] == -torch.inf).all()


def test_position_ids_and_inputs_embeds_agree_with_transformers(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "BertModel", tiny())
    embeds = torch.randn(3, 7, 52)
    mask = torch.tensor(MASKS["right"])
    given = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": torch.arange(7).flip(0)[None] + 30}
    want, got = oracle(**given), ours(**given)
    real = mask.bool()
    assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")


def test_lengths_and_offsets_are_the_same_batch() -> None:
    model = build("BertForPreTraining", bert.Config(**TINY)).eval()
    mask = torch.tensor(MASKS["right"])
    lengths, real = mask.sum(1), mask.bool()
    given = inputs(mask)
    want = model(**given)
    by_lengths = model(given["input_ids"], token_type_ids=given["token_type_ids"], lengths=lengths)
    packed = {name: given[name][real][None] for name in ("input_ids", "token_type_ids")}
    by_offsets = model(**packed, offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]))
    assert torch.equal(by_lengths.prediction_logits, want.prediction_logits)
    assert torch.equal(by_offsets.prediction_logits[0], want.prediction_logits[real])
    assert torch.equal(by_offsets.seq_relationship_logits, want.seq_relationship_logits)


def test_rows_without_tokens_stay_finite() -> None:
    model = build("BertModel", bert.Config(**TINY)).eval()
    ids = torch.randint(TINY["vocab_size"], (2, 4))
    out = model(ids, lengths=torch.tensor([0, 3]))
    assert torch.isfinite(out.last_hidden_state).all()
    assert torch.isfinite(out.pooler_output).all()
    alone = model(ids[1:, :3]).last_hidden_state
    assert_close(out.last_hidden_state[1:, :3], alone, "last_hidden_state")


def test_an_empty_batch_works() -> None:
    out = build("BertForPreTraining", bert.Config(**TINY))(torch.zeros(0, 4, dtype=torch.long), torch.ones(0, 4))
    assert out.prediction_logits.shape == (0, 4, 97)
    assert out.seq_relationship_logits.shape == (0, 2)


def test_copies_and_pickles_are_the_same_model(tmp_path: Path) -> None:
    model = build("BertModel", bert.Config(**TINY, hidden_act="quick_gelu")).eval()
    ids = torch.randint(97, (2, 5))
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(other(ids).last_hidden_state, model(ids).last_hidden_state)
        other.save_pretrained(tmp_path)


def test_attention_dropout_follows_the_seed_and_training_mode() -> None:
    model = build("BertModel", bert.Config(**TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5))
    ids = torch.randint(TINY["vocab_size"], (2, 9))

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(ids).last_hidden_state

    model.train()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


def test_parameter_counts_of_the_published_sizes() -> None:
    with torch.device("meta"):
        assert build("BertForPreTraining", bert.Config.base()).num_parameters() == 110_106_428
        assert build("BertModel", bert.Config.base()).num_parameters() == 109_482_240
        assert build("BertModel", bert.Config.large()).num_parameters() == 335_141_888
        assert build("BertModel", bert.Config.minilm()).num_parameters() == 22_713_216
        assert build("BertForPreTraining", bert.Config.macbert()).num_parameters() == 102_882_442
        assert build("BertModel", bert.Config.tinybert4()).num_parameters() == 14_350_248
        assert build("BertModel", bert.Config.tinybert6()).num_parameters() == 66_955_008


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "input_ids, inputs_embeds: one of them"),
        ({"input_ids": torch.zeros(1, 2, 3, dtype=torch.long)}, r"shape \(B, S\)"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "S at least 1"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 2, 51)}, r"inputs_embeds: shape \(1, 2, 52\)"),
        ({"input_ids": torch.tensor([[97]])}, "input_ids: ids from 0 to 96"),
        ({"input_ids": torch.zeros(1, 41, dtype=torch.long)}, "at most 40 tokens"),
        ({"input_ids": torch.zeros(1, 3)}, "input_ids: an integer tensor"),
        ({"token_type_ids": torch.tensor([[0, 2]])}, "token_type_ids: ids from 0 to 1"),
        ({"token_type_ids": torch.zeros(1, 3, dtype=torch.long)}, "token_type_ids: shape"),
        ({"position_ids": torch.tensor([[0, 40]])}, "position_ids: ids from 0 to 39"),
        ({"attention_mask": torch.zeros(2, 1)}, "attention_mask: a tensor of shape"),
        ({"attention_mask": torch.tensor([[0.0, -10000.0]])}, "attention_mask: 1 .real. and 0"),
        ({"attention_mask": torch.ones(1, 2), "lengths": torch.tensor([2])}, "attention_mask, lengths: one of them"),
        ({"lengths": torch.tensor([3])}, "lengths: between 0 and 2"),
        ({"lengths": torch.tensor([1.0])}, "lengths: integers"),
        ({"offsets": torch.tensor([0, 1])}, "offsets: must rise from 0 to 2"),
        ({"offsets": torch.tensor([0, 2, 2])}, "offsets: must rise from 0 to 2"),
        ({"labels": torch.tensor([[0, 97]])}, "labels: -100 and 0 to 96"),
        ({"labels": torch.tensor([0])}, "labels: shape"),
        ({"output_attentions": True}, "output_attentions"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    model = build("BertForMaskedLM", bert.Config(**TINY))
    if arguments and "input_ids" not in arguments:
        arguments = {"input_ids": torch.tensor([[1, 2]]), **arguments}
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_real_weights_on_real_text_agree_with_transformers() -> None:
    oracle = transformers.BertModel.from_pretrained(minilm(), attn_implementation="eager").eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_padding()
    batch = tokenizer.encode_batch(list(paragraphs())[::300][:8])
    given = {
        "input_ids": torch.tensor([encoding.ids for encoding in batch]),
        "attention_mask": torch.tensor([encoding.attention_mask for encoding in batch]),
    }
    with torch.no_grad():
        want, got = oracle(**given), from_pretrained(minilm())(**given)
    real = given["attention_mask"].bool()
    assert real.sum() > 300
    assert not real.all()
    assert_close(got.last_hidden_state[real], want.last_hidden_state[real], "last_hidden_state")
    assert_close(got.pooler_output, want.pooler_output, "pooler_output")


def test_training_learns_real_text_by_heart() -> None:
    texts = list(paragraphs())[:600]
    tokenizer = tokenizers.BertWordPieceTokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=600, show_progress=False)
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding()
    torch.manual_seed(0)
    config = bert.Config(
        vocab_size=600, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    model = build("BertForMaskedLM", config).train()
    batch = tokenizer.encode_batch(texts[:16])
    ids, special, real = (
        torch.tensor([getattr(encoding, name) for encoding in batch])
        for name in ("ids", "special_tokens_mask", "attention_mask")
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    masked, labels = mask_tokens(ids, special.bool(), mask_id=tokenizer.token_to_id("[MASK]"), words=600)
    losses = []
    for _ in range(100):
        loss = model(masked, attention_mask=real, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - 6.4) < 0.3  # log(600): it knows nothing yet
    # Knowing how frequent each masked word is would still cost this much.
    counts = labels[labels != -100].bincount()
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    assert losses[-1] < 0.1 * entropy, losses


@pytest.mark.compiles
def test_compiles_in_one_graph_with_lengths_and_masks() -> None:
    model = build("BertForPreTraining", bert.Config(**TINY | {"num_hidden_layers": 1})).eval()
    mask = torch.tensor(MASKS["right"])
    given = inputs(mask)
    ids, types = given["input_ids"], given["token_type_ids"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(**given).prediction_logits
    by_lengths = compiled(ids, token_type_ids=types, lengths=mask.sum(1))
    assert_close(by_lengths.prediction_logits, want, "with lengths")
    assert_close(compiled(**given).prediction_logits, want, "with a mask")
    grads = []
    for run in (model, compiled):
        labels = token_labels(mask, TINY["vocab_size"])
        loss = run(ids, lengths=mask.sum(1), labels=labels, next_sentence_label=torch.tensor([0, 1, 1])).loss
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for mine, theirs in zip(*grads, strict=True):
        assert_close(mine, theirs, "gradient")


@pytest.mark.compiles
def test_inductor_runs_a_packed_batch() -> None:
    model = build("BertModel", bert.Config(**TINY | {"num_hidden_layers": 1})).eval()
    ids, offsets = torch.randint(97, (1, 11)), torch.tensor([0, 4, 11])
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        want, got = model(ids, offsets=offsets), compiled(ids, offsets=offsets)
    assert_close(got.last_hidden_state, want.last_hidden_state, "last_hidden_state")
    assert_close(got.pooler_output, want.pooler_output, "pooler_output")


@pytest.mark.compiles
def test_exports_with_a_dynamic_batch() -> None:
    model = Exported(build("BertModel", bert.Config(**TINY)).eval())
    batch, size = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("size", min=2, max=40)
    shapes = {"input_ids": {0: batch, 1: size}, "lengths": {0: batch}}
    given = (torch.randint(97, (3, 7)), torch.tensor([7, 1, 4]))
    exported = torch.export.export(model, given, dynamic_shapes=shapes).module()
    given = (torch.randint(97, (2, 9)), torch.tensor([9, 5]))
    assert_close(exported(*given).last_hidden_state, model(*given).last_hidden_state, "last_hidden_state")
