"""One encoder over the words of a text and the regions of a picture.

Each part has padding of its own, so a row of both is ragged in the middle. It is packed: what is real
stands together, and attention knows rows by their offsets. Only while tracing, when nobody may look,
padding stays and its keys get a bias of -inf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...patterns import prefix_lm
from .embeddings import Embeddings, ids_of, inputs_layout
from .encoder import ClassifierConfig, Encoder
from .heads import States
from .layouts import Masked, Packed, Unpadded, Whole
from .padding import layout


@dataclass(frozen=True)
class JointConfig(ClassifierConfig):
    """
    Args:
        image_embedding_size: Of a region's features.
        image_class_size: Classes of the detector, the background among them.
    """

    image_embedding_size: int = 2048
    image_class_size: int = 1601

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("image_embedding_size")
        self.check_least("image_class_size", 2)


@dataclass
class JointStates(States):
    """
    Args:
        text, regions: The states of one part alone, None where it was not given.
        masked: ``(B, R)`` booleans, regions whose features were hidden.
        projection: ``(width, D)``, the matrix from features to states.
    """

    text: States | None = None
    regions: States | None = None
    masked: Tensor | None = None
    projection: Tensor | None = None


def joined(parts: Sequence[Whole]) -> Whole:
    """The layout of rows in which the parts stand one behind the other.

    Example:
        >>> words = layout(2, 2, torch.device("cpu"), lengths=torch.tensor([1, 2]))
        >>> joined([words, Whole(2, 1, torch.device("cpu"))]).pack(torch.tensor([[5, 0, 6], [7, 8, 9]]))
        tensor([[5, 6, 7, 8, 9]])
    """
    if len(parts) == 1:
        return parts[0]
    batch, size = parts[0].shape[0], sum(part.shape[1] for part in parts)
    if all(type(part) is Whole for part in parts):
        return Whole(batch, size, parts[0].device)
    real = torch.cat([real_places(part) for part in parts], 1)
    if torch.compiler.is_compiling():
        return Masked(real)
    if not bool(real.any(1).all()):
        raise ValueError("lengths, region_lengths: at least one word or region in each row is allowed, got none")
    return Unpadded(real)


def real_places(layout: Whole) -> Tensor:
    """``(B, S)`` booleans: what is no padding."""
    return layout.unpack(layout.pack(torch.ones(layout.shape, dtype=torch.bool, device=layout.device)))


def prefix(layout: Whole, places: Tensor) -> Tensor:
    """How many of the layers' tokens stand in the first ``places (B,)`` places of each row; of
    layouts that keep padding in place, the places themselves."""
    if not isinstance(layout, Packed):
        return places
    inside = torch.arange(layout.shape[1], device=layout.device) < places[:, None]
    return (real_places(layout) & inside).sum(1)


@dataclass
class Row:
    """Parts one behind the other.

    Args:
        x, layout: What the layers work on.
        parts: The parts' layouts, in order.
    """

    x: Tensor
    layout: Whole
    parts: dict[str, Whole]

    @classmethod
    def of(cls, parts: dict[str, tuple[Whole, Tensor]]) -> Row:
        """Of layouts and their tokens."""
        layouts = {name: layout for name, (layout, _) in parts.items()}
        sizes = [layout.shape[0] for layout in layouts.values()]
        if len(set(sizes)) > 1:
            raise ValueError(f"input_ids, regions: one batch size is allowed, got {' and '.join(map(str, sizes))}")
        whole = joined(list(layouts.values()))
        if len(parts) == 1:
            return cls(next(iter(parts.values()))[1], whole, layouts)
        return cls(whole.pack(torch.cat([layout.unpack(x) for layout, x in parts.values()], 1)), whole, layouts)

    def apart(self, x: Tensor) -> dict[str, tuple[Whole, Tensor]]:
        """The layers' tokens as those of each part."""
        if len(self.parts) == 1:
            return {name: (layout, x) for name, layout in self.parts.items()}
        pieces = self.layout.unpack(x).split([layout.shape[1] for layout in self.parts.values()], 1)
        return {
            name: (layout, layout.pack(piece)) for (name, layout), piece in zip(self.parts.items(), pieces, strict=True)
        }

    def before(self, lengths: Tensor) -> Tensor:
        """Places of a row up to the end of the text's first ``lengths (B,)``."""
        if list(self.parts)[-1] != "text":
            raise ValueError("source_lengths: None is allowed where no text stands at the end")
        batch, size = self.parts["text"].shape
        if not isinstance(lengths, Tensor) or lengths.shape != (batch,) or lengths.is_floating_point():
            seen = tuple(lengths.shape) if isinstance(lengths, Tensor) else type(lengths).__name__
            raise ValueError(f"source_lengths: integers of shape ({batch},) are allowed, got {seen}")
        return lengths + self.layout.shape[1] - size


class Joint(Encoder):
    """Embeddings of both parts, then layers over them together.

    Args:
        regions: From features ``(..., D)``, locations ``(..., L)``, booleans of hidden regions (or None)
            and embeddings of their types (or None) to embeddings. It has the attributes ``features``, the
            linear layer that takes the features, and ``locations``, that which takes the locations.
        order: The part that stands first in a row, and the other.
    """

    def __init__(
        self, embeddings: Embeddings, regions: nn.Module, layers: Iterable[nn.Module], order: tuple[str, str]
    ) -> None:
        super().__init__(embeddings, layers)
        self.regions, self.order = regions, order

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        source_lengths: Tensor | None = None,
        output_hidden_states: bool = False,
        **given: Tensor | None,
    ) -> JointStates:
        """A text, a picture, or both, as :meth:`embedded` takes them.

        Args:
            source_lengths: ``(B,)``: a target begins after so many of the text's places. All
                before it, the regions too, see one another; a target's word sees those up to itself.
        """
        row = self.embedded(input_ids, attention_mask, position_ids, **given)
        pattern = None
        if source_lengths is not None:
            pattern = prefix_lm(prefix(row.layout, row.before(source_lengths)))
        found = self.through(row.x, row.layout, None, pattern, output_hidden_states=output_hidden_states)
        apart = {name: States(x, layout, found.words) for name, (layout, x) in row.apart(found.last).items()}
        weight: Tensor = self.regions.features.weight  # type: ignore[union-attr, assignment]
        return JointStates(
            found.last, row.layout, found.words, found.hidden_states,
            text=apart.get("text"), regions=apart.get("regions"),
            masked=given.get("masked_regions"), projection=weight,
        )  # fmt: skip

    def embedded(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        regions: Tensor | None = None,
        locations: Tensor | None = None,
        region_mask: Tensor | None = None,
        region_lengths: Tensor | None = None,
        masked_regions: Tensor | None = None,
        region_types: Tensor | None = None,
    ) -> Row:
        """What the layers begin with.

        Args:
            input_ids: ``(B, T)``.
            attention_mask, lengths: Which of its words are real, ``(B, T)`` or ``(B,)``.
            regions: ``(B, R, D)`` features.
            locations: ``(B, R, L)``.
            region_mask, region_lengths: Which regions are real, ``(B, R)`` or ``(B,)``.
            masked_regions: ``(B, R)`` booleans: regions whose features are hidden.
            region_types: ``(B, R)``, rows of the table of types; 1 without. Of families that have types.
        """
        parts: dict[str, tuple[Whole, Tensor]] = {}
        if input_ids is not None:
            text = inputs_layout(input_ids, None, attention_mask, lengths, None)
            parts["text"] = text, self.embeddings(text, input_ids, None, position_ids, None)
        else:
            _unused("input_ids", attention_mask=attention_mask, lengths=lengths, position_ids=position_ids)
        if regions is not None:
            parts["regions"] = self._picture(
                regions, locations, region_mask, region_lengths, masked_regions, region_types
            )  # fmt: skip
        else:
            _unused("regions", locations=locations, region_mask=region_mask)
            _unused("regions", region_lengths=region_lengths, masked_regions=masked_regions)
            _unused("regions", region_types=region_types)
        if not parts:
            raise ValueError("input_ids, regions: at least one is allowed, got neither")
        return Row.of({name: parts[name] for name in self.order if name in parts})

    def _picture(
        self, x: Tensor, locations: Tensor | None, mask: Tensor | None, lengths: Tensor | None, masked: Tensor | None,
        types: Tensor | None,
    ) -> tuple[Whole, Tensor]:  # fmt: skip
        linear = {"regions": self.regions.features, "locations": self.regions.locations}
        for name, given in (("regions", x), ("locations", locations)):
            width = linear[name].in_features  # type: ignore[union-attr]
            leading = tuple(x.shape[:2]) if isinstance(x, Tensor) and x.dim() == 3 and x.shape[1] else ("B", "R")
            if not isinstance(given, Tensor) or tuple(given.shape) != (*leading, width):
                seen = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(f"{name}: shape ({leading[0]}, {leading[1]}, {width}) is allowed, got {seen}")
        found = self._named(x, mask, lengths)
        if masked is not None:
            if not isinstance(masked, Tensor) or masked.shape != x.shape[:2] or masked.dtype != torch.bool:
                raise ValueError(f"masked_regions: booleans of shape {tuple(x.shape[:2])} are allowed")
            masked = found.pack(masked)
        dtype = linear["regions"].weight.dtype  # type: ignore[union-attr]
        features, where = (found.pack(y).to(dtype) for y in (x, locations))  # type: ignore[arg-type]
        return found, self.regions(features, where, masked, self._types(found, types))

    def _types(self, found: Whole, types: Tensor | None) -> Tensor | None:
        """Embeddings of the regions' types, or of the one that all have."""
        table = self.embeddings.types
        if types is None:
            return None if table is None else table.weight[1]
        if table is None:
            raise ValueError("region_types: None is allowed where a family has no types")
        return table(ids_of("region_types", types, found, table))

    @staticmethod
    def _named(x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Whole:
        try:
            return layout(x.shape[0], x.shape[1], x.device, mask, lengths)
        except ValueError as error:
            text = str(error)
            names = {"attention_mask": "region_mask", "lengths": "region_lengths"}
            for name, ours in names.items():
                text = text.replace(name, ours)
            raise ValueError(text) from error


def _unused(needs: str, **given: Tensor | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: None is allowed without {needs}")
