"""Reading and writing the files of a Hugging Face model directory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_SAFE, _PICKLE = "model.safetensors", "pytorch_model.bin"


def read_config(local_dir: str | Path) -> dict[str, Any]:
    """The object in ``config.json``.

    Raises:
        FileNotFoundError: If the directory or the file is missing.
        ValueError: If the file holds no JSON object.
    """
    folder = Path(local_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: a local directory is allowed (nothing is downloaded); there is none")
    path = folder / "config.json"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise FileNotFoundError(f"{path}: missing; the directory holds {found}")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or a ValueError that says where it breaks."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: a JSON object is allowed; {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object is allowed, got {type(value).__name__}")
    return value


def read_tensors(local_dir: str | Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights file (or index of shards) found, and its named tensors in main memory.

    Raises:
        FileNotFoundError: If there is none, or a shard is missing.
        ValueError: If a file is corrupt or truncated, or holds more than tensors.
    """
    folder = Path(local_dir)
    for name, read in ((_SAFE, _read_safetensors), (_PICKLE, _read_pickle)):
        if (folder / name).is_file():
            return folder / name, read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return index, _read_shards(index, read)
    raise FileNotFoundError(f"{folder}: {_SAFE} or {_PICKLE} (or either's .index.json) is allowed; there is none")


def _read_shards(index: Path, read: Any) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise ValueError(f"{index}: weight_map: an object of names and file names is allowed, got {places!r}")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        path = index.parent / shard
        if path.parent.resolve() != index.parent.resolve():
            raise ValueError(f"{index}: shards beside the index are allowed, got {shard!r}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; {index.name} names it")
        tensors.update(read(path))
    absent = sorted(set(places) - set(tensors))
    if absent:
        raise ValueError(f"{index}: names tensors that no shard holds: {', '.join(absent)}")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: corrupt or truncated: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: corrupt, truncated or more than tensors: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(t, Tensor) for t in value.values()):
        raise ValueError(f"{path}: a dict of tensors is allowed, got {type(value).__name__}")
    return value


def write(local_dir: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``."""
    folder = Path(local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory, as slices of a stacked parameter do.
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, folder / _SAFE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
