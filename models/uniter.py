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
- Section 4.1 (VQA): answers are classes of the pair, each with a probability of its own.

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

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .parts.encoder import embeddings_of, layer_of
from .parts.heads import Bare, Pooler, SequenceClassification, States, WordPredictor, class_loss
from .parts.joint import Joint, JointConfig, JointStates, real_places
from .parts.keys import BERT_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import initialise
from .parts.model import Family
from .parts.objectives.transport import alignment_cost
from .parts.outputs import Prediction
from .parts.region_heads import HiddenParts, PairPreTraining, RegionPredictor, TextCloze, TiedFeatures, part
from .parts.regions import Image, in_shares


@dataclass(frozen=True)
class Config(JointConfig):
    """Section 4 and the authors' ``uniter-base.json``; words are BERT's, cased.

    Args:
        itm_ot_lambda: Weight of word-region alignment beside matching; 0 leaves it out.
    """

    model_type: ClassVar[str] = "uniter"
    least_types: ClassVar[int] = 2

    vocab_size: int = 28996
    itm_ot_lambda: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least("itm_ot_lambda", 0)

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
        self.features, self.feature_norm = nn.Linear(features, width), nn.LayerNorm(width, eps=eps)
        self.locations, self.location_norm = nn.Linear(7, width), nn.LayerNorm(width, eps=eps)
        self.mask = nn.Embedding(2, features, padding_idx=0)
        self.norm, self.dropout = nn.LayerNorm(width, eps=eps), nn.Dropout(dropout)

    def forward(self, features: Tensor, locations: Tensor, masked: Tensor | None, types: nn.Embedding) -> Tensor:
        if masked is not None:
            # In place of features that are 0; row 0 of the table adds nothing to the others.
            features = torch.where(masked[..., None], self.mask.weight[1], features)
        x = self.feature_norm(self.features(features)) + self.location_norm(self.locations(locations))
        return self.dropout(self.norm(x + types.weight[1]))


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
        self.pooler, self.matching = Pooler(width), nn.Linear(width, 2)
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


class Answers(nn.Module):
    """``out(norm(gelu(dense(x))))``, in between twice as wide (the authors' ``vqa_output``)."""

    def __init__(self, width: int, answers: int, *, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, 2 * width), nn.LayerNorm(2 * width, eps=eps)
        self.out = nn.Linear(2 * width, answers)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(F.gelu(self.dense(x))))


class QuestionAnswering(nn.Module):
    """Section 4.1: ``labels (B, answers)``, how right each answer is, 0 to 1. The loss is binary
    cross-entropy, summed over answers, mean over the batch."""

    targets = ("labels",)

    def __init__(self, pooler: Pooler, answers: Answers) -> None:
        super().__init__()
        self.pooler, self.answers = pooler, answers

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.answers(self.pooler(states))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape or not labels.is_floating_point():
                seen = f"{labels.dtype} of {tuple(labels.shape)}"
                raise ValueError(f"labels: floats of shape {tuple(logits.shape)} are allowed, got {seen}")
            each = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
            loss = each.sum(1).mean()
        return Prediction(loss, logits, states.hidden_states)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_pairs(c: Config) -> SequenceClassification:
    classifier = nn.Linear(c.hidden_size, c.num_labels)
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_answers(c: Config) -> QuestionAnswering:
    return QuestionAnswering(Pooler(c.hidden_size), Answers(c.hidden_size, c.num_labels, eps=c.layer_norm_eps))


# Sections 3.2 (pre-training) and 4.1 (tasks).
HEADS = {
    "UniterModel": lambda c: Bare(Pooler(c.hidden_size)),
    "UniterForPretraining": Tasks,
    "UniterForMaskedLM": lambda c: TextCloze(_words(c)),
    "UniterForVisualQuestionAnswering": _of_answers,
    "UniterForSequenceClassification": _of_pairs,
}

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
    },
    tied={**tied_words("uniter", "cls.predictions"), "feat_regress.weight": f"{_IMAGE}.img_linear.weight"},
    ignored=(r"embeddings\.position_ids$",),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range))
