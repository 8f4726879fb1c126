"""Reading what PaddlePaddle 1.x saved: a folder with a file for each variable, named for it.

A file holds, little-endian: version 0 (uint32), levels of detail (uint64, each followed by its size in
bytes, uint64, and itself), version 0 (uint32), the size of a description (int32), the description, a
protocol buffer with the type (field 1) and the lengths (field 2), and the numbers.
"""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor

# VarType.Type of paddle's framework.proto.
_TYPES = {
    0: torch.bool, 1: torch.int16, 2: torch.int32, 3: torch.int64,
    4: torch.float16, 5: torch.float32, 6: torch.float64, 20: torch.uint8, 21: torch.int8,
}  # fmt: skip


def read_variables(folder: str | Path) -> dict[str, Tensor]:
    """The variables of a folder, by name.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing in it.
        ValueError: Naming the file that is none, or is cut short.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"{folder}: a folder with files of variables is allowed; there is none")
    return {path.name: _read(path) for path in paths}


def _read(path: Path) -> Tensor:
    data = path.read_bytes()
    try:
        dtype, shape, start = _header(data)
        count = 1
        for length in shape:
            count *= length
        size = count * dtype.itemsize
        if min(shape, default=1) < 0 or len(data) - start != size:
            raise ValueError(f"{size} bytes of {dtype} {tuple(shape)} are due, {len(data) - start} are there")
        if count == 0:
            return torch.zeros(shape, dtype=dtype)
        return torch.frombuffer(bytearray(data[start:]), dtype=dtype).reshape(shape)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: a variable that PaddlePaddle 1.x saved is allowed; {error}") from error


def _header(data: bytes) -> tuple[torch.dtype, list[int], int]:
    """``(dtype, shape, where the numbers begin)``."""
    version, levels = struct.unpack_from("<IQ", data)
    place = 12
    for _ in range(levels if version == 0 else 0):
        (size,) = struct.unpack_from("<Q", data, place)
        place += 8 + size
    inner, size = struct.unpack_from("<Ii", data, place)
    if version or inner:
        raise ValueError(f"version 0 is supported, got {version or inner}")
    place += 8
    if not 0 < size <= len(data) - place:
        raise ValueError("its description is cut short")
    dtype, shape = _description(data[place : place + size])
    return dtype, shape, place + size


def _description(data: bytes) -> tuple[torch.dtype, list[int]]:
    """Of a TensorDesc, whose fields are all varints (lengths may be packed)."""
    found: dict[int, list[int]] = {1: [], 2: []}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        value, place = _varint(data, place)
        if tag & 7 == 2:
            end = place + value
            while place < end:
                value, place = _varint(data, place)
                found[tag >> 3].append(value)
        elif tag & 7 == 0:
            found[tag >> 3].append(value)
        else:
            raise ValueError(f"its description has a field of type {tag & 7}")
    (kind,) = found[1]
    if kind not in _TYPES:
        raise ValueError(f"numbers of type {kind} are not supported")
    return _TYPES[kind], [length - (length >> 63 << 64) for length in found[2]]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
