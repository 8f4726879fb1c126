"""UNITER: UNiversal Image-TExt Representation Learning (Chen et al. 2019, arXiv:1909.11740).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805), whose layers stay:

- Section 3.1: a picture is the regions that a detector found. The embedding of a region is the norm of
  its features' and its location's, each a linear layer and a norm of its own; the location is
  ``[x1, y1, x2, y2, w, h, w * h]`` (:func:`locations`). Regions stand behind the words, and all see all.
- The authors' program (ChenRocks/UNITER) gives words type 0 and regions type 1, which the paper leaves out.
- Section 3.2: words are hidden, or regions, never both (``objectives.uniter_batches``). Of a hidden region
  the features are 0 and a learned vector is added. What was there is told in three ways: the features, by
  the matrix that takes them in, transposed; the detector's best class; its probabilities of classes.
- Section 3.2: image-text matching from [CLS], and word-region alignment: the cost of carrying words over
  to regions is to fall where they match and to rise where not.
- Section 4.1: answers to questions, captions and pictures ranked, statements about two pictures, regions that are
  meant (``uniter_tasks.py``). Of two pictures the second's regions have type 2, which pre-training does not know:
  :func:`for_task` puts a task on top of a trained model.

A published file (``uniter-base.pt``, ``uniter-base.json``) loads as ``pytorch_model.bin`` with
``config.json``, once that says ``"model_type": "uniter"`` and an architecture.

Example:
    >>> import torch
    >>> from pkernels.models import build, uniter
    >>> sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
    >>> model = build("UniterModel", uniter.Config(image_embedding_size=8, **sizes)).eval()
    >>> text, lengths = torch.tensor([[101, 7592, 102], [101, 102, 0]]), torch.tensor([3, 2])
    >>> boxes = uniter.locations(torch.tensor([[0.0, 0.0, 32.0, 24.0]]), 64, 48).expand(2, 4, 7)
    >>> picture = {"regions": torch.randn(2, 4, 8), "locations": boxes, "region_lengths": torch.tensor([1, 4])}
    >>> model(text, lengths=lengths, **picture).last_hidden_state.shape
    torch.Size([2, 7, 12])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .parts.encoder import embeddings_of, layer_of
from .parts.heads import Bare, Pooler, SequenceClassification, WordPredictor, class_loss
from .parts.joint import Joint, JointConfig, JointStates, real_places
from .parts.keys import BERT_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import initialise
from .parts.linear import Linear
from .parts.model import Family, Model
from .parts.objectives.transport import alignment_cost
from .parts.region_heads import HiddenParts, PairPreTraining, RegionPredictor, TextCloze, TiedFeatures, part
from .parts.regions import Image, in_shares
from .uniter_tasks import Answers, Expression, Paired, PairedAttention, QuestionAnswering, Retrieval, Triplet


@dataclass(frozen=True)
class Config(JointConfig):
    """Section 4 and the authors' ``uniter-base.json``; words are BERT's, cased.

    Args:
        itm_ot_lambda: Weight of word-region alignment beside matching; 0 leaves it out.
        rank_margin: By how much a text is to fit its picture better than another, in retrieval.
    """

    model_type: ClassVar[str] = "uniter"
    least_types: ClassVar[int] = 2

    vocab_size: int = 28996
    itm_ot_lambda: float = 0.1
    rank_margin: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least("itm_ot_lambda", 0)
        self.check_least("rank_margin", 0)

    @classmethod
    def base(cls, **sizes: Any) -> Config:
        return cls(**sizes)

    @classmethod
    def large(cls) -> Config:
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def locations(boxes: Tensor, width: float, height: float) -> Tensor:
    """Section 3.1: ``boxes (..., 4)``, x1, y1, x2, y2 in pixels, as ``[x1, y1, x2, y2, w, h, w * h]`` in
    shares of the picture's width and height.

    Example:
        >>> locations(torch.tensor([[0.0, 12.0, 32.0, 48.0]]), 64, 48)
        tensor([[0.0000, 0.2500, 0.5000, 1.0000, 0.5000, 0.7500, 0.3750]])
    """
    corners = in_shares(boxes, width, height)
    sides = corners[..., 2:] - corners[..., :2]
    return torch.cat([corners, sides, sides.prod(-1, keepdim=True)], -1)


def view(image: Image) -> tuple[Tensor, Tensor]:
    """A picture's features and locations, as ``objectives.Pairs`` wants them."""
    return image.features, locations(image.boxes, image.width, image.height)


class RegionEmbeddings(nn.Module):
    """``dropout(norm(norm(features) + norm(locations) + type))`` (section 3.1, figure 1)."""

    def __init__(self, features: int, width: int, *, eps: float, dropout: float) -> None:
        super().__init__()
        self.features, self.feature_norm = Linear(features, width), nn.LayerNorm(width, eps=eps)
        self.locations, self.location_norm = Linear(7, width), nn.LayerNorm(width, eps=eps)
        self.mask = nn.Embedding(2, features, padding_idx=0)
        self.norm, self.dropout = nn.LayerNorm(width, eps=eps), nn.Dropout(dropout)

    def forward(self, features: Tensor, locations: Tensor, masked: Tensor | None, types: Tensor) -> Tensor:
        if masked is not None:
            # In place of features that are 0; row 0 of the table adds nothing to the others.
            features = torch.where(masked[..., None], self.mask.weight[1], features)
        x = self.feature_norm(self.features(features)) + self.location_norm(self.locations(locations))
        return self.dropout(self.norm(x + types))


def body(c: Config) -> Joint:
    """Figure 1: two embedders and one transformer."""
    sizes = {"eps": c.layer_norm_eps, "dropout": c.hidden_dropout_prob}
    regions = RegionEmbeddings(c.image_embedding_size, c.hidden_size, **sizes)
    layers = [layer_of(c) for _ in range(c.num_hidden_layers)]
    return Joint(embeddings_of(c, c.hidden_size), regions, layers, ("text", "regions"))


class Tasks(HiddenParts):
    """Section 3.2. A call names its tasks by their targets, and gets what those need; without any it gets
    all that its input has room for.

    Args (of a call):
        labels, feature_targets, class_labels, class_probabilities: As :class:`HiddenParts` takes them.
        matching_labels: ``(B,)``, 1 where text and picture belong together, else 0.
    """

    targets = (*HiddenParts.targets, "matching_labels")

    def __init__(self, c: Config) -> None:
        width, eps = c.hidden_size, c.layer_norm_eps
        features = TiedFeatures(width, c.image_embedding_size, eps=eps)
        super().__init__(_words(c), features, RegionPredictor(width, c.image_class_size, eps=eps))
        self.pooler, self.matching = Pooler(width), Linear(width, 2)
        self.alignment = c.itm_ot_lambda

    def forward(self, states: JointStates, matching_labels: Tensor | None = None, **hidden: Tensor) -> PairPreTraining:
        out = PairPreTraining(hidden_states=states.hidden_states)
        every = matching_labels is None and not hidden
        losses = self.tell(out, states, hidden, every=every)
        if matching_labels is not None or (every and states.text is not None and states.regions is not None):
            out.matching_logits = self.matching(self.pooler(states))
            losses += self._matching_losses(states, out.matching_logits, matching_labels)
        out.loss = torch.stack(losses).sum() if losses else None
        return out

    def _matching_losses(self, states: JointStates, logits: Tensor, labels: Tensor | None) -> list[Tensor]:
        if labels is None:
            return []
        loss = class_loss("matching_labels", logits, labels)
        assert loss is not None
        if not self.alignment:
            return [loss]
        text, regions = part("text", states), part("regions", states)
        x, y = (one.layout.unpack(one.last) for one in (text, regions))
        costs = alignment_cost(x, y, real_places(text.layout), real_places(regions.layout))
        aligned = torch.where(labels == 1, costs, -costs).mean()
        return [loss, self.alignment * aligned]


def for_task(trained: Model, architecture: str, **changes: Any) -> Model:
    """A model of a task that begins with all that a trained one has of it; the rest is new.

    For NLVR2 regions may have a type more, of a second picture, that begins as that of the first; for retrieval
    the score is at first that of pre-training's matching (both as in the authors' program).

    Args:
        trained: A UNITER.
        architecture: One of ``HEADS``.
        changes: Of its config, such as ``labels``.

    Example:
        >>> from pkernels.models import build
        >>> sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
        >>> trained = build("UniterForPretraining", Config(image_embedding_size=8, **sizes))
        >>> for_task(trained, "UniterForNlvr2Paired").config.type_vocab_size
        3
    """
    from .pretrained import build  # which knows families by name

    c = trained.config
    if not isinstance(c, Config) or architecture not in HEADS:
        raise ValueError(
            f"trained, architecture: a UNITER and one of {', '.join(HEADS)} are allowed, got {trained.architecture} "
            f"and {architecture!r}"
        )
    if architecture.startswith("UniterForNlvr2"):
        changes = {"type_vocab_size": max(3, c.type_vocab_size), **changes}
    new = build(architecture, replace(c, **changes))
    have, own = trained.state_dict(), new.state_dict()
    types = "body.embeddings.types.weight"
    have[types] = have[types][torch.arange(len(own[types])).clamp(max=len(have[types]) - 1)]
    if "head.ranking.weight" in own and "head.matching.weight" in have:
        have |= {f"head.ranking.{name}": have[f"head.matching.{name}"][1:] for name in ("weight", "bias")}
    new.load_state_dict({name: have[name] if _fits(have, name, x) else x for name, x in own.items()})
    return new.train(trained.training)


def _fits(tensors: dict[str, Tensor], name: str, x: Tensor) -> bool:
    return name in tensors and tensors[name].shape == x.shape


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_pairs(c: Config) -> SequenceClassification:
    classifier = Linear(c.hidden_size, c.num_labels)
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_answers(c: Config) -> QuestionAnswering:
    return QuestionAnswering(Pooler(c.hidden_size), Answers(c.hidden_size, c.num_labels, eps=c.layer_norm_eps))


# Sections 3.2 (pre-training) and 4.1 (tasks).
HEADS = {
    "UniterModel": lambda c: Bare(Pooler(c.hidden_size)),
    "UniterForPretraining": Tasks,
    "UniterForMaskedLM": lambda c: TextCloze(_words(c)),
    "UniterForVisualQuestionAnswering": _of_answers,
    "UniterForVisualEntailment": _of_answers,
    "UniterForImageTextRetrieval": lambda c: Retrieval(Pooler(c.hidden_size), c.hidden_size, c.rank_margin),
    "UniterForNlvr2Paired": lambda c: Paired(Pooler(c.hidden_size), c.hidden_size),
    "UniterForNlvr2PairedAttn": lambda c: PairedAttention(
        c.hidden_size, c.num_attention_heads,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob,
    ),
    "UniterForNlvr2Triplet": lambda c: Triplet(Pooler(c.hidden_size), c.hidden_size),
    "UniterForReferringExpressionComprehension": lambda c: Expression(c.hidden_size),
    "UniterForSequenceClassification": _of_pairs,
}  # fmt: skip

_IMAGE = "uniter.img_embeddings"

KEYS = KeyMap(
    prefix="uniter",
    rules={
        **encoder_rules("uniter"),
        **BERT_HEADS,
        "body.regions.features": Same(f"{_IMAGE}.img_linear"),
        "body.regions.feature_norm": Same(f"{_IMAGE}.img_layer_norm"),
        "body.regions.locations": Same(f"{_IMAGE}.pos_linear"),
        "body.regions.location_norm": Same(f"{_IMAGE}.pos_layer_norm"),
        "body.regions.mask": Same(f"{_IMAGE}.mask_embedding"),
        "body.regions.norm": Same(f"{_IMAGE}.LayerNorm"),
        "head.pooler": Same("uniter.pooler"),
        "head.features.dense": Same("feat_regress.net.0"),
        "head.features.norm": Same("feat_regress.net.2"),
        "head.features.bias": Same("feat_regress.bias"),
        "head.classes.dense": Same("region_classifier.net.0"),
        "head.classes.norm": Same("region_classifier.net.2"),
        "head.classes.decoder": Same("region_classifier.net.3"),
        "head.matching": Same("itm_output"),
        "head.answers.dense": Same("vqa_output.0"),
        "head.answers.norm": Same("vqa_output.2"),
        "head.answers.out": Same("vqa_output.3"),
        "head.ranking": Same("rank_output"),
        "head.score": Same("re_output"),
        "head.answer": Same("nlvr2_output"),
        "head.left.qkv.weight": Same("attn1.in_proj_weight"),
        "head.left.qkv.bias": Same("attn1.in_proj_bias"),
        "head.left.out": Same("attn1.out_proj"),
        "head.right.qkv.weight": Same("attn2.in_proj_weight"),
        "head.right.qkv.bias": Same("attn2.in_proj_bias"),
        "head.right.out": Same("attn2.out_proj"),
        "head.both": Same("fc.0"),
        "head.weigh": Same("attn_pool.fc.0"),
    },
    tied={**tied_words("uniter", "cls.predictions"), "feat_regress.weight": f"{_IMAGE}.img_linear.weight"},
    ignored=(r"embeddings\.position_ids$",),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range))
