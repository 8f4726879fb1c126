"""UniLM: Unified Language Model Pre-training for Natural Language Understanding and Generation
(Dong et al. 2019, arXiv:1905.03197), and what UniLMv2 (Bao et al. 2020, arXiv:2002.12804) adds.

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805), whose layers stay:

- Section 2.2, equation 2: one model, four answers to who sees whom. A call says it by a
  pattern, which goes to the kernel as it is: no mask of pairs is ever made.
- Section 2.1: the segment embeddings tell the mode (``objectives.MODES`` has both).
- Section 2.3: the cloze in every mode, next sentence prediction in the bidirectional one alone
  (``objectives.unilm_batches``).
- Section 2.5: fine-tuned for generation, a model recovers masked words of the target
  (``objectives.mask_targets``), its end among them; to write, it puts a [MASK] after what stands
  there, again and again (:func:`generate`).
- UniLMv2: one more term of the scores, by T5's buckets of distances, with one table for all layers.

The names of parameters, both layouts of files (projections apart, or fused without a bias of keys,
which a softmax does not feel) and the ids of segments are those of the authors' programs
(microsoft/unilm, ``unilm-v1`` and ``s2s-ft``). Their decoder has 1e-5 as epsilon of every LayerNorm;
here training and decoding have the config's.

Example:
    >>> import torch
    >>> from pkernels.models import build, unilm
    >>> config = unilm.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> model = build("UniLMForSeq2SeqLM", config).eval()
    >>> text = torch.tensor([[101, 7592, 102, 103, 102]])  # [SOS] source [EOS] target [EOS]
    >>> model(text, source_lengths=torch.tensor([3])).logits.shape
    torch.Size([1, 5, 28996])
    >>> unilm.generate(model, text[:, :3], max_new_tokens=4).shape[0]
    1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import Band, dense, prefix_lm
from .parts.cloze_generation import ClozeWriter
from .parts.embeddings import inputs_layout
from .parts.encoder import ClassifierConfig, embeddings_of, layer_of
from .parts.heads import (
    Bare,
    MaskedLM,
    Pooler,
    SequenceClassification,
    States,
    WordPredictor,
    WordsAndRelation,
    class_loss,
    labels_of,
    token_loss,
)
from .parts.keys import BERT_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import initialise
from .parts.layouts import IGNORED
from .parts.linear import Linear
from .parts.model import Family, Model
from .parts.objectives import MODES
from .parts.outputs import Prediction, PreTraining
from .parts.relative import RelativeBias
from .parts.runs import runs
from .parts.writing import short


@dataclass(frozen=True)
class Config(ClassifierConfig):
    """Section 2 and section 3's "Pre-training Setup". What a file leaves out has the default here, which
    is that of the authors' ``UnilmConfig``.

    Args:
        source_type_id, target_type_id: Segments of sources and targets, in fine-tuning and generation.
        rel_pos_bins, max_rel_pos: Buckets and the distance where the last begins (UniLMv2); 0 for none.
        label_smoothing: Of the loss of fine-tuning for generation.
        mask_token_id, eos_token_id: What generation appends, and what ends a target (if anything).
    """

    model_type: ClassVar[str] = "unilm"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **ClassifierConfig.only,
        # Experiments of the authors' programs that no published model has.
        "ffn_type": (0,),
        "new_pos_ids": (False,),
        "num_qkv": (0, 1),
        "relax_projection": (0, 1),
        "seg_emb": (False,),
    }

    vocab_size: int = 28996
    type_vocab_size: int = 6
    source_type_id: int = 0
    target_type_id: int = 1
    rel_pos_bins: int = 0
    max_rel_pos: int = 0
    label_smoothing: float = 0.0
    mask_token_id: int = 103
    eos_token_id: int | None = 102

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_probability("label_smoothing")
        self.check_choice("source_type_id", range(self.type_vocab_size))
        self.check_choice("target_type_id", range(self.type_vocab_size))
        if self.rel_pos_bins < 0 or self.rel_pos_bins % 4:
            raise ValueError(f"rel_pos_bins: 0 or a multiple of 4 is allowed, got {self.rel_pos_bins}")
        if self.rel_pos_bins and self.max_rel_pos <= self.rel_pos_bins // 4:
            least = self.rel_pos_bins // 4 + 1
            raise ValueError(f"max_rel_pos: at least {least} (rel_pos_bins / 4 + 1) is allowed, got {self.max_rel_pos}")

    @classmethod
    def base(cls, **sizes: Any) -> Config:
        """unilm1-base-cased, of BERT-base's size."""
        return cls(**{"source_type_id": 4, "target_type_id": 5, **sizes})

    @classmethod
    def large(cls) -> Config:
        """unilm1-large-cased, the paper's model."""
        return cls.base(**_LARGE)

    @classmethod
    def base_v2(cls, **sizes: Any) -> Config:
        """unilm2-base-uncased."""
        published = {"vocab_size": 30522, "type_vocab_size": 2, "rel_pos_bins": 32, "max_rel_pos": 128}
        return cls(**{**published, **sizes})

    @classmethod
    def large_v2(cls) -> Config:
        """unilm2-large-uncased."""
        return cls.base_v2(**_LARGE)


_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


class Body(ClozeWriter):
    """BERT's encoder, told at each call who sees whom."""

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
        pattern: Band = dense,
        output_hidden_states: bool = False,
    ) -> States:
        """As BERT's, with a ``pattern``. Its ``columns (B,)``, where it has some, count from the row's
        first place."""
        if not isinstance(pattern, Band):
            raise ValueError(f"pattern: a Band is allowed, got {type(pattern).__name__}")
        layout = inputs_layout(input_ids, inputs_embeds, attention_mask, lengths, offsets)
        bias = None
        if self.relative is not None:
            if position_ids is not None:
                raise ValueError("position_ids: None is allowed beside relative positions (rel_pos_bins)")
            layout, bias = runs(layout), self.relative(layout.longest)
        x = self.embeddings(layout, input_ids, token_type_ids, position_ids, inputs_embeds)
        return self.through(x, layout, bias, pattern, output_hidden_states=output_hidden_states)


def body(c: Config) -> Body:
    relative = None
    if c.rel_pos_bins:
        relative = RelativeBias(c.num_attention_heads, bins=c.rel_pos_bins, longest=c.max_rel_pos)
    return Body(
        embeddings_of(c, c.hidden_size), [layer_of(c) for _ in range(c.num_hidden_layers)], relative,
        mask=c.mask_token_id, types=(c.source_type_id, c.target_type_id),
    )  # fmt: skip


def in_mode(mode: str, first: Tensor, size: int, types: tuple[int, int] | None = None) -> dict[str, Any]:
    """What a call of a model gets to work in a mode (sections 2.1 and 2.2).

    Args:
        mode: Of ``objectives.MODES``: "bidirectional", "seq2seq", "left_to_right" or "right_to_left".
        first: ``(B,)``, tokens of the first segments, [SOS] and [EOS] among them (and padding, if it
            stands before).
        size: Tokens in a row of the batch.
        types: token_type_ids of the two segments, if not the mode's own.

    Example:
        >>> given = in_mode("seq2seq", torch.tensor([2]), 4)
        >>> given["token_type_ids"].tolist(), given["pattern"].dense(4, 4)[0].int().tolist()
        ([[4, 4, 5, 5]], [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    """
    if mode not in MODES:
        raise ValueError(f"mode: one of {', '.join(MODES)} is allowed, got {mode!r}")
    a, b = types or MODES[mode].types
    second = torch.arange(size, device=first.device) >= first[:, None]
    return {"token_type_ids": second * (b - a) + a, "pattern": MODES[mode].pattern(first)}


def _with_sources(c: Config, given: dict[str, Any]) -> dict[str, Any]:
    """Section 2.5: ``source_lengths (B,)`` as the pattern and the segments."""
    given = dict(given)
    lengths, x = given.pop("source_lengths", None), given.get("input_ids")
    x = given.get("inputs_embeds") if x is None else x
    if not isinstance(lengths, Tensor) or lengths.dim() != 1 or lengths.is_floating_point():
        got = tuple(lengths.shape) if isinstance(lengths, Tensor) else lengths
        raise ValueError(f"source_lengths: integers of shape (B,) are allowed, got {got}")
    if given.get("token_type_ids") is not None or not isinstance(x, Tensor):
        return {**given, "pattern": prefix_lm(lengths)}
    if given.get("offsets") is not None:
        raise ValueError("token_type_ids: those of packed sequences (offsets) are to be given, got None")
    if lengths.shape[0] != x.shape[0]:
        raise ValueError(f"source_lengths: shape ({x.shape[0]},) is allowed, got {tuple(lengths.shape)}")
    return {**given, **in_mode("seq2seq", lengths, x.shape[1], (c.source_type_id, c.target_type_id))}


class ClozeAndRelation(WordsAndRelation):
    """Section 2.3. Without a ``next_sentence_label``, in all modes but the bidirectional one, the loss
    is the cloze's."""

    def forward(
        self, states: States, labels: Tensor | None = None, next_sentence_label: Tensor | None = None
    ) -> PreTraining:
        logits, relation = self.words(states), self.relation(self.pooler(states))
        losses = [
            token_loss(states.layout, logits, labels),
            class_loss(self.targets[1], relation, next_sentence_label),
        ]
        known = [loss for loss in losses if loss is not None]
        loss = torch.stack(known).sum() if known else None
        return PreTraining(loss, states.layout.unpack(logits), relation, states.hidden_states)


class SmoothedLM(MaskedLM):
    """Section 3.1: the cloze with some of a label's probability spread over all other words but the
    padding. The loss is the divergence from that, so it can reach 0 (the authors'
    ``LabelSmoothingLoss``)."""

    def __init__(self, words: nn.Module, *, smoothing: float, padding: int) -> None:
        super().__init__(words)
        self.smoothing, self.padding = smoothing, padding

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.words(states)
        if labels is None or not self.smoothing:
            loss = token_loss(states.layout, logits, labels)
        else:
            loss = self._divergence(logits, labels_of(states.layout, labels, logits.shape[-1]))
        return Prediction(loss, states.layout.unpack(logits), states.hidden_states)

    def _divergence(self, logits: Tensor, labels: Tensor) -> Tensor:
        chosen = labels != IGNORED
        likely = logits[chosen].log_softmax(-1)
        most, each = 1 - self.smoothing, self.smoothing / (likely.shape[-1] - 2)
        found = likely.gather(1, labels[chosen][:, None])[:, 0]
        others = likely.sum(-1) - found - likely[:, self.padding]
        entropy = most * math.log(most) + self.smoothing * math.log(each)
        return (entropy - most * found - each * others).mean()


class Keys(KeyMap):
    """BERT's names; files with fused projections are read too."""

    def canonical(self, theirs: Mapping[str, Tensor], known: Iterable[str]) -> dict[str, Tensor]:
        return super().canonical(apart(theirs), known)


def apart(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file with fused projections, under the names of three. Keys have no bias there,
    so theirs is 0.

    Example:
        >>> fused = {"self.qkv_linear.weight": torch.ones(6, 2), "self.q_bias": torch.ones(1, 1, 2)}
        >>> {name: tuple(tensor.shape) for name, tensor in apart(fused).items()}
        {'self.query.weight': (2, 2), 'self.key.weight': (2, 2), 'self.value.weight': (2, 2), 'self.query.bias': (2,)}
    """
    out: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        leaf = next((leaf for leaf in _FUSED if name.endswith(leaf)), None)
        if leaf is None:
            out[name.replace("encoder.rel_pos_bias.", "rel_pos_bias.")] = tensor
        else:
            out |= {name.removesuffix(leaf) + part: x for part, x in _FUSED[leaf](tensor).items()}
    return out


_FUSED: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    ".qkv_linear.weight": lambda x: dict(
        zip((".query.weight", ".key.weight", ".value.weight"), x.chunk(3), strict=False)
    ),
    ".q_bias": lambda x: {".query.bias": x.flatten()},
    ".v_bias": lambda x: {".value.bias": x.flatten(), ".key.bias": torch.zeros_like(x.flatten())},
}


def generate(
    model: Model,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Targets to sources (section 2.5), by a model with a word predictor: ``model.generate`` with at most 20
    words, where nothing else is said.

    Args:
        input_ids: ``(B, S)``, [SOS] source [EOS], padded, as ``attention_mask (B, S)`` or, on the right,
            ``lengths (B,)`` say.
        settings: Those of :class:`Settings`, under the names of transformers' ``generate``:
            ``max_new_tokens``, ``num_beams``, ``do_sample``, ...

    Returns:
        ``(B * num_return_sequences, n)``: targets alone, with padding after the end of each.

    Raises:
        ValueError: Naming the argument.

    Example:
        >>> from pkernels.models import build
        >>> sizes = {"vocab_size": 200, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 24}
        >>> model = build("UniLMForSeq2SeqLM", Config.base(num_hidden_layers=1, **sizes)).eval()
        >>> source = torch.tensor([[101, 7, 8, 102], [101, 9, 102, 0]])
        >>> generate(model, source, lengths=torch.tensor([4, 3]), max_new_tokens=5, eos_token_id=()).shape
        torch.Size([2, 5])
    """
    if not isinstance(model.config, Config) or not hasattr(model.head, "words"):
        raise ValueError(f"model: a UniLM that predicts words is allowed, got {model.architecture}")
    return model.generate(input_ids, attention_mask, lengths=lengths, **short(settings))


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Linear(c.hidden_size, c.num_labels)
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=c.head_dropout, problem=c.problem_type)


# Sections 2.3 (pre-training) and 2.5 (fine-tuning).
HEADS = {
    "UniLMModel": lambda c: Bare(Pooler(c.hidden_size)),
    "UniLMForPreTraining": lambda c: ClozeAndRelation(_words(c), Pooler(c.hidden_size), Linear(c.hidden_size, 2)),
    "UniLMForMaskedLM": lambda c: MaskedLM(_words(c)),
    "UniLMForSeq2SeqLM": lambda c: SmoothedLM(_words(c), smoothing=c.label_smoothing, padding=c.pad_token_id or 0),
    "UniLMForSequenceClassification": _of_sequences,
}

ARGUMENTS = {"UniLMForSeq2SeqLM": _with_sources}

KEYS = Keys(
    prefix="bert",
    rules={
        **encoder_rules("bert"),
        **BERT_HEADS,
        "head.pooler": Same("bert.pooler"),
        "body.relative.table": Same("bert.rel_pos_bias"),
    },
    tied=tied_words("bert", "cls.predictions"),
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$", r"crit_mask_lm_smoothed\.one_hot$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
