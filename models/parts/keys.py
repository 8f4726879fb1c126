"""The names that a published checkpoint gives to our parameters.

A family writes its names down once, as a table; loading, saving and comparing gradients all
read it. ``{}`` stands for a number (the layer).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Old files call a LayerNorm's parameters so (google-research/bert's, from TensorFlow).
_LEAVES = {"gamma": "weight", "beta": "bias"}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Same:
    """One tensor there is one parameter here."""

    name: str

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor,)

    def join(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)


@dataclass(frozen=True)
class Unsqueezed(Same):
    """One tensor there, with ``ones`` leading dimensions of 1 that the parameter here lacks."""

    ones: int

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor.reshape(*[1] * self.ones, *tensor.shape),)

    def join(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].reshape(tensors[0].shape[self.ones :])


@dataclass(frozen=True)
class Stacked:
    """Several tensors there are one parameter here, one above the other."""

    names: tuple[str, ...]

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.chunk(len(self.names))

    def join(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)


@dataclass(frozen=True)
class Transposed(Same):
    """Matrices there are ``(in, out)``: the Conv1D of OpenAI's GPT-2 and of transformers'."""

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor.t(),)

    def join(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0].t().contiguous()


@dataclass(frozen=True)
class KeyMap:
    """Our names to theirs.

    Args:
        prefix: What files with a head put before the body's names, and files without do not.
        rules: Path of a module or parameter here -> :class:`Same` or :class:`Stacked` path there.
        tied: Names there that repeat another tensor: allowed to be absent, or to be the only copy.
        ignored: Patterns of names there that hold no weights of this model.
    """

    prefix: str
    rules: Mapping[str, Same | Stacked]
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def theirs(self, ours: str) -> tuple[Same | Stacked, list[str]]:
        """The rule for one of our parameters, and its names there.

        Example:
            >>> keys = KeyMap("bert", {"layers.{}.norm": Same("bert.layer.{}.LayerNorm")})
            >>> keys.theirs("layers.3.norm.bias")[1]
            ['bert.layer.3.LayerNorm.bias']
        """
        numbers = _NUMBER.findall(ours)
        # A layer's number stands for any; one behind it may be meant as it is, as in a pair.
        for parts in (_NUMBER.sub("{}", ours).split("."), _NUMBER.sub("{}", ours, count=1).split(".")):
            for end in range(len(parts), 0, -1):
                rule = self.rules.get(".".join(parts[:end]))
                if rule is not None:
                    return rule, [".".join([name.format(*numbers), *parts[end:]]) for name in rule.names]
        raise KeyError(f"no rule names the parameter {ours}")

    def export(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named tensors of ours under their names."""
        out: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            rule, names = self.theirs(name)
            out.update(zip(names, rule.split(tensor), strict=True))
        return out

    def collect(self, ours: Iterable[str], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of :meth:`export`, for the parameters named in ``ours``."""
        out = {}
        for name in ours:
            rule, names = self.theirs(name)
            out[name] = rule.join([theirs[n] for n in names])
        return out

    def canonical(self, theirs: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of a file under the names of :meth:`export`: aliases resolved, the prefix
        added where ``known`` names want it, tied copies and buffers left out.

        Raises:
            ValueError: If a tied tensor differs from the one it should repeat.
        """
        known = {*known, *self.tied}
        out: dict[str, Tensor] = {}
        for name, tensor in theirs.items():
            if any(re.search(pattern, name) for pattern in self.ignored):
                continue
            stem, _, leaf = name.rpartition(".")
            if name not in known and leaf in _LEAVES:
                name = f"{stem}.{_LEAVES[leaf]}"
            if name not in known and f"{self.prefix}.{name}" in known:
                name = f"{self.prefix}.{name}"
            out[name] = tensor
        for copy, original in self.tied.items():
            if copy in out:
                tensor = out.pop(copy)
                if original not in out:
                    out[original] = tensor
                elif not torch.equal(out[original], tensor):
                    raise ValueError(f"{copy}: must equal {original}, to which it is tied; it differs")
        return out

    def without_prefix(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Under the names that files without a head use."""
        return {name.removeprefix(f"{self.prefix}."): tensor for name, tensor in theirs.items()}


def encoder_rules(prefix: str) -> dict[str, Same | Stacked]:
    """BERT's names for embeddings and layers, which most encoders after it have kept.

    Example:
        >>> KeyMap("bert", encoder_rules("bert")).theirs("body.layers.3.attention.inner.out.bias")[1]
        ['bert.encoder.layer.3.attention.output.dense.bias']
    """
    layer = f"{prefix}.encoder.layer.{{}}"
    return {
        **embeddings_rules(prefix),
        "body.layers.{}.attention.inner.qkv": Stacked(
            tuple(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))
        ),
        "body.layers.{}.attention.inner.out": Same(f"{layer}.attention.output.dense"),
        "body.layers.{}.attention.norm": Same(f"{layer}.attention.output.LayerNorm"),
        "body.layers.{}.feed_forward.inner.up": Same(f"{layer}.intermediate.dense"),
        "body.layers.{}.feed_forward.inner.down": Same(f"{layer}.output.dense"),
        "body.layers.{}.feed_forward.norm": Same(f"{layer}.output.LayerNorm"),
    }


def embeddings_rules(prefix: str) -> dict[str, Same | Stacked]:
    """BERT's names for embeddings alone."""
    embeddings = f"{prefix}.embeddings"
    return {
        "body.embeddings.words": Same(f"{embeddings}.word_embeddings"),
        "body.embeddings.positions": Same(f"{embeddings}.position_embeddings"),
        "body.embeddings.types": Same(f"{embeddings}.token_type_embeddings"),
        "body.embeddings.norm": Same(f"{embeddings}.LayerNorm"),
    }


# Names of heads in BERT's files.
BERT_HEADS = {
    "head.words.dense": Same("cls.predictions.transform.dense"),
    "head.words.norm": Same("cls.predictions.transform.LayerNorm"),
    "head.words.bias": Same("cls.predictions.bias"),
    "head.relation": Same("cls.seq_relationship"),
    "head.classifier": Same("classifier"),
    "head.spans": Same("qa_outputs"),
}

# And in RoBERTa's.
ROBERTA_HEADS = {
    "head.words.dense": Same("lm_head.dense"),
    "head.words.norm": Same("lm_head.layer_norm"),
    "head.words.bias": Same("lm_head.bias"),
    "head.classifier": Same("classifier"),
    "head.spans": Same("qa_outputs"),
}


def tied_words(prefix: str, head: str) -> dict[str, str]:
    """What the ``decoder`` of a word predictor ``head`` repeats.

    Example:
        >>> tied_words("bert", "cls.predictions")["cls.predictions.decoder.bias"]
        'cls.predictions.bias'
    """
    words = f"{prefix}.embeddings.word_embeddings.weight"
    return {f"{head}.decoder.weight": words, f"{head}.decoder.bias": f"{head}.bias"}
