"""Sentence embeddings: strings in, unit vectors out (Reimers and Gurevych 2019,
Sentence-BERT, arXiv:1908.10084, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor

from .parts import files
from .parts.model import Model
from .pretrained import from_pretrained

# Pools the packed states (total, H) of sequences that start at offsets[:-1]: (n, H).
Pool = Callable[[Tensor, Tensor], Tensor]


def mean(states: Tensor, offsets: Tensor) -> Tensor:
    """The mean of each sequence's states, in float32."""
    return torch.segment_reduce(states.float(), "mean", offsets=offsets, axis=0)


def first(states: Tensor, offsets: Tensor) -> Tensor:
    """Each sequence's first state ([CLS]), in float32."""
    return states[offsets[:-1]].float()


_POOLS: dict[str, Pool] = {"pooling_mode_mean_tokens": mean, "pooling_mode_cls_token": first}


class Encoder:
    """Turns sentences into vectors whose dot product is their similarity.

    Batches hold no padding at all: the tokens of a batch's sentences stand one after the
    other in a single row, and attention knows where each starts. So there is nothing to
    gain from sorting by length.

    Args:
        model: A bare body ("BertModel"), in evaluation mode, that takes ``offsets``.
        tokenizer: Its padding and truncation are set here.
        max_length: Tokens after which a sentence is cut, special ones included.
        pool: :func:`mean` or :func:`first`.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from pkernels.models import bert, build
        >>> config = bert.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
        >>> words = Tokenizer(models.WordPiece({"[UNK]": 0, "cat": 1, "##s": 2}, unk_token="[UNK]"))
        >>> encoder = Encoder(build("BertModel", config).eval(), words, max_length=8)
        >>> encoder.encode(["cat", "cats"]).shape
        torch.Size([2, 12])
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, max_length: int, pool: Pool = mean) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self.model, self.tokenizer, self.pool = model, tokenizer, pool

    @classmethod
    def from_pretrained(
        cls,
        local_dir: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Encoder:
        """The encoder in a sentence-transformers directory: a model's files, ``tokenizer.json``,
        and, if there, ``sentence_bert_config.json`` (``max_seq_length``) and
        ``1_Pooling/config.json``.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: For files that :func:`from_pretrained` refuses, a broken tokenizer, or a
                pooling other than mean and first token.
        """
        folder = Path(local_dir)
        model = from_pretrained(folder, dtype=dtype).to(device)
        embeddings: Any = model.body.embeddings
        limit = embeddings.longest
        settings = folder / "sentence_bert_config.json"
        if settings.is_file():
            limit = min(limit, files.read_json(settings).get("max_seq_length") or limit)
        return cls(model, _tokenizer(folder / "tokenizer.json"), limit, _pool(folder / "1_Pooling" / "config.json"))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut at ``max_length``."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts: a sequence of strings is allowed, got {type(texts).__name__}")
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Unit vectors ``(N, H)``, float32, on the model's device, in the order of the N texts.

        Args:
            batch_size: Texts that go through the model together.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: at least 1 is allowed, got {batch_size}")
        ids = self.tokenize(texts)
        batches = [self.encode_ids(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size)]
        return torch.cat(batches) if batches else self.encode_ids([[0]])[:0]

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """One batch of :meth:`encode`, from token ids."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([0, *map(len, ids)])
        offsets = lengths.cumsum(0).to(device)
        packed = torch.tensor([[token for sequence in ids for token in sequence]], device=device)
        states = self.model(packed, offsets=offsets).last_hidden_state[0]
        return F.normalize(self.pool(states, offsets), dim=-1)


def _tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: a tokenizer of the tokenizers library is allowed; {error}") from error


def _pool(path: Path) -> Pool:
    if not path.is_file():
        return mean
    settings = files.read_json(path)
    chosen = [name for name, on in settings.items() if name.startswith("pooling_mode") and on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        raise ValueError(f"{path}: one of {', '.join(_POOLS)} is allowed, got {chosen}")
    return _POOLS[chosen[0]]
