"""From an image to tokens (Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Size = int | tuple[int, ...]


def height_and_width(name: str, size: Size) -> tuple[int, int]:
    """A size of images or patches: one number for both sides, or both.

    Example:
        >>> height_and_width("image_size", 224), height_and_width("image_size", (32, 48))
        ((224, 224), (32, 48))
    """
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"{name}: a number above 0, or two of them (height, width), is allowed, got {size!r}")
    return sides[0], sides[1]


def grid_of(image: Size, patch: Size) -> tuple[int, int]:
    """Rows and columns of whole patches in an image.

    Example:
        >>> grid_of(224, 16), grid_of((30, 49), 16)
        ((14, 14), (1, 3))
    """
    sides = height_and_width("image_size", image), height_and_width("patch_size", patch)
    rows, columns = (side // one for side, one in zip(*sides, strict=True))
    if not rows or not columns:
        raise ValueError(f"patch_size: at most image_size {sides[0]} is allowed, got {sides[1]}")
    return rows, columns


class Patches(nn.Module):
    """A class token, then the image's patches row by row, each a linear map of its pixels; to
    every one its position is added (equation 1).

    Args:
        image, patch: Sizes, ``(height, width)`` or one number for both. What is left of an image
            beside its last whole patch is not seen.
        bias: Whether the map has one.

    Positions are learned for one grid. For an image with another they are interpolated
    (section 3.2, "Fine-tuning and higher resolution"), bicubically and without antialiasing as
    transformers do it (the authors' program is linear; timm antialiases).

    Example:
        >>> import torch
        >>> patches = Patches(3, 12, 32, 16, bias=True)
        >>> patches(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5, 12])
        >>> patches(torch.zeros(2, 3, 50, 70), interpolate=True).shape
        torch.Size([2, 13, 12])
    """

    def __init__(self, channels: int, width: int, image: Size, patch: Size, *, bias: bool) -> None:
        super().__init__()
        self.image, self.patch = height_and_width("image_size", image), height_and_width("patch_size", patch)
        self.grid = grid_of(self.image, self.patch)
        self.projection = nn.Conv2d(channels, width, self.patch, stride=self.patch, bias=bias)
        self.token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(1 + self.grid[0] * self.grid[1], width))

    def forward(self, pixel_values: Tensor, interpolate: bool = False) -> Tensor:
        """``(B, channels, height, width)`` floats -> ``(B, 1 + patches, width)``."""
        grid = self._grid(pixel_values, interpolate)
        positions = self.positions if grid == self.grid else self._resized(grid)
        seen = self.projection(pixel_values.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(seen), 1, -1), seen], 1) + positions

    def _grid(self, pixel_values: Tensor, interpolate: bool) -> tuple[int, int]:
        channels = self.projection.in_channels
        if not isinstance(pixel_values, Tensor) or not pixel_values.is_floating_point():
            given = f"dtype {pixel_values.dtype}" if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
            raise ValueError(f"pixel_values: a floating-point tensor is allowed, got {given}")
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            wanted = f"(B, {channels}, height, width)"
            raise ValueError(f"pixel_values: shape {wanted} is allowed, got {tuple(pixel_values.shape)}")
        height, width = pixel_values.shape[2:]
        if not interpolate and (height, width) != self.image:
            raise ValueError(
                f"pixel_values: images of {self.image[0]} x {self.image[1]} are allowed, got {height} x {width}; "
                "interpolate_pos_encoding=True allows others"
            )
        if height < self.patch[0] or width < self.patch[1]:
            raise ValueError(
                f"pixel_values: at least one patch of {self.patch[0]} x {self.patch[1]} is allowed, "
                f"got {height} x {width}"
            )
        return height // self.patch[0], width // self.patch[1]

    def _resized(self, grid: tuple[int, int]) -> Tensor:
        """Positions of a class token and a grid of another shape."""
        first, others = self.positions.split([1, len(self.positions) - 1])
        square = others.T.unflatten(1, self.grid)[None]
        resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)[0]
        return torch.cat([first, resized.flatten(1).T])
