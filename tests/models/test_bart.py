"""BART against transformers, and its way to translate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, bart, build, from_pretrained
from pkernels.models.bart_translation import Translator, source

from . import seq2seq
from .agreement import count
from .pairs import assert_close, assert_same_gradients
from .seq2seq import MASKS, WORDS, draw, labels_of, noisy, pair

# Heads of 26 and 13.
TINY = {
    "vocab_size": WORDS,
    "d_model": 26,
    "encoder_layers": 2,
    "encoder_ffn_dim": 37,
    "encoder_attention_heads": 1,
    "decoder_layers": 3,
    "decoder_ffn_dim": 41,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 12,
}
GENERATION = "BartForConditionalGeneration"
LABELS = 4


def tiny(**changes) -> transformers.BartConfig:
    return transformers.BartConfig(**TINY | changes)


def text(source: Tensor, seed: int = 0) -> Tensor:
    """Ids with an <eos> inside and one at the end of each text."""
    ids = draw(tuple(source.shape), seed).masked_fill(source == 0, 1)
    last = (source * torch.arange(source.shape[1])).argmax(1)
    first = source.argmax(1)
    rows = torch.arange(len(ids))
    ids[rows, first], ids[rows, last] = 2, 2
    return ids


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("architecture", ["BartModel", GENERATION])
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, masks: str) -> None:
    kind = {"scale_embedding": True, "activation_function": "relu"} if masks == "right" else {}
    labels = {"labels": labels_of(MASKS[masks][1])} if architecture == GENERATION else {}
    seq2seq.assert_head_agrees(tmp_path, architecture, tiny(**kind), MASKS[masks], labels)


def _of_a_text(folder: Path, architecture: str, mask: Tensor, **labels: Tensor) -> None:
    """The decoder reads the encoder's text, a place to the right."""
    number = 2 if architecture.endswith("QuestionAnswering") else LABELS
    oracle, ours = pair(folder, architecture, tiny(num_labels=number))
    real = {"encoder": mask.bool(), "decoder": torch.ones_like(mask).bool()}
    seq2seq.assert_agrees(oracle, ours, {"input_ids": text(mask), "attention_mask": mask}, labels, real)


@pytest.mark.parametrize("masks", ["whole", "one"])
def test_classes_of_a_text_agree_with_transformers(tmp_path: Path, masks: str) -> None:
    mask = MASKS[masks][0]
    labels = torch.tensor([3, 0, 2])[: len(mask)]
    _of_a_text(tmp_path, "BartForSequenceClassification", mask, labels=labels)


def test_classes_of_padded_texts_agree_with_transformers(tmp_path: Path) -> None:
    """Which wants as many <eos> in each: no text of one token."""
    for i, masks in enumerate((MASKS["source"][0], MASKS["source"][0].flip(1))):
        _of_a_text(tmp_path / str(i), "BartForSequenceClassification", masks, labels=torch.tensor([3, 0, 2]))


@pytest.mark.parametrize("masks", ["whole", "source", "left"])
def test_answers_agree_with_transformers(tmp_path: Path, masks: str) -> None:
    places = {"start_positions": torch.tensor([1, 0, 99]), "end_positions": torch.tensor([2, 6, 3])}
    _of_a_text(tmp_path, "BartForQuestionAnswering", MASKS[masks][0], **places)


def test_classes_of_tokens_are_of_the_decoders_states(tmp_path: Path) -> None:
    """transformers has no such head: its model's states, and a layer on them."""
    oracle, _ = pair(tmp_path / "model", "BartModel", tiny())
    ours = build("BartForTokenClassification", bart.Config(**TINY, labels=tuple("abcd"))).eval()
    ours.body.load_state_dict(from_pretrained(tmp_path / "model").body.state_dict())
    layer = nn.Linear(26, LABELS)
    ours.head.task.classifier.load_state_dict(layer.state_dict())
    ids, mask = text(MASKS["source"][0]), MASKS["source"][0]
    labels = labels_of(mask, LABELS)
    logits = layer(oracle(ids, attention_mask=mask).last_hidden_state)
    want = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    got = ours(ids, attention_mask=mask, labels=labels)
    assert_close(got.logits, logits, "logits")
    assert_close(got.loss, want, "loss")
    for loss in (want, got.loss):
        (30 * loss).backward()
    assert_close(ours.head.task.classifier.weight.grad, layer.weight.grad, "gradient of the classifier")
    assert_close(
        ours.body.encoder.embeddings.norm.weight.grad, oracle.encoder.layernorm_embedding.weight.grad, "norm's"
    )
    ours.save_pretrained(tmp_path / "classes")
    again = from_pretrained(tmp_path / "classes")
    assert torch.equal(again(ids, attention_mask=mask).logits, got.logits)


def test_labels_are_what_the_decoder_reads_a_place_later(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, GENERATION, tiny())
    ids, labels = text(MASKS["whole"][0]), labels_of(MASKS["target"][1])
    want, got = (model(input_ids=ids, labels=labels) for model in (oracle, ours))
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")


# Files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [name for name in bart.HEADS if hasattr(transformers, name)])
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    number = 2 if architecture.endswith("QuestionAnswering") else LABELS
    config = bart.Config(**TINY, labels=tuple(f"L{i}" for i in range(number)), scale_embedding=True)
    seq2seq.assert_transformers_loads(tmp_path, architecture, config, {"input_ids": text(MASKS["whole"][0])})


def test_the_bias_of_words_is_read_and_written(tmp_path: Path) -> None:
    oracle = transformers.BartForConditionalGeneration(tiny()).eval()
    oracle.final_logits_bias.normal_()
    oracle.save_pretrained(tmp_path)
    ours, ids = from_pretrained(tmp_path), text(MASKS["whole"][0])
    assert_close(ours(ids).logits, oracle(ids).logits, "logits")
    assert torch.equal(ours.named_tensors()["final_logits_bias"], oracle.final_logits_bias)
    assert "head.task.words.bias" not in dict(ours.named_parameters())


def test_words_are_predicted_from_files_without_their_bias(tmp_path: Path) -> None:
    """As published for BART-base and -large."""
    oracle, _ = pair(tmp_path, "BartModel", tiny())
    ours = from_pretrained(tmp_path, architecture=GENERATION)
    ids = text(MASKS["whole"][0])
    want = oracle(ids).last_hidden_state @ oracle.shared.weight.T
    assert_close(ours(ids).logits, want, "logits")


def test_old_files_with_copies_load(tmp_path: Path) -> None:
    oracle = transformers.BartForConditionalGeneration(tiny()).eval()
    noisy(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = dict(oracle.state_dict())
    assert {"lm_head.weight", "model.encoder.embed_tokens.weight"} <= set(tensors)
    torch.save(tensors | {"model.encoder.version": torch.tensor([3.0])}, tmp_path / "pytorch_model.bin")
    ours, ids = from_pretrained(tmp_path, architecture=GENERATION), text(MASKS["whole"][0])
    assert_close(ours(ids).logits, oracle(ids).logits, "logits")


# Layouts ---------------------------------------------------------------------------------


def test_lengths_and_offsets_are_the_same_batch() -> None:
    seq2seq.assert_layouts_are_the_same_batch(build("BartModel", bart.Config(**TINY)).eval(), 1)


def test_packed_texts_are_shifted_each_by_itself() -> None:
    model = build(GENERATION, bart.Config(**TINY)).eval()
    ids, mask = text(MASKS["source"][0]), MASKS["source"][0]
    ends = torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)])
    packed = model(ids[mask.bool()][None], offsets=ends)
    want = model(ids, lengths=mask.sum(1))
    assert torch.equal(packed.logits[0], want.logits[mask.bool()])
    labels = ids[mask.bool()][None]
    again = model(labels, offsets=ends, decoder_offsets=ends, labels=labels)
    assert torch.equal(again.logits, packed.logits)


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    seq2seq.assert_traces(
        build("BartModel", bart.Config(**TINY | {"encoder_layers": 1, "decoder_layers": 1})).eval(), 1
    )


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_dropout_follows_the_seed_and_training_mode(name: str) -> None:
    config = bart.Config(**TINY, **{"dropout": 0.0, name: 0.3})
    seq2seq.assert_dropout_follows_the_seed(build("BartModel", config), 1)


@pytest.mark.parametrize("architecture", ["BartForSequenceClassification", "BartForTokenClassification"])
def test_classifiers_have_a_dropout_of_their_own(architecture: str) -> None:
    ids = text(MASKS["whole"][0])
    for probability, differs in ((0.0, False), (0.5, True)):
        model = build(architecture, bart.Config(**TINY, dropout=0.0, classifier_dropout=probability)).train()
        assert torch.equal(model(ids).logits, model(ids).logits) != differs


# Translation -----------------------------------------------------------------------------


@pytest.fixture
def translator() -> Translator:
    torch.manual_seed(0)
    return Translator(build(GENERATION, bart.Config(**TINY)), source(bart.Config(**TINY | {"vocab_size": 61})))


def foreign(mask: Tensor) -> dict[str, Tensor]:
    ids = torch.randint(3, 61, mask.shape, generator=torch.Generator().manual_seed(7))
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@pytest.mark.parametrize("masks", ["right", "left"])
def test_translation_is_two_encoders_of_transformers(tmp_path: Path, translator: Translator, masks: str) -> None:
    noisy(translator.eval())
    translator.model.save_pretrained(tmp_path)
    theirs = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    new = Model(bart.FAMILY, "BartModel", bart.Config(**TINY | {"vocab_size": 61}))
    new.body.encoder = translator.source.encoder
    new.body.decoder.embeddings.words = new.body.encoder.embeddings.words
    new.save_pretrained(tmp_path / "source")
    first = transformers.BartModel.from_pretrained(tmp_path / "source").encoder.eval()
    mask, target = MASKS[masks]
    inputs, labels = foreign(mask), labels_of(target)
    embeds = first(**inputs).last_hidden_state
    decoder = {"labels": labels, "decoder_attention_mask": target}
    want = theirs(inputs_embeds=embeds, attention_mask=mask, **decoder)
    got = translator(**inputs, **decoder)
    assert_close(got.logits[target.bool()], want.logits[target.bool()], "logits")
    for loss in (want.loss, got.loss):
        (10 * loss).backward()
    assert_same_gradients(theirs, translator.model)
    got_gradient = translator.source.encoder.layers[0].feed_forward.inner.up.weight.grad
    assert_close(got_gradient, first.layers[0].fc1.weight.grad, "gradient of the source's layer")


def test_steps_train_what_the_paper_says(translator: Translator) -> None:
    inputs, labels = foreign(MASKS["right"][0]), labels_of(MASKS["right"][1])

    def trained(parameters: list[nn.Parameter]) -> set[str]:
        before = {name: p.detach().clone() for name, p in translator.named_parameters()}
        optimiser = torch.optim.SGD(parameters, lr=1.0)
        translator.train()(**inputs, labels=labels).loss.backward()
        optimiser.step()
        translator.zero_grad()
        return {name for name, p in translator.named_parameters() if not torch.equal(p, before[name])}

    of_source = {name for name, _ in translator.named_parameters() if name.startswith("source.")}
    first = trained(list(translator.first_step()))
    assert first == of_source | {
        "model.body.encoder.embeddings.positions.weight",
        "model.body.decoder.embeddings.positions.weight",
        "model.body.encoder.layers.0.attention.inner.qkv.weight",
        "model.body.encoder.layers.0.attention.inner.qkv.bias",
    }
    assert trained(list(translator.second_step())) == {name for name, _ in translator.named_parameters()}


def test_translators_are_checked(translator: Translator) -> None:
    with pytest.raises(ValueError, match="model: a BartForConditionalGeneration is allowed, got BartModel"):
        Translator(build("BartModel", bart.Config(**TINY)), translator.source)
    wider = source(bart.Config(**TINY | {"d_model": 52}))
    with pytest.raises(ValueError, match=r"source: an encoder as wide as the model \(26\) is allowed, got 52"):
        Translator(translator.model, wider)


# Sizes and settings ----------------------------------------------------------------------


def test_parameter_counts_of_the_published_sizes() -> None:
    assert count("BartModel", bart.Config.base()) == 139_420_416
    assert count(GENERATION, bart.Config.large()) == 406_291_456


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_attention_heads": 3}, r"d_model: a multiple of decoder_attention_heads \(3\)"),
        ({"activation_function": "geglu"}, "activation_function: one of gelu"),
        ({"classifier_dropout": 1.0}, r"classifier_dropout: in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bart.Config(**TINY | changes)


def test_settings_that_other_models_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder_layerdrop: 0\.0 is supported, got 0\.1"):
        bart.Config.from_dict(TINY | {"encoder_layerdrop": 0.1})
    assert bart.Config.from_dict(TINY).num_labels == 3


def test_bad_input_is_named() -> None:
    model = build("BartForSequenceClassification", bart.Config(**TINY))
    ids = draw((2, 5))
    with pytest.raises(ValueError, match=r"input_ids: a text with an <eos> \(2\) in each row"):
        model(ids)
    with pytest.raises(ValueError, match=r"input_ids: ids of the decoder's shape \(2, 4\) are allowed, got \(2, 5\)"):
        model(ids, decoder_input_ids=ids[:, 1:])
    with pytest.raises(ValueError, match="decoder_input_ids: at most 12 tokens"):
        model(ids, decoder_input_ids=draw((2, 13)))
