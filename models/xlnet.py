"""XLNet: Generalized Autoregressive Pretraining for Language Understanding (Yang, Dai, Yang, Carbonell,
Salakhutdinov, Le 2019, arXiv:1906.08237).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805) and Transformer-XL (Dai et al. 2019,
arXiv:1901.02860), from both of which it has parts:

- Sections 2.2 and 2.3: words are predicted one after the other in a random order. The content
  stream sees a token's word, the query stream only its place; the second is there for words
  that are predicted alone (``parts.streams``).
- Section 2.3, "Partial Prediction": the last 1/K of the order are predicted
  (``objectives.permutation_lm`` chooses them and says the order).
- Section 2.4: Transformer-XL's memories and distances, which run both ways. With ``bi_data`` the
  second half of a batch is read backwards.
- Section 2.5: segments by whether two tokens are of the same one, for each head
  (``parts.two_streams``): features of keys, so no matrix of pairs.
- Section 3.3: an answer's end is told by its start, and whether there is one by its start and the text's
  summary (``parts.answers``).

Inputs are transformers': ``perm_mask (B, S, S)``, 1 where token i may not see token j, and
``target_mapping (B, P, S)``, a 1 for each token that is predicted. A mask of any pairs has its bias
written out, ``(B, heads, S, M + S)`` numbers a layer. ``ranks (B, S)`` say the order instead, without such a
matrix; only the query stream has one for its P rows.

Padding stands on the left in the published use, where [CLS] is last; here it may stand on either
side, and the last real token is the summary. It leaves zeros in memories.

Example:
    >>> import torch
    >>> from pkernels.models import build, xlnet
    >>> config = xlnet.Config(vocab_size=99, d_model=12, n_layer=1, n_head=2, d_inner=24)
    >>> model = build("XLNetLMHeadModel", config).eval()
    >>> ids, ranks, target = torch.tensor([[5, 6, 7]]), torch.tensor([[-1, 0, -1]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    >>> model(ids, ranks=ranks, target_mapping=target).logits.shape
    torch.Size([1, 1, 99])
    >>> model.generate(ids, max_new_tokens=2, eos_token_id=()).shape
    torch.Size([1, 5])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import Band, causal, dense, window
from .parts.answers import BeamAnswers
from .parts.config import BaseConfig
from .parts.heads import (
    PROBLEMS,
    Bare,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    flat_choices,
)
from .parts.keys import KeyMap, Same
from .parts.layers import ACTIVATIONS
from .parts.layouts import Whole
from .parts.linear import Linear, linear
from .parts.model import Family
from .parts.permutation import Body
from .parts.two_streams import Attention, Layer

SUMMARIES: dict[str, Callable[[Whole], Callable[[Tensor], Tensor]]] = {
    "last": lambda layout: layout.last,
    "first": lambda layout: layout.first,
    "mean": lambda layout: layout.mean,
    "cls_index": lambda layout: layout.last,  # transformers' heads pass no index on, so that it is the last
}


@dataclass(frozen=True)
class Config(BaseConfig):
    """Table of hyperparameters in the appendix; the defaults are transformers', XLNet-large's.

    Args:
        attn_type: "bi", or "uni" where no token sees those behind it.
        same_length: Whether every token of attn_type "uni" sees as many tokens back as are remembered, itself
            beside them; without memories that is itself alone. (Transformer-XL's authors evaluate so.)
        mem_len: Tokens that are remembered; all if it is None or 0.
        reuse_len: Of a segment's tokens the first that are remembered; all if it is None or 0.
        use_mems_eval, use_mems_train: Whether memories come out, if the call does not say.
        bi_data: Whether the second half of each batch is read backwards.
        clamp_len: Distances beyond it count as this one; 0 or less for no such limit.
        summary_type: What sums a text up: its "last" token ("cls_index" says the same), its "first", or the
            "mean" of all; ``summary_use_proj``, ``summary_activation`` and ``summary_last_dropout``: through what.
        start_n_top, end_n_top: Starts of an answer that are told, and ends for each.
    """

    model_type: ClassVar[str] = "xlnet"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "tie_word_embeddings": (True,),
        "untie_r": (True,),
        "chunk_size_feed_forward": (0,),
    }

    vocab_size: int = 32000
    d_model: int = 1024
    n_layer: int = 24
    n_head: int = 16
    d_head: int | None = None
    d_inner: int = 4096
    ff_activation: str = "gelu"
    attn_type: str = "bi"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    mem_len: int | None = 512
    reuse_len: int | None = None
    use_mems_eval: bool = True
    use_mems_train: bool = False
    bi_data: bool = False
    clamp_len: int = -1
    same_length: bool = False
    summary_type: str = "last"
    summary_use_proj: bool = True
    summary_activation: str | None = "tanh"
    summary_last_dropout: float = 0.1
    start_n_top: int = 5
    end_n_top: int = 5
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = 5
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "d_model", "n_layer", "n_head", "d_inner", "start_n_top", "end_n_top")
        self.check_heads("d_model", "n_head")
        if self.d_head not in (None, self.d_model // self.n_head):
            raise ValueError(f"d_head: d_model / n_head ({self.d_model // self.n_head}) is allowed, got {self.d_head}")
        self.check_probability("dropout", "summary_last_dropout")
        self.check_choice("ff_activation", ACTIVATIONS)
        self.check_choice("attn_type", ("bi", "uni"))
        self.check_choice("summary_type", tuple(SUMMARIES))
        self.check_choice("summary_activation", (None, *ACTIVATIONS))
        self.check_choice("problem_type", (None, *PROBLEMS))
        for name in ("mem_len", "reuse_len"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: at least 0 or None is allowed, got {getattr(self, name)}")

    @classmethod
    def base(cls) -> Config:
        return cls(d_model=768, n_layer=12, n_head=12, d_inner=3072)

    @classmethod
    def large(cls) -> Config:
        return cls()

    @classmethod
    def pretraining(cls, **sizes: Any) -> Config:
        """As it is pre-trained (the authors' README): segments of 512 tokens, of which the first 256 are
        remembered, and halves of a batch that are read both ways."""
        return cls(**{"mem_len": 384, "reuse_len": 256, "bi_data": True, "use_mems_train": True, **sizes})


def _sees(c: Config) -> Callable[[int], Band]:
    if c.attn_type == "bi":
        return lambda before: dense
    return (lambda before: window(before, 0)) if c.same_length else (lambda before: causal)


def body(c: Config) -> Body:
    """Section 2.3: layers with two streams."""
    sizes: dict[str, Any] = {"act": c.ff_activation, "dropout": c.dropout, "eps": c.layer_norm_eps}
    layers = [Layer(c.d_model, c.n_head, c.d_inner, **sizes) for _ in range(c.n_layer)]
    return Body(
        layers, c.vocab_size, c.d_model, dropout=c.dropout, clamp=c.clamp_len, sees=_sees(c), both_ways=c.bi_data,
        memory=c.mem_len or None, reuse=c.reuse_len or None,
        remembers=(c.use_mems_eval, c.use_mems_train),
    )  # fmt: skip


class Words(nn.Module):
    """Scores of every word: the state times the word embeddings, plus a bias."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, states: States) -> Tensor:
        return linear(states.last, states.table, self.bias)


class Summary(nn.Module):
    """Scores of a text: ``score(dropout(act(dense(x))))`` of what sums it up."""

    def __init__(self, c: Config, labels: int) -> None:
        super().__init__()
        self.pick = SUMMARIES[c.summary_type]
        self.dense = Linear(c.d_model, c.d_model) if c.summary_use_proj else nn.Identity()
        self.act: Callable[[Tensor], Tensor] = (
            nn.Identity() if c.summary_activation is None else ACTIVATIONS[c.summary_activation]
        )
        self.dropout = nn.Dropout(c.summary_last_dropout)
        self.score = Linear(c.d_model, labels)

    def forward(self, states: States) -> Tensor:
        return self.score(self.dropout(self.act(self.dense(self.pick(states.layout)(states.last)))))


def _of_sequences(c: Config) -> SequenceClassification:
    return SequenceClassification(Summary(c, c.num_labels), nn.Identity(), dropout=0.0, problem=c.problem_type)


# Section 3 (tasks).
HEADS: dict[str, Callable[[Config], nn.Module]] = {
    "XLNetModel": lambda c: Bare(),
    "XLNetLMHeadModel": lambda c: MaskedLM(Words(c.vocab_size)),
    "XLNetForSequenceClassification": _of_sequences,
    "XLNetForTokenClassification": lambda c: TokenClassification(Linear(c.d_model, c.num_labels), dropout=0.0),
    "XLNetForMultipleChoice": lambda c: MultipleChoice(Summary(c, 1), nn.Identity(), dropout=0.0),
    "XLNetForQuestionAnswering": lambda c: BeamAnswers(
        c.d_model, starts=c.start_n_top, ends=c.end_n_top, eps=c.layer_norm_eps
    ),
    "XLNetForQuestionAnsweringSimple": lambda c: QuestionAnswering(Linear(c.d_model, 2)),
}

ARGUMENTS = {"XLNetForMultipleChoice": lambda c, given: flat_choices(given)}


def initialise(model: nn.Module, c: Config) -> None:
    """All weights from a normal distribution; biases of linear layers 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=c.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, Attention):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=c.initializer_range)
        if isinstance(module, Body):
            nn.init.normal_(module.unknown, std=c.initializer_range)


_LAYER = "transformer.layer.{}"

KEYS = KeyMap(
    prefix="transformer",
    rules={
        "body.words": Same("transformer.word_embedding"),
        "body.unknown": Same("transformer.mask_emb"),
        "body.layers.{}.attention.inner": Same(f"{_LAYER}.rel_attn"),
        "body.layers.{}.attention.inner.biases.content": Same(f"{_LAYER}.rel_attn.r_w_bias"),
        "body.layers.{}.attention.inner.biases.position": Same(f"{_LAYER}.rel_attn.r_r_bias"),
        "body.layers.{}.attention.inner.segment_bias": Same(f"{_LAYER}.rel_attn.r_s_bias"),
        "body.layers.{}.attention.inner.segments": Same(f"{_LAYER}.rel_attn.seg_embed"),
        "body.layers.{}.attention.norm": Same(f"{_LAYER}.rel_attn.layer_norm"),
        "body.layers.{}.feed_forward.inner.up": Same(f"{_LAYER}.ff.layer_1"),
        "body.layers.{}.feed_forward.inner.down": Same(f"{_LAYER}.ff.layer_2"),
        "body.layers.{}.feed_forward.norm": Same(f"{_LAYER}.ff.layer_norm"),
        "head.words.bias": Same("lm_loss.bias"),
        "head.pooler.dense": Same("sequence_summary.summary"),
        "head.pooler.score": Same("logits_proj"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
        "head.start": Same("start_logits.dense"),
        "head.end": Same("end_logits"),
        "head.end.norm": Same("end_logits.LayerNorm"),
        "head.unanswerable": Same("answer_class"),
    },
    tied={"lm_loss.weight": "transformer.word_embedding.weight"},
)

FAMILY = Family(Config, body, HEADS, KEYS, initialise, ARGUMENTS)
