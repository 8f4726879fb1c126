"""Big Bird: Transformers for Longer Sequences (Zaheer et al. 2020, arXiv:2007.14062).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805):

- Section 2 and appendix D: a block of 64 tokens sees the first block, the last, itself, its two
  neighbours and three that are drawn at random, for each head and layer; the first and the last
  see all (:func:`pkernels.bigbird`). Short texts, up to 11 blocks, have full attention.
- Section 4 and appendix E.1: positions up to 4,096, the vocabulary of RoBERTa's size, masked LM
  (``objectives.mask_tokens`` on rows that ``objectives.cut`` makes of long text).
- The authors' code (google-research/bigbird): the embeddings' dropout comes before their norm,
  words may be scaled by the root of the width, GELU is the tanh form, sparse attention has no
  dropout, and classes and answers have larger heads.

``plan`` says who draws. transformers, whose names and results these are by default, draws in
training and takes the first block instead in evaluation; "original", the authors', draws the
same in both, and is what their weights were trained for.

Which blocks there are follows from the padded length of a batch, as in transformers, so the last
block may be padding of a shorter text. Unlike there, one short batch does not switch a model to
full attention for good: each call goes by its own length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..bigbird import bigbird, bigbird_evaluation, bigbird_training
from ..blocks import Blocks
from ..patterns import dense
from .parts.attention import join_heads, split_heads
from .parts.config import BaseConfig
from .parts.embeddings import Embeddings, inputs_layout
from .parts.heads import (
    PROBLEMS,
    Bare,
    Classifier,
    First,
    MaskedLM,
    MultipleChoice,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    WordPredictor,
    WordsAndRelation,
    flat_choices,
)
from .parts.keys import BERT_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import ACTIVATIONS, FeedForward, PostNorm, initialise
from .parts.layouts import Whole
from .parts.linear import Linear
from .parts.model import Family


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 4 and appendix E; the defaults are bigbird-roberta-base, and transformers'.

    Args:
        attention_type: "block_sparse" or "original_full".
        num_random_blocks: Drawn for each block.
        plan: "transformers" or "original": who draws them.
        rescale_embeddings: Whether words are multiplied by ``sqrt(hidden_size)``.
    """

    model_type: ClassVar[str] = "big_bird"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    }

    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    plan: str = "transformers"
    use_bias: bool = True
    rescale_embeddings: bool = False
    vocab_size: int = 50358
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 4096
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    sep_token_id: int | None = 66
    classifier_dropout: float | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.check_positive("intermediate_size", "max_position_embeddings", "type_vocab_size", "block_size")
        self.check_probability("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))
        self.check_choice("attention_type", ("block_sparse", "original_full"))
        self.check_choice("plan", ("transformers", "original"))
        if self.num_random_blocks < 0:
            raise ValueError(f"num_random_blocks: at least 0 is allowed, got {self.num_random_blocks}")

    @property
    def dense_up_to(self) -> float:
        """The greatest length at which every token sees every token."""
        return inf if self.attention_type == "original_full" else (5 + 2 * self.num_random_blocks) * self.block_size

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def base(cls) -> Config:
        """Appendix E.1, bigbird-roberta-base."""
        return cls()

    @classmethod
    def large(cls) -> Config:
        """Appendix E.1, bigbird-roberta-large."""
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)

    def layouts(self, length: int, training: bool) -> list[Blocks]:
        """Which blocks see one another, for each layer."""
        sizes = {"size": self.block_size, "random": self.num_random_blocks}
        layers, heads = range(self.num_hidden_layers), self.num_attention_heads
        if self.plan == "original":
            return [bigbird(length, heads, **sizes, seed=i) for i in layers]
        if training:
            longest = self.max_position_embeddings
            return [bigbird_training(length, heads, **sizes, seed=i, longest=longest) for i in layers]
        return [bigbird_evaluation(length, **sizes)] * len(layers)


class Attention(nn.Module):
    """Section 2, over the blocks of a layout; without one, every token sees every token."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads, self.dropout = c.num_attention_heads, c.attention_probs_dropout_prob
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size, bias=c.use_bias)
        self.out = Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor, layout: Whole, blocks: Blocks | None) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        if blocks is None:
            dropout = self.dropout if self.training else 0.0
            return self.out(join_heads(layout.attend(q, k, v, dense, None, dropout)))
        mixed = join_heads(layout.attend(q, k, v, blocks, None, 0.0))
        return self.out(layout.unpack(mixed))  # 0 where there is padding: [CLS] may be some


class Layer(nn.Module):
    """Attention, then a feed-forward network, each normed after its residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        feed_forward = FeedForward(c.hidden_size, c.intermediate_size, c.hidden_act)
        norm = {"eps": c.layer_norm_eps, "dropout": c.hidden_dropout_prob}
        self.attention = PostNorm(Attention(c), c.hidden_size, **norm)
        self.feed_forward = PostNorm(feed_forward, c.hidden_size, **norm)

    def forward(self, x: Tensor, layout: Whole, blocks: Blocks | None) -> Tensor:
        return self.feed_forward(self.attention(x, layout, blocks))


class Body(nn.Module):
    """Embeddings and layers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.embeddings = Embeddings(
            c.vocab_size, c.max_position_embeddings, c.type_vocab_size, c.hidden_size, eps=c.layer_norm_eps,
            dropout=c.hidden_dropout_prob, padding=c.pad_token_id, norm_last=True,
            scale=c.hidden_size**0.5 if c.rescale_embeddings else 1.0,
        )  # fmt: skip
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.layouts: dict[tuple[int, bool], list[Blocks]] = {}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        most = self.config.dense_up_to
        layout = inputs_layout(input_ids, inputs_embeds, attention_mask, lengths, offsets, packs_up_to=most)
        if offsets is not None and layout.longest > most:
            raise ValueError(
                f"offsets: sequences of at most {most} tokens, which have full attention, are allowed, "
                f"got {layout.longest}"
            )
        x = self.embeddings(layout, input_ids, token_type_ids, position_ids, inputs_embeds)
        trace = deque([x], maxlen=None if output_hidden_states else 1)
        for layer, blocks in zip(self.layers, self.blocks(layout.longest), strict=True):
            trace.append(layer(trace[-1], layout, blocks))
        states = tuple(layout.unpack(x) for x in trace) if output_hidden_states else None
        return States(trace[-1], layout, self.embeddings.words.weight, states)

    def blocks(self, length: int) -> list[Blocks] | list[None]:
        """Of each layer, kept for the next call. What traces cannot make them (NumPy draws), but
        finds those of an earlier call, or of this method."""
        if length <= self.config.dense_up_to:
            return [None] * len(self.layers)
        key = (-(-length // self.config.block_size) * self.config.block_size, self.training)
        if key not in self.layouts:
            if torch.compiler.is_compiling():
                raise RuntimeError(f"input_ids: before tracing, call model.body.blocks({length}), which draws blocks")
            self.layouts[key] = self.config.layouts(*key)
        return self.layouts[key]


class Answers(nn.Module):
    """Scores of both ends of an answer for each token, out of a feed-forward network (the authors'
    code: ``qa_classifier``)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.dropout = nn.Dropout(c.hidden_dropout_prob)
        self.feed_forward = FeedForward(c.hidden_size, c.intermediate_size, c.hidden_act)
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.ends = Linear(c.hidden_size, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.ends(self.norm(x + self.dropout(self.feed_forward(self.dropout(x)))))


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(c.hidden_size, c.num_labels, dropout=c.head_dropout, act=c.hidden_act)
    return SequenceClassification(First(), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.head_dropout)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size), Linear(c.hidden_size, 1), dropout=c.hidden_dropout_prob)


def _beside_pooler(make: Callable[[Config], nn.Module]) -> Callable[[Config], nn.Module]:
    """A head that has no use for the pooler, which published files have all the same."""

    def made(c: Config) -> nn.Module:
        head = make(c)
        head.add_module("unused", Linear(c.hidden_size, c.hidden_size))
        return head

    return made


# Section 4 (pre-training, answers, classes) and the others that transformers has.
HEADS = {
    "BigBirdModel": lambda c: Bare(Pooler(c.hidden_size)),
    "BigBirdForPreTraining": lambda c: WordsAndRelation(_words(c), Pooler(c.hidden_size), Linear(c.hidden_size, 2)),
    "BigBirdForMaskedLM": _beside_pooler(lambda c: MaskedLM(_words(c))),
    "BigBirdForSequenceClassification": _beside_pooler(_of_sequences),
    "BigBirdForTokenClassification": _beside_pooler(_of_tokens),
    "BigBirdForQuestionAnswering": lambda c: QuestionAnswering(Answers(c)),
    "BigBirdForMultipleChoice": _of_choices,
}


def _apart_from_question(c: Config, given: dict[str, Any]) -> dict[str, Any]:
    """A question, up to the first separator or ``question_lengths (B,)``, is the first segment of
    its text and holds no answer; its first token, [CLS], stands for none."""
    lengths, ids, types = given.pop("question_lengths", None), given.get("input_ids"), given.get("token_type_ids")
    if given.get("offsets") is not None:
        raise ValueError("offsets: None is allowed: questions are looked for in a padded batch")
    x = given.get("inputs_embeds") if ids is None else ids
    if not isinstance(x, Tensor) or x.dim() < 2 or (ids is None and lengths is None):
        return given
    if lengths is None:
        if c.sep_token_id is None:
            raise ValueError("question_lengths: needed, as the config has no sep_token_id")
        lengths = (x == c.sep_token_id).int().argmax(1) + 1
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.numel() != x.shape[0]:
        found = f"{lengths.dtype} of shape {tuple(lengths.shape)}" if isinstance(lengths, Tensor) else repr(lengths)
        raise ValueError(f"question_lengths: integers of shape ({x.shape[0]},) are allowed, got {found}")
    inside = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device).reshape(-1, 1)
    types = (~inside).long() if types is None else types
    inside[:, 0] = False
    return {**given, "token_type_ids": types, "questions": inside}


ARGUMENTS = {
    "BigBirdForQuestionAnswering": _apart_from_question,
    "BigBirdForMultipleChoice": lambda c, given: flat_choices(given),
}

KEYS = KeyMap(
    prefix="bert",
    rules={
        **encoder_rules("bert"),
        **BERT_HEADS,
        "head.pooler.dense": Same("bert.pooler"),
        "head.unused": Same("bert.pooler"),
        "head.spans.feed_forward.up": Same("qa_classifier.intermediate.dense"),
        "head.spans.feed_forward.down": Same("qa_classifier.output.dense"),
        "head.spans.norm": Same("qa_classifier.output.LayerNorm"),
        "head.spans.ends": Same("qa_classifier.qa_outputs"),
    },
    tied=tied_words("bert", "cls.predictions"),
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, Body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
