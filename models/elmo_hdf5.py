"""ELMo's published weights: options.json and an hdf5 file of TensorFlow's variables (allenai/bilm-tf,
``dump_weights``). Reading them needs h5py: ``pip install pkernels[elmo]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .elmo import Config
from .parts.files import read_json
from .parts.model import Model
from .pretrained import build

# Of options.json: our field, by its path there.
_FIELDS = {
    "n_characters": ("char_cnn", "n_characters"),
    "max_characters_per_token": ("char_cnn", "max_characters_per_token"),
    "char_dim": ("char_cnn", "embedding", "dim"),
    "filters": ("char_cnn", "filters"),
    "activation": ("char_cnn", "activation"),
    "n_highway": ("char_cnn", "n_highway"),
    "dim": ("lstm", "dim"),
    "projection_dim": ("lstm", "projection_dim"),
    "n_layers": ("lstm", "n_layers"),
    "cell_clip": ("lstm", "cell_clip"),
    "proj_clip": ("lstm", "proj_clip"),
    "use_skip_connections": ("lstm", "use_skip_connections"),
    "dropout": ("dropout",),
    "vocab_size": ("n_tokens_vocab",),
}
# What bilm-tf takes where a file says nothing.
_USUAL = {"n_highway": 0, "n_layers": 1, "cell_clip": None, "proj_clip": None, "use_skip_connections": False}


def read_options(path: str | Path) -> Config:
    """The config that an options.json describes.

    Raises:
        ValueError: Naming the file and the setting that is missing, or that the family does not support.
    """
    options, values = read_json(Path(path)), dict[str, Any](_USUAL)
    for name, where in _FIELDS.items():
        value: Any = options
        for key in where:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            values[name] = value
        elif name not in (*_USUAL, "dropout", "vocab_size"):
            raise ValueError(f"{path}: {'.'.join(where)}: missing")
    if values["n_characters"] == 261:  # of training; the id of a word that is not there is inference's
        values["n_characters"] = 262
    return Config.from_dict(values, str(path))


def from_hdf5(
    options: str | Path, weights: str | Path, *, architecture: str = "ElmoModel", dtype: torch.dtype = torch.float32
) -> Model:
    """A model with published weights, in evaluation mode; its head is new, as the files hold none.

    Args:
        options: The options.json.
        weights: The hdf5 file.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If a file is missing.
        ValueError: Naming the file and the variables that are missing or of the wrong shape, or the
            setting that is not supported.
    """
    for path in (options, weights):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: a local file is allowed (nothing is downloaded); there is none")
    model = build(architecture, read_options(options)).to(dtype)
    try:
        load_variables(model, _read(Path(weights)))
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    return model.eval()


def load_variables(model: Model, stored: Mapping[str, Tensor]) -> None:
    """Fill the body with variables under bilm-tf's names, in TensorFlow's layouts.

    Raises:
        ValueError: Naming all that are missing or of the wrong shape.
    """
    wanted = model.body.state_dict()
    problems: list[str] = []
    ours = {}
    for name, (variable, make) in variables(model.config).items():  # type: ignore[arg-type]
        if variable not in stored:
            problems.append(f"  missing: {variable}")
            continue
        ours[name] = make(stored[variable])
        if ours[name].shape != wanted[name].shape:
            shapes = f"{tuple(ours[name].shape)} instead of {tuple(wanted[name].shape)}"
            problems.append(f"  of the wrong shape: {variable}, as {name}: {shapes}")
    if problems:
        raise ValueError("\n".join(["the variables do not fit the config", *dict.fromkeys(problems)]))
    model.body.load_state_dict(ours)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py is needed to read ELMo's published weights: pip install h5py") from error
    found: dict[str, Tensor] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = torch.from_numpy(item[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
    except OSError as error:
        raise ValueError(f"{path}: corrupt or truncated: {error}") from error
    return found


def variables(c: Config) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """The body's parameters -> the variable there, and what makes the one of the other."""
    width = c.projection_dim
    names: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "characters.embedding.weight": ("char_embed", _with_none),
        "characters.projection.weight": ("CNN_proj/W_proj", Tensor.t),
        "characters.projection.bias": ("CNN_proj/b_proj", _same),
    }
    for n in range(len(c.filters)):
        names[f"characters.convolutions.{n}.weight"] = (f"CNN/W_cnn_{n}", _filters)
        names[f"characters.convolutions.{n}.bias"] = (f"CNN/b_cnn_{n}", _same)
    for n in range(c.n_highway):
        for part, there in (("transform", "transform"), ("gate", "carry")):
            names[f"characters.highways.{n}.{part}.weight"] = (f"CNN_high_{n}/W_{there}", Tensor.t)
            names[f"characters.highways.{n}.{part}.bias"] = (f"CNN_high_{n}/b_{there}", _same)
    for n in range(c.n_layers):
        for number, way in enumerate(("ahead", "back")):
            ours, cell = f"lstm.layers.{n}.{way}", f"RNN_{number}/RNN/MultiRNNCell/Cell{n}/LSTMCell"
            names[f"{ours}.input.weight"] = (f"{cell}/W_0", lambda x: _gates(x[:width].t()))
            names[f"{ours}.recurrent"] = (f"{cell}/W_0", lambda x: _gates(x[width:].t()))
            names[f"{ours}.input.bias"] = (f"{cell}/B", _bias)
            names[f"{ours}.projection"] = (f"{cell}/W_P_0", Tensor.t)
    return names


def _same(x: Tensor) -> Tensor:
    return x


def _with_none(x: Tensor) -> Tensor:
    """Id 0 is no character."""
    return torch.cat([x.new_zeros(1, x.shape[1]), x])


def _filters(x: Tensor) -> Tensor:
    return x.squeeze(0).permute(2, 1, 0)


def _gates(x: Tensor) -> Tensor:
    """TensorFlow's order of gates, i g f o, as ours."""
    i, g, f, o = x.chunk(4)
    return torch.cat([i, f, g, o])


def _bias(x: Tensor) -> Tensor:
    """TensorFlow's cell adds 1 to the gate that remembers."""
    i, f, g, o = _gates(x).chunk(4)
    return torch.cat([i, f + 1, g, o])
