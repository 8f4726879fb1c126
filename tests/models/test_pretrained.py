"""Reading and writing Hugging Face directories: every layout of files, every kind of fault."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pkernels.models import bert, build, from_pretrained

from .pairs import fill_with_noise

SIZES = {
    "vocab_size": 31,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
}
IDS = torch.tensor([[1, 5, 30, 7]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a BertForPreTraining that transformers wrote."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES))
    fill_with_noise(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change) -> dict[str, torch.Tensor]:
    """Rewrite model.safetensors with ``change(tensors)``."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return tensors


def logits(folder: Path) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has no use for.*")
        return from_pretrained(folder)(IDS).prediction_logits


@pytest.mark.parametrize("architecture", bert.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    config = bert.Config(**SIZES, labels=("bad", "fair", "good"), hidden_act="relu", layer_norm_eps=1e-6)
    if architecture == "BertForQuestionAnswering":
        config = bert.Config(**SIZES)
    model = build(architecture, config).eval()
    fill_with_noise(model)
    model.save_pretrained(tmp_path / "new" / "folder")
    theirs, report = getattr(transformers, architecture).from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    ids = IDS[None] if architecture == "BertForMultipleChoice" else IDS
    want, got = theirs.eval()(ids), model(ids)
    for name in vars(got):
        if torch.is_tensor(getattr(got, name)):
            torch.testing.assert_close(getattr(got, name), want[name], rtol=0, atol=1e-5)
    if architecture == "BertForSequenceClassification":
        assert theirs.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    again = from_pretrained(tmp_path / "new" / "folder")
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_loaded_models_train_and_leave_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model = from_pretrained(folder)
    assert not model.training
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_dtype_is_the_one_asked_for(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    assert from_pretrained(folder)(IDS).prediction_logits.dtype == torch.float32
    model = from_pretrained(folder, dtype=torch.bfloat16)
    assert model(IDS).prediction_logits.dtype == torch.bfloat16
    model.save_pretrained(folder / "narrow")
    assert json.loads((folder / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"


def test_pickled_weights_with_old_names_are_the_same_model(folder: Path) -> None:
    want = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(16)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    torch.save(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(folder), want)


@pytest.mark.parametrize(("name", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
def test_shards_are_the_same_model(folder: Path, name: str, save) -> None:
    want = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    stem, suffix = name.split(".")
    places = {}
    for i, half in enumerate(halves, 1):
        shard = f"{stem}-{i:05}-of-00002.{suffix}"
        save({key: tensors[key] for key in half}, folder / shard)
        places.update(dict.fromkeys(half, shard))
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(logits(folder), want)
    (folder / shard).unlink()
    with pytest.raises(FileNotFoundError, match=shard):
        from_pretrained(folder)
    places["extra"] = "../outside.bin"
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match="shards beside the index"):
        from_pretrained(folder)


def test_weights_of_other_heads_are_left_out_with_one_warning(folder: Path) -> None:
    full = from_pretrained(folder)
    with pytest.warns(UserWarning, match="BertForMaskedLM has no use for .*bert.pooler.*cls.seq_relationship") as seen:
        model = from_pretrained(folder, architecture="BertForMaskedLM")
    assert sum("has no use for" in str(w.message) for w in seen) == 1
    assert torch.equal(model(IDS).logits, full(IDS).prediction_logits)


def test_body_files_have_no_prefix_and_either_form_loads(folder: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder)
    model.save_pretrained(folder)
    assert "embeddings.LayerNorm.weight" in load_file(folder / "model.safetensors")
    bare = from_pretrained(folder)(IDS).last_hidden_state
    edit_weights(folder, lambda tensors: {f"bert.{name}": tensor for name, tensor in tensors.items()})
    assert torch.equal(from_pretrained(folder)(IDS).last_hidden_state, bare)


def test_a_tied_copy_that_differs_is_refused(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors | {"cls.predictions.decoder.weight": torch.zeros(31, 12)})
    with pytest.raises(ValueError, match=r"cls\.predictions\.decoder\.weight: must equal"):
        from_pretrained(folder)


def test_all_tensors_that_do_not_fit_are_listed_in_one_error(folder: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["bert.encoder.layer.1.attention.self.key.bias"]
        tensors["bert.encoder.layer.0.output.dense.weight"] = torch.zeros(12, 21)
        return tensors | {"bert.encoder.layer.2.output.dense.weight": torch.zeros(1), "no.such.name": torch.zeros(1)}

    edit_weights(folder, damage)
    with pytest.raises(ValueError, match=r"model\.safetensors") as raised:
        from_pretrained(folder)
    lines = str(raised.value).splitlines()[1:]
    assert lines == [
        "  missing: bert.encoder.layer.1.attention.self.key.bias",
        "  unknown: bert.encoder.layer.2.output.dense.weight, no.such.name",
        "  of the wrong shape: bert.encoder.layer.0.output.dense.weight: (12, 21) instead of (12, 20)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bort"}, "model_type: one of albert, b.* is allowed, got 'bort'"),
        ({"architectures": ["BertLMHeadModel"]}, "architectures: one of BertModel, .* got 'BertLMHead"),
        ({"architectures": None}, "architectures: one of BertModel, .* got None"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: 'absolute' is supported"),
        ({"is_decoder": True}, "is_decoder: False is supported, got True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: True is supported"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "geglu"}, "hidden_act: one of gelu"),
        ({"problem_type": "ranking"}, "problem_type: one of None, single_label"),
        ({"hidden_size": "12"}, "hidden_size: int is allowed, got '12'"),
        ({"hidden_size": True}, "hidden_size: int is allowed"),
        ({"num_attention_heads": 5}, r"hidden_size: a multiple of num_attention_heads \(5\)"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: at least 1"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob: in \[0, 1\)"),
        ({"id2label": ["a", "b"]}, "id2label: an object"),
    ],
)
def test_settings_that_are_not_supported_are_refused(folder: Path, changes: dict, message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        from_pretrained(folder)
    assert "config.json" in str(raised.value)


def test_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="bert-base-uncased: a local directory is allowed"):
        from_pretrained("bert-base-uncased")
    weights = (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors or pytorch_model\.bin"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"config\.json: missing; the directory holds {weights.name}"):
        from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_broken_json_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: a JSON object is allowed"):
        from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_named(folder: Path, name: str, kept: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save = save_file if name == "model.safetensors" else torch.save
    save(tensors, folder / name)
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{name}: corrupt"):
        from_pretrained(folder)


class _Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("content", [_Harm(), [torch.zeros(1)], {"a": {"b": torch.zeros(1)}}])
def test_pickles_of_more_than_tensors_are_refused(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        from_pretrained(folder)
