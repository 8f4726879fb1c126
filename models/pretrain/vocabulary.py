"""Tokens: a family's way to cut text, learned from the text or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from ..parts.objectives.sentinels import SENTINELS


@dataclass(frozen=True)
class Scheme:
    """A family's kind of tokenizer, and what its special tokens are called.

    Args:
        make: From special tokens and a size to a tokenizer and the trainer of its vocabulary.
        pad, unknown, last: Special tokens; ``last`` ends a text or segment.
        first, mask: Of families that have them.
        order: Of the ids of special tokens in a new vocabulary.
        behind: More special tokens, whose ids come after the words'.
        frame: What is put around a text ("$A") for who uses the tokenizer later; without it, the first
            and last token if there are both, and of others nothing: a text is to be continued.
        pair: The same of two texts ("$A" and "$B:1"); without it, the frame, the second and the last token.
    """

    make: Callable[[list[str], int], tuple[Tokenizer, Any]]
    pad: str
    unknown: str
    last: str
    first: str | None = None
    mask: str | None = None
    order: tuple[str, ...] = ("pad", "unknown", "first", "last", "mask")
    behind: tuple[str, ...] = ()
    frame: str | None = None
    pair: str | None = None

    @property
    def special(self) -> list[str]:
        names = [getattr(self, place) for place in self.order]
        return [name for name in dict.fromkeys(names) if name is not None]

    @property
    def framed(self) -> str | None:
        return f"{self.first} $A {self.last}" if self.frame is None and self.first is not None else self.frame


def wordpiece(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """BERT's: words in small letters, cut into pieces (Wu et al. 2016, arXiv:1609.08144, section 4.1)."""
    tokenizer = _bert_like(models.WordPiece(unk_token="[UNK]"), lowercase=True)
    return tokenizer, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)


def wordpiece_cased(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """The same with large letters, as UNITER's authors read captions."""
    tokenizer = _bert_like(models.WordPiece(unk_token="[UNK]"), lowercase=False)
    return tokenizer, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)


def _bert_like(model: Any, lowercase: bool) -> Tokenizer:
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_pairs(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """GPT-2's and RoBERTa's: pairs of bytes merged, the commonest first (Radford et al. 2019, section 2.2)."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    return tokenizer, trainer


def lower_byte_pairs(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """CLIP's: of text in small letters, pairs of bytes merged, none across words or numbers, whose last piece is
    marked (Radford et al. 2021, section 2.4; openai/CLIP, ``simple_tokenizer.py``). A last piece that the text never
    had is left out: as unknown it would be an end of text."""
    tokenizer: Any = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    word = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    pieces = [pre_tokenizers.Split(word, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("</w>", " "), decoders.ByteLevel()])
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    return tokenizer, trainer


def unigram(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """SentencePiece's: the pieces that make the text most likely (Kudo 2018, arXiv:1804.10959)."""
    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    return tokenizer, trainer


def whole_words(special: list[str], size: int) -> tuple[Tokenizer, Any]:
    """ELMo's: words by falling frequency, as they are written, punctuation apart (allenai/bilm-tf, ``Vocabulary``)."""
    tokenizer: Any = Tokenizer(models.WordLevel(unk_token="<UNK>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordLevelTrainer(vocab_size=size, special_tokens=special, show_progress=False)


BERT = Scheme(wordpiece, "[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]")
ROBERTA = Scheme(byte_pairs, "<pad>", "<unk>", "</s>", "<s>", "<mask>", ("first", "pad", "last", "unknown", "mask"))
ALBERT = Scheme(unigram, "<pad>", "<unk>", "[SEP]", "[CLS]", "[MASK]")
PLAIN = Scheme(unigram, "<pad>", "<unk>", "</s>")
"""Without [CLS] and [MASK], of causal models. Pieces are numbered by how common they are."""
XLNET = Scheme(
    unigram, "<pad>", "<unk>", "<sep>", "<cls>", frame="$A <sep> <cls>:2", pair="$A <sep> $B:1 <sep>:1 <cls>:2"
)
"""[CLS] comes last, and is a segment of its own."""
T5 = Scheme(
    unigram, "<pad>", "<unk>", "</s>", order=("pad", "last", "unknown"),
    behind=tuple(f"<extra_id_{i}>" for i in reversed(range(SENTINELS))), frame="$A </s>",
)  # fmt: skip
"""The sentinels, which count down, have the last ids."""
CASED = Scheme(wordpiece_cased, "[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]")
CLIP = Scheme(lower_byte_pairs, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|startoftext|>")
WORDS = Scheme(whole_words, "<S>", "<UNK>", "</S>", "<S>", order=("first", "last", "unknown"))
GPT2 = Scheme(byte_pairs, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what objectives ask of it.

    Args:
        size: Ids are below.
        pad, last: Ids of special tokens; so are ``first``, ``mask`` and ``sentinel`` (the first one),
            -1 where there is none.
        special: ``(size,)`` booleans: the tokens that are never predicted.
        starts: ``(size,)`` booleans: the tokens with which a word begins.
    """

    tokenizer: Tokenizer
    size: int
    pad: int
    last: int
    first: int
    mask: int
    sentinel: int
    special: Tensor
    starts: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, scheme: Scheme, source: str = "tokenizer") -> Vocabulary:
        """
        Raises:
            ValueError: Naming ``source``, if the tokenizer lacks special tokens of the scheme.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = tokenizer.get_vocab(with_added_tokens=True)
        wanted = [name for name in (*scheme.special, *scheme.behind) if name != scheme.unknown]
        lacking = [name for name in wanted if name not in ids]
        if lacking:
            raise ValueError(
                f"{source}: a tokenizer with {', '.join(scheme.special)} is allowed, {lacking[:5]} are missing"
            )
        size = max(ids.values()) + 1
        special, starts = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        special[[ids[name] for name in wanted]] = True
        begins = _begins(ids)
        starts[[i for token, i in ids.items() if begins(token)]] = True
        names = (scheme.first, scheme.mask, scheme.behind[-1] if scheme.behind else None)
        first, mask, sentinel = (-1 if name is None else ids[name] for name in names)
        return cls(tokenizer, size, ids[scheme.pad], ids[scheme.last], first, mask, sentinel, special, starts)

    def word_ids(self, ids: Tensor) -> Tensor:
        """The number of each token's word, -1 for special ones; ``(B, S)`` like the ids."""
        return self.starts[ids].long().cumsum(1).masked_fill(self.special[ids], -1)


def _begins(ids: dict[str, int]) -> Callable[[str], bool]:
    """How to tell tokens with which a word begins, by the marks that a vocabulary has."""
    for mark in ("▁", "Ġ"):
        if any(token.startswith(mark) for token in ids):
            return lambda token: token.startswith(mark)
    return lambda token: not token.startswith("##")


def learn(lines: Iterable[str], scheme: Scheme, size: int) -> Tokenizer:
    """A tokenizer of the scheme, made from text. Made again it may differ in tokens of equal rank, which
    the library counts in any order.

    Example:
        >>> learn(["the cat", "the cats"], BERT, 40).encode("The cats").tokens
        ['[CLS]', 'the', 'cats', '[SEP]']
    """
    special = len(scheme.special) + len(scheme.behind)
    if size < special + 1:
        raise ValueError(f"vocabulary: more than the {special} special tokens are allowed, got {size}")
    tokenizer, trainer = scheme.make(scheme.special, size - len(scheme.behind))
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(list(scheme.behind))
    return framed(tokenizer, scheme)


def framed(tokenizer: Tokenizer, scheme: Scheme) -> Tokenizer:
    """Whoever uses the tokenizer later gets the scheme's frame around a text."""
    if scheme.framed is not None:
        template: Any = processors.TemplateProcessing(
            single=scheme.framed,
            pair=scheme.pair or f"{scheme.framed} $B:1 {scheme.last}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (scheme.first, scheme.last) if name],
        )
        tokenizer.post_processor = template
    return tokenizer


def there(path: str | Path) -> Path:
    """
    Raises:
        FileNotFoundError: If no file is there.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"tokenizer: {path}: a tokenizer.json or vocab.txt is allowed; there is none")
    return Path(path)


def read(path: str | Path, scheme: Scheme) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, or of a WordPiece vocabulary, a token a line (``vocab.txt``).

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is neither.
    """
    path = there(path)
    if path.suffix == ".txt":
        return _of_words(path, scheme)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"tokenizer: {path}: a tokenizer of the tokenizers library is allowed; {error}") from error


def _of_words(path: Path, scheme: Scheme) -> Tokenizer:
    words = path.read_text(encoding="utf-8").splitlines()
    ids = {word: i for i, word in enumerate(words)}
    lacking = [name for name in scheme.special if name not in ids]
    if lacking:
        raise ValueError(f"tokenizer: {path}: a vocabulary with {', '.join(scheme.special)} is allowed, {lacking} lack")
    # A vocabulary without large letters is one of text in small letters.
    lowercase = all(word == word.lower() for word in words if word not in scheme.special and not word.startswith("["))
    tokenizer = _bert_like(models.WordPiece(ids, unk_token=scheme.unknown), lowercase)
    tokenizer.add_special_tokens(scheme.special)
    return framed(tokenizer, scheme)
