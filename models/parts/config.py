"""What every family's ``Config`` shares: the way from and to a config.json."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

C = TypeVar("C", bound="BaseConfig")


@dataclass(frozen=True)
class BaseConfig:
    """Sizes and settings of a model, under the names that config.json files use.

    A family adds its fields, and in ``only`` the fields it holds fixed: any other value in a
    file is refused, because ignoring it would give other results than the model's.
    """

    model_type: ClassVar[str]
    only: ClassVar[Mapping[str, Collection[Any]]] = {}

    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")  # config.json: id2label

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any], source: str = "config.json") -> C:
        """The config that a config.json describes.

        Raises:
            ValueError: Naming ``source`` and the field, for a value of the wrong type or one
                that this family does not support.
        """
        for name, allowed in {"quantization_config": (None,), "pruned_heads": ({}, None), **cls.only}.items():
            if name in values and values[name] not in allowed:
                listed = " or ".join(map(repr, allowed))
                raise ValueError(f"{source}: {name}: {listed} is supported, got {values[name]!r}")
        fields: dict[str, Any] = {"labels": _labels(values, source, cls.labels)}
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.name != "labels" and field.name in values:
                fields[field.name] = _typed(f"{source}: {field.name}", values[field.name], hints[field.name])
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The fields of a config.json."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}
        fields |= {name: next(iter(allowed)) for name, allowed in self.only.items()}
        fields["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return {"model_type": self.model_type, **fields}

    def check_positive(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 is allowed, got {getattr(self, name)}")

    def check_probability(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: in [0, 1) is allowed, got {value}")

    def check_heads(self, width: str, heads: str) -> None:
        if getattr(self, width) % getattr(self, heads):
            raise ValueError(
                f"{width}: a multiple of {heads} ({getattr(self, heads)}) is allowed, got {getattr(self, width)}"
            )

    def check_choice(self, name: str, allowed: Collection[Any]) -> None:
        if getattr(self, name) not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ValueError(f"{name}: one of {listed} is allowed, got {getattr(self, name)!r}")


def _labels(values: Mapping[str, Any], source: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    names = values.get("id2label")
    if names is None:
        count = _typed(f"{source}: num_labels", values.get("num_labels", len(usual)), int)
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, Mapping) or sorted(names, key=str) != sorted(map(str, range(len(names)))):
        raise ValueError(f"{source}: id2label: an object with keys 0 to the number of labels is allowed, got {names!r}")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _typed(name: str, value: Any, hint: Any) -> Any:
    if _fits(value, hint):
        return frozen(value)
    raise ValueError(f"{name}: {_listed(hint)} is allowed, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if typing.get_args(hint):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (float, int) if hint is float else hint)


def _listed(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"a list of ({_listed(typing.get_args(hint)[0])})"
    choices = typing.get_args(hint)
    if choices:
        return " or ".join(map(_listed, choices))
    return {type(None): "null", float: "float or int"}.get(hint, hint.__name__)


def spread(name: str, value: Any, count: int, of: str) -> tuple[Any, ...]:
    """A setting that is one for all, or a tuple with one for each: as such a tuple.

    Example:
        >>> spread("window", 8, 3, "layers"), spread("window", (2, 4), 2, "layers")
        ((8, 8, 8), (2, 4))
    """
    values = value if isinstance(value, tuple) else (value,) * count
    if len(values) != count:
        raise ValueError(f"{name}: one number or a list of one for each of the {count} {of} is allowed, got {value!r}")
    return values


def frozen(value: Any) -> Any:
    """Lists as tuples, at any depth: configs are compared and hashed."""
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value
