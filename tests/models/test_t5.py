"""T5 against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from pkernels.models import build, from_pretrained, t5
from pkernels.models.parts.layouts import Masked, Whole
from pkernels.models.parts.relative import RelativeBias, bucket

from . import seq2seq
from .agreement import count
from .pairs import assert_close
from .seq2seq import MASKS, WORDS, given, labels_of, noisy, pair

# Heads of 13, together no wider than the model; buckets whose far end is within the texts.
TINY = {
    "vocab_size": WORDS,
    "d_model": 24,
    "d_kv": 13,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}
GENERATION = "T5ForConditionalGeneration"


def tiny(**changes) -> transformers.T5Config:
    return transformers.T5Config(**TINY | {"decoder_start_token_id": 0} | changes)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("architecture", ["T5Model", GENERATION])
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, masks: str) -> None:
    kind = {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3} if masks == "right" else {}
    labels = {"labels": labels_of(MASKS[masks][1])} if architecture == GENERATION else {}
    seq2seq.assert_head_agrees(tmp_path, architecture, tiny(**kind), MASKS[masks], labels)


@pytest.mark.parametrize("masks", ["whole", "right", "left", "holes"])
def test_the_encoder_alone_agrees_with_transformers(tmp_path: Path, masks: str) -> None:
    oracle, ours = pair(tmp_path, "T5EncoderModel", tiny())
    mask = MASKS[masks][0]
    inputs = {name: x for name, x in given(MASKS[masks], 0).items() if "decoder" not in name}
    seq2seq.assert_agrees(oracle, ours, inputs, {}, {"encoder": mask.bool()})


def test_labels_are_what_the_decoder_reads_a_place_later(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, GENERATION, tiny())
    ids, labels = given(MASKS["whole"], 0)["input_ids"], labels_of(MASKS["target"][1])
    want, got = (model(input_ids=ids, labels=labels) for model in (oracle, ours))
    assert_close(got.logits, want.logits, "logits")
    assert_close(got.loss, want.loss, "loss")


# An output of its own, and whether it is scaled ------------------------------------------


@pytest.fixture
def own_output(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """What transformers 5 writes of version 1.1: that the output is tied, and its weights all the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    ours = build(GENERATION, t5.Config(**TINY, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    noisy(ours)
    ours.save_pretrained(first)
    oracle = transformers.T5ForConditionalGeneration.from_pretrained(first).eval()
    oracle.save_pretrained(second)
    assert json.loads((second / "config.json").read_text())["tie_word_embeddings"]
    return second, oracle


def test_an_output_of_its_own_is_read_by_the_tensors(own_output: tuple[Path, torch.nn.Module]) -> None:
    folder, oracle = own_output
    oracle.set_attn_implementation("eager")
    ours = from_pretrained(folder)
    assert (ours.config.tie_word_embeddings, ours.config.scale_decoder_outputs) == (False, False)
    real = {"encoder": MASKS["right"][0].bool(), "decoder": MASKS["right"][1].bool()}
    labels = {"labels": labels_of(MASKS["right"][1])}
    seq2seq.assert_agrees(oracle, ours, given(MASKS["right"], 0), labels, real)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_tied_output_is_scaled_as_the_file_says(tmp_path: Path, scaled: bool) -> None:
    oracle, ours = pair(tmp_path, GENERATION, tiny(tie_word_embeddings=None if scaled else False))
    assert (ours.config.tie_word_embeddings, ours.config.scale_decoder_outputs) == (True, scaled)
    inputs = given(MASKS["whole"], 0)
    assert_close(ours(**inputs).logits, oracle(**inputs).logits, "logits")


def test_old_files_with_copies_load(tmp_path: Path) -> None:
    oracle = transformers.T5ForConditionalGeneration(tiny()).eval()
    noisy(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = dict(oracle.state_dict())
    assert "lm_head.weight" in tensors and "encoder.embed_tokens.weight" in tensors
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    torch.save(tensors | {name: torch.ones(8, 2)}, tmp_path / "pytorch_model.bin")
    ours = from_pretrained(tmp_path, architecture=GENERATION)
    inputs = given(MASKS["whole"], 0)
    assert_close(ours(**inputs).logits, oracle(**inputs).logits, "logits")


def test_the_encoder_alone_leaves_the_decoder_out(tmp_path: Path) -> None:
    oracle, _ = pair(tmp_path, GENERATION, tiny())
    with pytest.warns(UserWarning, match=r"T5EncoderModel has no use for decoder\.block\.0"):
        ours = from_pretrained(tmp_path, architecture="T5EncoderModel")
    ids = given(MASKS["whole"], 0)["input_ids"]
    assert_close(ours(ids).last_hidden_state, oracle.encoder(ids).last_hidden_state, "states")


@pytest.mark.parametrize("architecture", t5.HEADS)
@pytest.mark.parametrize("kind", ["v1.0", "v1.1"])
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str, kind: str) -> None:
    version = {} if kind == "v1.0" else {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    inputs = given(MASKS["whole"], 0)
    if architecture == "T5EncoderModel":
        inputs = {"input_ids": inputs["input_ids"]}
    seq2seq.assert_transformers_loads(tmp_path, architecture, t5.Config(**TINY, **version), inputs)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert ("lm_head.weight" in names) == (kind == "v1.1" and architecture == GENERATION)


# Layouts ---------------------------------------------------------------------------------


def test_lengths_and_offsets_are_the_same_batch() -> None:
    seq2seq.assert_layouts_are_the_same_batch(build("T5Model", t5.Config(**TINY)).eval(), 0)


def test_what_was_encoded_before_stands_for_the_source() -> None:
    model = build("T5Model", t5.Config(**TINY)).eval()
    encoder = build("T5EncoderModel", t5.Config(**TINY)).eval()
    encoder.body.encoder.load_state_dict(model.body.encoder.state_dict())
    inputs = given(MASKS["right"], 0)
    want = model(**inputs).last_hidden_state
    ids = inputs.pop("input_ids")
    encoded = encoder(ids, attention_mask=inputs["attention_mask"])
    assert_close(model(encoder_outputs=encoded, **inputs).last_hidden_state, want, "states")


def test_inputs_embeds_stand_for_words(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "T5Model", tiny())
    noise = torch.Generator().manual_seed(5)
    inputs = {
        "inputs_embeds": torch.randn(2, 7, 24, generator=noise),
        "decoder_inputs_embeds": torch.randn(2, 3, 24, generator=noise),
    }
    assert_close(ours(**inputs).last_hidden_state, oracle(**inputs).last_hidden_state, "states")


@pytest.mark.compiles
def test_traces_in_one_graph() -> None:
    seq2seq.assert_traces(build("T5Model", t5.Config(**TINY | {"num_layers": 1, "num_decoder_layers": 1})).eval(), 0)


def test_dropout_follows_the_seed_and_training_mode() -> None:
    seq2seq.assert_dropout_follows_the_seed(build("T5Model", t5.Config(**TINY)), 0)


# Position biases -------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("number", "farthest"), [(32, 128), (8, 6), (64, 1000)])
def test_buckets_are_transformers(sides: int, number: int, farthest: int) -> None:
    distance = torch.arange(-3000, 3001)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    want = theirs(distance, bidirectional=sides == 2, num_buckets=number, max_distance=farthest)
    assert torch.equal(bucket(distance, bins=number, longest=farthest, sides=sides), want)


def test_a_bias_stands_at_its_distance_from_the_last_query() -> None:
    bias = RelativeBias(3, bins=8, longest=6, sides=1)
    values, queries, keys = bias(2, 5).values, 2, 5
    for i in range(queries):
        for j in range(keys):
            step = torch.tensor(j - (i + keys - queries))
            assert torch.equal(
                values[:, j - i + queries - 1], bias.table.weight[:, bucket(step, bins=8, longest=6, sides=1)]
            )


def test_nothing_that_is_saved_is_of_the_size_of_all_pairs() -> None:
    """Forward saves, and backward makes, tensors in proportion to the length alone."""
    size = 512
    model = build("T5EncoderModel", t5.Config(**TINY))
    largest = 0

    def look(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(look, lambda x: x):
        out = model(torch.full((1, size), 5)).last_hidden_state
    out.sum().backward()
    assert model.body.encoder.bias.table.weight.grad.abs().max() > 0
    assert size * 24 <= largest < size * size // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keys_hidden_beside_a_bias_weigh_nothing(dtype: torch.dtype) -> None:
    noise = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 8, generator=noise).to(dtype) for _ in range(3))
    bias = RelativeBias(2, bins=8, longest=6)(5)
    real = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]]).bool()
    got = Masked(real).attend(q, k, v, t5.dense, bias, 0.0, 1.0)
    other = torch.where(real[:, None, :, None], k, 100.0), torch.where(real[:, None, :, None], v, 100.0)
    assert torch.equal(Masked(real).attend(q, *other, t5.dense, bias, 0.0, 1.0), got)
    assert not torch.equal(Whole(2, 5, q.device).attend(q, k, v, t5.dense, bias, 0.0, 1.0), got)


def test_keys_are_hidden_in_one_feature_more() -> None:
    q = torch.zeros(1, 1, 2, 256)
    with pytest.raises(NotImplementedError, match="attention_mask: beside a position bias, .* up to 255 wide, got 256"):
        Masked(torch.tensor([[False, True]])).attend(q, q, q, t5.dense, RelativeBias(1, bins=8, longest=6)(2), 0.0)


# Sizes and settings ----------------------------------------------------------------------


def test_parameter_counts_of_the_published_sizes() -> None:
    counts = {
        "small": 60_506_624,
        "base": 222_903_552,
        "large": 737_668_096,
        "b3": 2_851_598_336,
        "b11": 11_307_321_344,
    }
    for size, number in counts.items():
        assert count(GENERATION, getattr(t5.Config, size)()) == number, size
    newer = {"small": 76_961_152, "base": 247_577_856, "large": 783_150_080, "xl": 2_849_757_184, "xxl": 11_135_332_352}
    for size, number in newer.items():
        assert count(GENERATION, t5.Config.v1_1(size)) == number, size


def test_initial_values_have_the_spread_of_mesh_tensorflow() -> None:
    torch.manual_seed(0)
    config = t5.Config(vocab_size=500, d_model=64, d_kv=16, d_ff=256, num_layers=1, num_heads=8)
    layer = build("T5Model", config).body.encoder.layers[0]
    qkv = layer.attention.inner.qkv.weight.detach()
    want = {
        (64 * 16) ** -0.5: qkv[:128],
        64**-0.5: qkv[128:],
        128**-0.5: layer.attention.inner.out.weight.detach(),
        256**-0.5: layer.feed_forward.inner.down.weight.detach(),
    }
    for std, weight in want.items():
        assert abs(float(weight.std()) / std - 1) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-swiglu"}, "feed_forward_proj: one of"),
        ({"relative_attention_num_buckets": 6}, "relative_attention_num_buckets: a multiple of 4"),
        ({"relative_attention_max_distance": 4}, "relative_attention_max_distance: more than 4"),
        ({"d_kv": 0}, "d_kv: at least 1"),
        ({"dropout_rate": 1.0}, r"dropout_rate: in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        t5.Config(**TINY | changes)


def test_bad_input_is_named() -> None:
    model = build(GENERATION, t5.Config(**TINY))
    ids = torch.full((2, 5), 3)
    with pytest.raises(ValueError, match="decoder_input_ids, decoder_inputs_embeds: one of them is allowed, got none"):
        model(ids)
    with pytest.raises(ValueError, match="decoder_input_ids: as many rows as the encoder's"):
        model(ids, decoder_input_ids=ids[:1])
    with pytest.raises(ValueError, match="decoder_input_ids: ids from 0 to 96"):
        model(ids, decoder_input_ids=ids + 97)
    with pytest.raises(ValueError, match="offsets, decoder_offsets: both or none"):
        model(ids[:1], decoder_input_ids=ids[:1], offsets=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="size: one of small, base"):
        t5.Config.v1_1("huge")
