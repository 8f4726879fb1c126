"""Files of Paddle: what UNIMO's authors published, and what is broken."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pkernels.models import from_pretrained, unimo
from pkernels.models.parts.paddle import read_variables

from .dense_joint import noise, padded
from .pairs import assert_close
from .test_unimo import INNER, LABELS, PUBLISHED, Oracle, inputs, shapes


def variable(x: Tensor, *, packed: bool = False) -> bytes:
    """As PaddlePaddle 1.x saves a tensor of float32 (5)."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    lengths = [varint(n) for n in x.shape]
    described = b"\x08\x05"
    described += b"\x12" + varint(len(b"".join(lengths))) + b"".join(lengths) if packed else b""
    described += b"" if packed else b"".join(b"\x10" + n for n in lengths)
    return struct.pack("<IQIi", 0, 0, 0, len(described)) + described + x.numpy().tobytes()


def test_converts_the_authors_files(tmp_path: Path) -> None:
    tensors = noise(shapes(), "scale")
    (tmp_path / "params").mkdir()
    for number, (name, x) in enumerate(tensors.items()):
        (tmp_path / "params" / name).write_bytes(variable(x, packed=number % 2 == 0))
    (tmp_path / "params" / "word_embedding_moment1_0").write_bytes(variable(torch.zeros(300, 2)))
    (tmp_path / "unimo.json").write_text(json.dumps({**PUBLISHED, "num_labels": LABELS, "image_use_attr": False}))
    unimo.convert(tmp_path / "params", tmp_path / "unimo.json", tmp_path / "out", architecture="UNIMOForPreTraining")
    with pytest.warns(UserWarning, match="UNIMOForPreTraining has no use for cls_out_b, cls_out_w: left out"):
        model = from_pretrained(tmp_path / "out")
    assert model.config.intermediate_size == INNER and model.config.layer_norm_eps == 1e-5
    rows = Oracle(tensors).states(inputs())
    want = padded([Oracle(tensors).told("lm", text) for _, text in rows], 9)
    assert_close(model(**inputs(), labels=torch.full((3, 9), 5)).prediction_logits, want, "words")


def test_broken_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder with files of variables"):
        read_variables(tmp_path)
    whole = variable(torch.ones(3, 2))
    assert read_after(tmp_path, whole).tolist() == [[1.0, 1.0]] * 3
    for broken, message in (
        (whole[:-1], "24 bytes of torch.float32 .* are due, 23 are there"),
        (whole + b"x", "24 bytes .* 25 are there"),
        (whole[:7], "PaddlePaddle 1.x saved"),
        (b"\x01" + whole[1:], "version 0 is supported, got 1"),
        (whole[:20] + b"\x08\x63" + whole[22:], "numbers of type 99 are not supported"),
        (b"hello, this is no variable at all", "PaddlePaddle 1.x saved"),
    ):
        with pytest.raises(ValueError, match=f"w: a variable.*{message}|w: .*{message}"):
            read_after(tmp_path, broken)


def read_after(folder: Path, data: bytes) -> Tensor:
    (folder / "w").write_bytes(data)
    return read_variables(folder)["w"]
