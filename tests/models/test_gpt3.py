"""GPT-3, whose layers are GPT-2's or, but for their bands, GPT-Neo's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from pkernels import causal, window
from pkernels.models import Model, build, from_pretrained, gpt3

from .agreement import MASKS, WORDS, assert_head_drops, count, inputs
from .pairs import assert_close, fill_with_noise

TINY = {"vocab_size": WORDS, "max_position_embeddings": 40, "hidden_size": 26, "num_layers": 2, "num_heads": 2}


def noisy(**changes) -> Model:
    model = build("GPT3LMHeadModel", gpt3.Config(**TINY | changes)).eval()
    fill_with_noise(model)
    return model


def test_without_bands_it_is_gpt2(tmp_path: Path) -> None:
    ours = noisy(attention_types=((("global",), 2),))
    sizes = {"vocab_size": WORDS, "n_positions": 40, "n_embd": 26, "n_layer": 2, "n_head": 2}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    theirs.load_state_dict(ours.named_tensors(), strict=False)
    given = inputs(MASKS["left"], types=0)
    real = MASKS["left"].bool()
    assert_close(ours(**given).logits[real], theirs(**given).logits[real], "logits")


def test_with_bands_it_is_gpt_neo_with_scaled_scores() -> None:
    ours = noisy(window_size=3)
    for layer in ours.body.layers:
        nn.init.zeros_(layer.attention.inner.qkv.bias)
    types = {"attention_types": [[["global", "local"], 1]], "window_size": 3}
    theirs = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**TINY, **types)).eval()
    tensors = {}
    for name, x in ours.named_tensors().items():
        x = x.t() if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else x
        if ".c_attn." in name:
            q, k, v = x.chunk(3)
            parts = zip(("q_proj", "k_proj", "v_proj"), (q / 13**0.5, k, v), strict=True)
            tensors |= {name.replace("c_attn", f"attention.{part}"): y for part, y in parts if y.dim() == 2}
        else:
            tensors[name.replace("attn.c_proj", "attn.attention.out_proj")] = x
    report = theirs.load_state_dict(tensors, strict=False)
    assert report.missing_keys == ["lm_head.weight"] and not report.unexpected_keys
    for padding in ("whole", "right", "left"):
        given, real = inputs(MASKS[padding], types=0), MASKS[padding].bool()
        assert_close(ours(**given).logits[real], theirs(**given).logits[real], padding)


def test_heads_need_not_fill_the_width() -> None:
    """Heads of 16, of which three features do nothing, are heads of 13."""
    wide, narrow = noisy(head_size=16), noisy()
    with torch.no_grad():
        for mine, other in zip(wide.body.parameters(), narrow.body.parameters(), strict=True):
            if mine.shape == other.shape:
                mine.copy_(other)
        for mine, other in zip(wide.body.layers, narrow.body.layers, strict=True):
            mine, other = mine.attention.inner, other.attention.inner
            assert mine.qkv.weight.shape == (96, 26) and mine.out.weight.shape == (26, 32)
            mine.qkv.weight.view(3, 2, 16, 26).zero_()[:, :, :13] = other.qkv.weight.view(3, 2, 13, 26)
            mine.qkv.bias.view(3, 2, 16).zero_()[:, :, :13] = other.qkv.bias.view(3, 2, 13)
            mine.qkv.weight[:32] *= (16 / 13) ** 0.5
            mine.qkv.bias[:32] *= (16 / 13) ** 0.5
            mine.out.weight.view(26, 2, 16).zero_()[:, :, :13] = other.out.weight.view(26, 2, 13)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert_close(wide(ids).logits, narrow(ids).logits, "logits")


@pytest.mark.parametrize("architecture", gpt3.HEADS)
def test_files_bring_back_the_same_model(tmp_path: Path, architecture: str) -> None:
    model = build(architecture, gpt3.Config(**TINY, head_size=5, window_size=2)).eval()
    fill_with_noise(model)
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    ids = torch.tensor([[5, 6, 7, 8]])
    for mine, other in zip(vars(model(ids)).values(), vars(again(ids)).values(), strict=True):
        assert mine is other is None or torch.equal(mine, other)


def test_layers_alternate() -> None:
    config = gpt3.Config(**TINY | {"num_layers": 3}, window_size=4)
    assert config.patterns == (causal, window(3, 0), causal)
    config = gpt3.Config(**TINY, window_size=(4, 7), attention_types=((("local",), 2),))
    assert config.patterns == (window(3, 0), window(6, 0))
    assert gpt3.Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("window_size", [(4, 7, 9), (4, 0), 0])
def test_bad_windows(window_size: object) -> None:
    with pytest.raises(ValueError, match="window_size: "):
        gpt3.Config(**TINY, window_size=window_size)


@pytest.mark.parametrize("dropout", ["resid_dropout", "embed_dropout", "attention_dropout"])
def test_dropouts_are_at_work(dropout: str) -> None:
    assert_head_drops("GPT3Model", lambda p: gpt3.Config(**TINY, **{dropout: p}))


def test_parameter_counts_of_table_2_1() -> None:
    table = {
        "small": ("125M", 125_226_240),
        "medium": ("350M", 355_871_744),
        "large": ("760M", 760_300_032),
        "xl": ("1.3B", 1_315_723_264),
        "of_2_7b": ("2.7B", 2_651_553_280),
        "of_6_7b": ("6.7B", 6_658_404_352),
        "of_13b": ("13B", 12_936_488_380),
        "of_175b": ("175B", 174_604_259_328),
    }
    for name, (printed, parameters) in table.items():
        assert count("GPT3LMHeadModel", getattr(gpt3.Config, name)()) == parameters
        unit = {"M": 1e6, "B": 1e9}[printed[-1]]
        assert abs(parameters / (float(printed[:-1]) * unit) - 1) < 0.02


def test_rows_of_table_2_1_that_do_not_add_up() -> None:
    printed = gpt3.Config.of_13b()
    assert printed.num_heads * 128 == 5120 != printed.hidden_size
    even = gpt3.Config(hidden_size=5120, num_layers=40, num_heads=40)
    assert count("GPT3LMHeadModel", even) == 12_853_386_240
    heads = gpt3.Config(hidden_size=2048, num_layers=24, num_heads=24, head_size=128)
    assert count("GPT3LMHeadModel", heads) == 1_517_123_584
    with pytest.raises(ValueError, match=r"hidden_size: a multiple of num_heads \(40\) is allowed, got 5142"):
        gpt3.Config(hidden_size=5142, num_layers=40, num_heads=40)
