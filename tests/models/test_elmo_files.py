"""ELMo's files: ours, the authors', and the authors' own small model."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from pkernels.models import build, elmo, from_pretrained
from pkernels.models.elmo import LSTMStates
from pkernels.models.elmo_hdf5 import from_hdf5, load_variables, read_options

from . import bilm
from .test_elmo import TINY, pair


@pytest.mark.parametrize("architecture", elmo.HEADS)
def test_what_was_saved_loads(tmp_path: Path, architecture: str) -> None:
    _, _, model = pair(torch.float32, architecture, cell_clip=None)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "elmo"
    again = from_pretrained(tmp_path)
    assert again.config == model.config and again.architecture == architecture
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_the_language_models_weights_serve_a_task(tmp_path: Path) -> None:
    _, _, model = pair(torch.float32)
    whole = build("ElmoForBidirectionalLM", model.config)
    whole.body.load_state_dict(model.body.state_dict())
    whole.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="missing: mix.gamma, mix.weights"):
        from_pretrained(tmp_path, architecture="ElmoModel")


def options(c: elmo.Config) -> dict:
    """The options.json of a config."""
    return {
        "char_cnn": {
            "activation": c.activation, "embedding": {"dim": c.char_dim}, "filters": [list(x) for x in c.filters],
            "max_characters_per_token": c.max_characters_per_token, "n_characters": 261, "n_highway": c.n_highway,
        },
        "lstm": {
            "cell_clip": c.cell_clip, "dim": c.dim, "n_layers": c.n_layers, "proj_clip": c.proj_clip,
            "projection_dim": c.projection_dim, "use_skip_connections": True,
        },
        "dropout": c.dropout, "n_tokens_vocab": c.vocab_size,
    }  # fmt: skip


def test_published_files_load(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    config, variables, model = pair(torch.float32)
    (tmp_path / "options.json").write_text(json.dumps(options(config)))
    with h5py.File(tmp_path / "weights.hdf5", "w") as file:
        for name, x in variables.items():
            file[name] = x.detach().numpy()
    loaded = from_hdf5(tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert loaded.config == config
    assert all(torch.equal(x, model.body.state_dict()[name]) for name, x in loaded.body.state_dict().items())
    (tmp_path / "weights.hdf5").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="weights.hdf5: corrupt or truncated"):
        from_hdf5(tmp_path / "options.json", tmp_path / "weights.hdf5")


def test_without_h5py_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "options.json").write_text(json.dumps(options(elmo.Config(**TINY))))
    (tmp_path / "weights.hdf5").touch()
    with pytest.raises(ImportError, match="h5py is needed .*: pip install"):
        from_hdf5(tmp_path / "options.json", tmp_path / "weights.hdf5")


def test_variables_that_do_not_fit_are_named() -> None:
    _, variables, model = pair(torch.float32)
    del variables["CNN/b_cnn_1"]
    variables[f"{bilm.cell_name(1, 0)}/W_P_0"] = torch.zeros(13, 4)
    with pytest.raises(
        ValueError, match=r"(?s)missing: CNN/b_cnn_1.*W_P_0, as lstm.layers.0.back.projection: \(4, 13\)"
    ):
        load_variables(model, variables)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("lstm", "use_skip_connections"), False, "use_skip_connections: True is supported"),
        (("char_cnn", "activation"), "selu", "activation: one of relu, tanh"),
        (("char_cnn",), None, r"char_cnn.n_characters: missing"),
        (("lstm", "cell_clip"), -1, "cell_clip: more than 0"),
    ],
)
def test_options_that_are_not_supported_are_named(tmp_path: Path, place: tuple, value: object, message: str) -> None:
    given = options(elmo.Config(**TINY))
    where = given if len(place) == 1 else given[place[0]]
    where[place[-1]] = value
    (tmp_path / "options.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=f"options.json: {message}"):
        read_options(tmp_path / "options.json")


def fixture() -> Path:
    """The authors' own small model and what it gave, which lie in allennlp's tests."""
    folder = os.environ.get("PKERNELS_ELMO_FIXTURE")
    if folder is None:
        spec = importlib.util.find_spec("allennlp")
        places = [] if spec is None else list(spec.submodule_search_locations or [])
        folder = next((f"{place}/tests/fixtures/elmo" for place in places), "")
    if not (Path(folder) / "lm_weights.hdf5").is_file():
        pytest.skip(
            "the fixture is missing: PKERNELS_ELMO_FIXTURE may name allennlp/tests/fixtures/elmo of allennlp 0.9.0"
        )
    pytest.importorskip("h5py", reason="h5py is not installed")
    return Path(folder)


def test_the_authors_embeddings_are_reproduced() -> None:
    """Ten batches of three sentences, whose states carry on (the published way to run it)."""
    folder = fixture()
    import h5py

    model = from_hdf5(folder / "options.json", folder / "lm_weights.hdf5")
    sentences = json.loads((folder / "sentences.json").read_text())
    files = [h5py.File(folder / f"lm_embeddings_{k}.hdf5") for k in range(3)]
    states: LSTMStates | None = None
    for i in range(10):
        ids, lengths = elmo.character_ids([sentences[k][i].split() for k in range(3)])
        with torch.no_grad():
            out = model(ids, lengths=lengths, states=states, output_hidden_states=True)
        states = out.states
        for k in range(3):
            want = torch.cat([*torch.from_numpy(files[k][str(i)][...])], -1)
            assert (out.hidden_states[-1][k, : lengths[k]] - want).abs().max() < 1e-5
