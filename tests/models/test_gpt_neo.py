"""GPT-Neo against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import build, from_pretrained, gpt_neo

from . import agreement
from .agreement import MASKS, WORDS, count, labels_for, labels_number
from .pairs import assert_close, fill_with_noise

# Two heads of 13; a local layer sees three tokens of seven.
TINY = {
    "vocab_size": WORDS,
    "max_position_embeddings": 40,
    "hidden_size": 26,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 37,
    "window_size": 3,
}
OWN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def tiny(**changes) -> transformers.GPTNeoConfig:
    types = {"attention_types": [[["global", "local"], 1]]}
    return transformers.GPTNeoConfig(**TINY | OWN | types | changes)


@pytest.mark.parametrize("architecture", gpt_neo.HEADS)
@pytest.mark.parametrize("padding", MASKS)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, padding: str) -> None:
    other = {"attention_types": [[["local"], 1], [["global"], 1]], "intermediate_size": None, "window_size": 1}
    config = tiny(num_labels=labels_number(architecture), **other if padding == "holes" else {})
    mask = MASKS[padding]
    dtype = torch.float32
    agreement.assert_head_agrees(tmp_path, architecture, config, mask, labels_for(architecture, mask), dtype)


@pytest.mark.parametrize("architecture", gpt_neo.HEADS)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    labels = tuple(f"L{i}" for i in range(labels_number(architecture)))
    types = ((("global",), 1), (("local",), 1))
    config = gpt_neo.Config(**TINY, **OWN, labels=labels, attention_types=types)
    agreement.assert_transformers_loads(tmp_path, architecture, config)


def test_kinds_of_layers_are_named_in_files_though_they_are_the_default(tmp_path: Path) -> None:
    build("GPTNeoModel", gpt_neo.Config(**TINY)).save_pretrained(tmp_path)
    assert transformers.GPTNeoConfig.from_pretrained(tmp_path).attention_layers == ["global", "local"]


def test_old_files_with_buffers_load(tmp_path: Path) -> None:
    oracle = transformers.GPTNeoForCausalLM(tiny()).eval()
    fill_with_noise(oracle)
    oracle.config.save_pretrained(tmp_path)
    tensors = dict(oracle.state_dict())
    tensors |= {
        f"transformer.h.{i}.attn.attention.{name}": torch.ones(1) for i in (0, 1) for name in ("bias", "masked_bias")
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    ours = from_pretrained(tmp_path, architecture="GPTNeoForCausalLM")
    ids = torch.tensor([[4, 7, 8, 2, 9, 6]])
    assert_close(ours(ids).logits, oracle(ids).logits, "logits")


def test_lengths_and_offsets_are_the_same_batch() -> None:
    agreement.assert_layouts_are_the_same_batch(build("GPTNeoModel", gpt_neo.Config(**TINY)).eval())


def test_parameter_counts_of_the_published_sizes() -> None:
    sizes = {"of_125m": 125_198_592, "of_1_3b": 1_315_575_808, "of_2_7b": 2_651_307_520}
    for name, parameters in sizes.items():
        assert count("GPTNeoForCausalLM", getattr(gpt_neo.Config, name)()) == parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "hidden_size: a multiple of num_heads"),
        ({"attention_types": [[["global", "local"], 2]]}, "attention_types: kinds of 2 layers"),
        ({"attention_types": [[["banded"], 2]]}, 'attention_types: "global" and "local"'),
        ({"attention_types": ["global", "local"]}, "attention_types: pairs such as"),
        ({"window_size": 0}, "window_size: at least 1"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gpt_neo.Config.from_dict({**TINY, **changes})
