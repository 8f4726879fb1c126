"""``from_pretrained``: from a Hugging Face directory to a model."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .parts import files
from .parts.config import BaseConfig
from .parts.keys import KeyMap
from .parts.model import Family, Model

# model_type in config.json -> module of the family.
FAMILIES = {
    "albert": "albert",
    "bart": "bart",
    "bert": "bert",
    "big_bird": "bigbird",
    "clip": "clip",
    "clip_text_model": "clip_text",
    "clip_vision_model": "clip_vision",
    "distilbert": "distilbert",
    "electra": "electra",
    "elmo": "elmo",
    "gpt2": "gpt2",
    "gpt3": "gpt3",
    "gpt_neo": "gpt_neo",
    "longformer": "longformer",
    "reformer": "reformer",
    "roberta": "roberta",
    "t5": "t5",
    "transfo-xl": "transformer_xl",
    "unilm": "unilm",
    "vit": "vit",
    "xlnet": "xlnet",
}

# How timm, which writes no model_type, begins the name of an architecture -> module of the family.
TIMM = {"vit_": "vit"}


def family(model_type: str) -> Family:
    """The family of a ``model_type``, imported when it is first needed."""
    return importlib.import_module(f".{FAMILIES[model_type]}", __package__).FAMILY


def build(architecture: str, config: BaseConfig) -> Model:
    """A new model with initial weights, as its paper draws them.

    Args:
        architecture: As in config.json, such as "BertForMaskedLM".

    Example:
        >>> from pkernels.models import bert, build
        >>> config = bert.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
        >>> build("BertModel", config)(torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
        torch.Size([1, 3, 12])
    """
    one = family(config.model_type)
    if architecture not in one.heads:
        raise ValueError(f"architecture: one of {', '.join(one.heads)} is allowed, got {architecture!r}")
    return Model(one, architecture, config)


def from_pretrained(
    local_dir: str | Path, *, architecture: str | None = None, dtype: torch.dtype = torch.float32
) -> Model:
    """The model in a Hugging Face directory, in evaluation mode.

    Args:
        local_dir: Holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``,
            whole or in shards with an index.
        architecture: One of the family's, if not the one that config.json names, or of a part
            of it, such as CLIP's "CLIPTextModel". Weights that it does not use are left out, of
            the same part with a warning.
        dtype: Of the parameters.

    Raises:
        FileNotFoundError: If the directory or a file is missing.
        ValueError: Naming the file, what was found and what is allowed: for a corrupt or
            truncated file, an unknown ``model_type`` or architecture, a setting that the
            family does not support, and for missing, unknown or mis-shaped tensors.

    To put a new head on trained weights, ``build`` the model and load the body alone:
    ``new.body.load_state_dict(trained.body.state_dict())``.
    """
    path = Path(local_dir) / "config.json"
    values = _translated(files.read_config(local_dir), path)
    model_type = values.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model_type: one of {', '.join(FAMILIES)} is allowed, got {model_type!r}")
    one = family(model_type)
    if architecture is not None and architecture in one.towers:
        values = one.towers[architecture](values)
        one = family(values["model_type"])
    architecture = _architecture(architecture, values, one, path)
    config = one.config.from_dict(values, str(path))
    weights, theirs = files.read_tensors(local_dir)
    config, theirs = one.stored(architecture, config, theirs)
    with torch.device("meta"):
        model = Model(one, architecture, config)
    _fill(model, theirs, weights, dtype)
    return model.eval()


def _translated(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config.json of timm's in transformers' words; one of transformers' as it is."""
    name = str(values.get("architecture"))
    module = next((module for begin, module in TIMM.items() if name.startswith(begin)), None)
    if "model_type" in values or module is None:
        return values
    try:
        return importlib.import_module(f".{module}", __package__).translated(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _architecture(given: str | None, values: dict[str, Any], one: Family, path: Path) -> str:
    names = [given] if given else values.get("architectures") or [None]
    for name in names:
        if name in one.heads:
            return name
    where = "architecture" if given else f"{path}: architectures"
    raise ValueError(f"{where}: one of {', '.join(one.heads)} is allowed, got {names[0]!r}")


def _fill(model: Model, theirs: dict[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Put the file's tensors into a model on the meta device."""
    keys = model.family.keys_of(theirs)
    wanted = keys.export(model.state_dict())
    known = {*wanted, *_other_heads(model, keys)}
    try:
        found = keys.canonical(theirs, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if _leave_out(model, keys, found, path):
        wanted = keys.export(model.state_dict())
    _compare(found, wanted, known, path)
    unused = sorted(set(found) - set(wanted))
    if unused:
        warnings.warn(f"{path}: {model.architecture} has no use for {', '.join(unused)}: left out", stacklevel=4)
    ours = keys.collect(model.state_dict(), {name: found[name].to(dtype) for name in wanted})
    model.load_state_dict(ours, assign=True)


def _leave_out(model: Model, keys: KeyMap, found: dict[str, Tensor], path: Path) -> list[str]:
    """The optional parts of a model of which the file has nothing; the model loses them."""
    absent = []
    for name in model.family.optional.get(model.architecture, ()):
        part = {key: x for key, x in model.state_dict().items() if key.startswith(f"{name}.")}
        if part and not set(keys.export(part)) & set(found):
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, None)
            absent.append(name)
    if absent:
        warnings.warn(f"{path}: holds no {', '.join(absent)}: {model.architecture} goes without", stacklevel=5)
    return absent


def _other_heads(model: Model, keys: KeyMap) -> set[str]:
    """Names in files of all the family's architectures."""
    family = model.family
    names: set[str] = set()
    parts = [("head", make) for make in family.heads.values()]
    if family.bodies:
        parts += [("body", make) for make in (family.body, *family.bodies.values())]
    for part, make in parts:
        with torch.device("meta"):
            module = nn.ModuleDict({part: make(model.config)})
        names.update(keys.export(module.state_dict()))
    return names


def _compare(found: dict[str, Tensor], wanted: dict[str, Tensor], known: set[str], path: Path) -> None:
    shapes = [
        f"{name}: {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems = {
        "missing": sorted(set(wanted) - set(found)),
        "unknown": sorted(set(found) - known),
        "of the wrong shape": shapes,
    }
    lines = [f"  {what}: {', '.join(names)}" for what, names in problems.items() if names]
    if lines:
        raise ValueError(f"{path}: the tensors do not fit config.json\n" + "\n".join(lines))
