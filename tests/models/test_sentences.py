"""Sentence embeddings with real weights, a real tokenizer and real text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from pkernels.models import Encoder, build, roberta

from .pairs import assert_close, minilm, paragraphs


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(minilm())


def test_embeddings_agree_with_transformers(encoder: Encoder) -> None:
    texts = [*list(paragraphs())[::400], "a", ""]
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    batch = tokenizer.encode_batch(texts)
    ids = torch.tensor([encoding.ids for encoding in batch])
    mask = torch.tensor([encoding.attention_mask for encoding in batch])
    oracle = transformers.AutoModel.from_pretrained(minilm(), attn_implementation="eager").eval()
    with torch.no_grad():
        states = oracle(ids, attention_mask=mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    got = encoder.encode(texts, batch_size=5)
    assert len(texts) % 5, "the last batch is to be a smaller one"
    assert_close(got, torch.nn.functional.normalize(mean, dim=-1), "embeddings")


def test_neighbours_mean_the_same(encoder: Encoder) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell sharply today."]
    similar = encoder.encode(texts) @ encoder.encode(texts).T
    assert similar[0, 1] > 0.5 > similar[0, 2]


def test_long_texts_are_cut_and_none_are_allowed(encoder: Encoder) -> None:
    long = " ".join(["word"] * 1000)
    assert len(encoder.tokenize([long])[0]) == 256
    assert encoder.encode([long]).shape == (1, 384)
    assert encoder.encode([]).shape == (0, 384)


def test_texts_are_cut_where_positions_end(tmp_path: Path) -> None:
    config = roberta.Config(
        vocab_size=8, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8,
        max_position_embeddings=20,
    )  # fmt: skip
    build("RobertaModel", config).save_pretrained(tmp_path)
    words = tokenizers.models.WordLevel({"[UNK]": 3, "word": 4}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder.from_pretrained(tmp_path)
    long = " ".join(["word"] * 30)
    assert len(encoder.tokenize([long])[0]) == 18  # positions start at 2
    assert encoder.encode([long, "word"]).shape == (2, 12)


@pytest.mark.parametrize("texts", ["one string", [1, 2]])
def test_texts_must_be_strings(encoder: Encoder, texts: object) -> None:
    with pytest.raises(ValueError, match="texts: a sequence of strings"):
        encoder.encode(texts)  # type: ignore[arg-type]


def test_settings_beside_the_model_are_read_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm(), folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    encoder = Encoder.from_pretrained(folder)
    first = encoder.model(torch.tensor(encoder.tokenize(["some text"]))).last_hidden_state[:, 0]
    assert_close(encoder.encode(["some text"]), torch.nn.functional.normalize(first, dim=-1), "first token")
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="pooling_mode_mean_tokens, pooling_mode_cls_token is allowed"):
        Encoder.from_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Encoder.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Encoder.from_pretrained(folder)
