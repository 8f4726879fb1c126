"""UNIMO: Towards Unified-Modal Understanding and Generation via Cross-Modal Contrastive Learning
(Li et al. 2020, arXiv:2012.15409).

What differs from RoBERTa (Liu et al. 2019, arXiv:1907.11692), whose layers, words and positions stay:

- Section 2.1: one transformer reads texts, pictures, or both; a picture stands before its text. A region is
  the norm of its features' and its location's linear layers, added. The location is ``[x1, y1, x2, y2,
  area]``; the first region is the whole picture, with the mean of the features (:func:`view`), as [IMG].
  There are no segments.
- Section 2.2: of a hidden region the features are 0, and both they and the detector's probabilities are
  told. Of texts half have hidden spans to be found with all in sight, and half have fragments to be
  written: a call says so by ``source_lengths``, and the same mask is a prefix (``objectives.UNIMO``).
  :func:`generate` writes.
- Section 2.3: contrast. Texts rewritten so that they still fit, or no more, are read together with the
  picture; texts and pictures found by retrieval are read alone (:func:`contrast`). How near a text and a
  picture are is a linear layer on the product of their first tokens' vectors, as in the authors' program
  for retrieval.

Names are those of the authors' program (PaddlePaddle/Research, ``NLP/UNIMO``), matrices ``(in, out)``, but
for the heads of hidden regions, which it does not publish. :func:`convert` reads its folders.

Example:
    >>> import torch
    >>> from pkernels.models import build, unimo
    >>> from pkernels.models.parts.regions import Image
    >>> sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
    >>> model = build("UNIMOForMaskedLM", unimo.Config(image_embedding_size=8, **sizes)).eval()
    >>> image = Image("a", 64, 48, torch.randn(3, 8), torch.tensor([[0.0, 0.0, 32.0, 24.0]]).expand(3, 4))
    >>> regions, locations = unimo.view(image)
    >>> text = torch.tensor([[0, 31414, 2, 0, 232, 2]])  # [CLS] source [SEP] [CLS] target [SEP]
    >>> picture = {"regions": regions[None], "locations": locations[None]}
    >>> model(text, source_lengths=torch.tensor([3]), **picture).logits.shape
    torch.Size([1, 6, 50265])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .parts import files
from .parts.embeddings import AfterPadding, Embeddings
from .parts.encoder import layer_of
from .parts.heads import Bare, Pooler, SequenceClassification, WordPredictor
from .parts.joint import JointConfig, JointStates
from .parts.keys import KeyMap, Same, Stacked, StackedTransposed, Transposed
from .parts.layers import initialise
from .parts.linear import Linear
from .parts.model import Family, Model
from .parts.objectives.candidates import ContrastBatch, candidates_loss
from .parts.paddle import read_variables
from .parts.pair_generation import JointWriter
from .parts.region_heads import HiddenParts, PairPreTraining, RegionPredictor, TextCloze
from .parts.regions import Image, in_shares
from .parts.writing import short


@dataclass(frozen=True)
class Config(JointConfig):
    """Section 3.1 and the authors' ``unimo_base_en.json``, which has no epsilon (1e-5 is its program's) and
    no ``intermediate_size`` (four times the width).

    Args:
        bos_token_id, eos_token_id: [CLS] and [SEP], between which a target stands; RoBERTa's.
    """

    model_type: ClassVar[str] = "unimo"
    least_types: ClassVar[int] = 0

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("pad_token_id", range(min(self.vocab_size, self.max_position_embeddings - 1)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> Config:
        width = values.get("hidden_size")
        inner = {"intermediate_size": 4 * width} if isinstance(width, int) else {}
        return super().from_dict({**inner, **values}, source)

    @classmethod
    def base(cls, **sizes: Any) -> Config:
        return cls(**sizes)

    @classmethod
    def large(cls) -> Config:
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def locations(boxes: Tensor, width: float, height: float) -> Tensor:
    """``boxes (..., 4)``, x1, y1, x2, y2 in pixels, as ``[x1, y1, x2, y2, area]`` in shares of the picture.

    Example:
        >>> locations(torch.tensor([[0.0, 12.0, 32.0, 48.0]]), 64, 48)
        tensor([[0.0000, 0.2500, 0.5000, 1.0000, 0.3750]])
    """
    corners = in_shares(boxes, width, height)
    area = (corners[..., 2:] - corners[..., :2]).prod(-1, keepdim=True)
    return torch.cat([corners, area], -1)


def view(image: Image) -> tuple[Tensor, Tensor]:
    """A picture's features and locations, those of the whole picture in front, as ``objectives.Pairs``
    wants them."""
    features = image.features.float()
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
    seen = locations(image.boxes, image.width, image.height)
    return torch.cat([features.mean(0, keepdim=True), features]), torch.cat([whole, seen])


class RegionEmbeddings(nn.Module):
    """``dropout(norm(features + locations))``; hidden features are 0."""

    def __init__(self, features: int, width: int, *, eps: float, dropout: float) -> None:
        super().__init__()
        self.features, self.locations = Linear(features, width), Linear(5, width)
        self.norm, self.dropout = nn.LayerNorm(width, eps=eps), nn.Dropout(dropout)

    def forward(self, features: Tensor, locations: Tensor, masked: Tensor | None, types: None) -> Tensor:
        if masked is not None:
            features = features.masked_fill(masked[..., None], 0)
        return self.dropout(self.norm(self.features(features) + self.locations(locations)))


def body(c: Config) -> JointWriter:
    """Section 2.1."""
    eps, dropout = c.layer_norm_eps, c.hidden_dropout_prob
    embeddings = Embeddings(
        c.vocab_size, c.max_position_embeddings, 0, c.hidden_size,
        eps=eps, dropout=dropout, padding=c.pad_token_id, numbering=AfterPadding(c.pad_token_id),
    )  # fmt: skip
    regions = RegionEmbeddings(c.image_embedding_size, c.hidden_size, eps=eps, dropout=dropout)
    layers = [layer_of(c) for _ in range(c.num_hidden_layers)]
    return JointWriter(embeddings, regions, layers, ("regions", "text"), begin=c.bos_token_id)


class Vectors(nn.Module):
    """One vector of a text, of a picture, and of both: ``relu(dense(first token))``, and their product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.text, self.image = Pooler(width, "relu"), Pooler(width, "relu")

    def apart(self, states: JointStates) -> tuple[Tensor | None, Tensor | None]:
        """Those of the texts and of the pictures, None where there are none."""
        text = None if states.text is None else self.text(states.text)
        return text, None if states.regions is None else self.image(states.regions)

    def forward(self, states: JointStates) -> Tensor:
        found = [x for x in self.apart(states) if x is not None]
        return found[0] if len(found) == 1 else found[0] * found[1]


@dataclass
class UNIMOPreTraining(PairPreTraining):
    """``relevance (B,)`` of text and picture, where there are both; ``text_vector``, ``image_vector (B, H)``."""

    relevance: Tensor | None = None
    text_vector: Tensor | None = None
    image_vector: Tensor | None = None


torch.export.register_dataclass(UNIMOPreTraining)


class Tasks(HiddenParts):
    """Section 2. A call gets the vectors of what it gives, and besides what its targets need, which are
    those of :class:`HiddenParts`."""

    def __init__(self, c: Config) -> None:
        width, eps = c.hidden_size, c.layer_norm_eps
        features, classes = (RegionPredictor(width, n, eps=eps) for n in (c.image_embedding_size, c.image_class_size))
        super().__init__(_words(c), features, classes)
        self.vectors, self.match = Vectors(width), Linear(width, 1)

    def forward(self, states: JointStates, **hidden: Tensor) -> UNIMOPreTraining:
        text, image = self.vectors.apart(states)
        out = UNIMOPreTraining(hidden_states=states.hidden_states, text_vector=text, image_vector=image)
        if text is not None and image is not None:
            out.relevance = self.match(text * image)[:, 0]
        losses = self.tell(out, states, hidden, every=False)
        out.loss = torch.stack(losses).sum() if losses else None
        return out

    def relevance(self, texts: Tensor, images: Tensor) -> Tensor:
        """``(N, M)``: of each of ``texts (N, H)`` and each of ``images (M, H)``."""
        return (texts * self.match.weight) @ images.t() + self.match.bias


def contrast(model: Model, batch: ContrastBatch, *, temperature: float = 1.0) -> Tensor:
    """Cross-modal contrastive learning (section 2.3, equation 3): three calls of the model, for pairs, for
    texts alone and for pictures alone.

    An anchor's candidates are its own pairs, all texts that retrieval found, beside its picture, and all
    pictures found, beside its text; of what was found its own are the positives.

    Args:
        model: A "UNIMOForPreTraining".
        temperature: Not published.

    Returns:
        The loss, a scalar.
    """
    head = model.head
    if not isinstance(head, Tasks):
        raise ValueError(f"model: a UNIMOForPreTraining is allowed, got {model.architecture}")
    anchors = int(batch.anchors.max()) + 1
    row = torch.arange(anchors, device=batch.anchors.device)[:, None]
    own = batch.anchors == row
    scores = [model(**batch.pairs).relevance.expand(anchors, -1)]
    positive, allowed = [own & batch.positive], [own]
    if len(batch.text_anchors) or len(batch.image_anchors):
        texts, images = model(**batch.texts).text_vector, model(**batch.images).image_vector
        scores.append(head.relevance(texts[anchors:], images[:anchors]).t())
        scores.append(head.relevance(texts[:anchors], images[anchors:]))
        for found in (batch.text_anchors, batch.image_anchors):
            positive.append(found == row)
            allowed.append(torch.ones_like(positive[-1]))
    both = (torch.cat(x, 1) for x in (positive, allowed))
    return candidates_loss(torch.cat(scores, 1), *both, temperature=temperature)


def convert(folder: str | Path, config: str | Path, local_dir: str | Path, *, architecture: str = "UNIMOModel") -> None:
    """From the authors' files to a directory that ``from_pretrained`` loads.

    Args:
        folder: Of their parameters, a file each.
        config: Their JSON file of settings.
        local_dir: To be written.
        architecture: That config.json will name.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: Naming the file that cannot be read, or the architecture.
    """
    if architecture not in HEADS:
        raise ValueError(f"architecture: one of {', '.join(HEADS)} is allowed, got {architecture!r}")
    values = {**files.read_json(Path(config)), "model_type": "unimo", "architectures": [architecture]}
    Config.from_dict(values, str(config))
    files.write(local_dir, values, read_variables(folder))


def generate(model: Model, settings: Mapping[str, Any] | None = None, **given: Any) -> Tensor:
    """Texts to pictures, to texts, or to both (section 2.2, sequence-to-sequence generation): ``model.generate``
    with at most 20 words, where nothing else is said.

    Args:
        model: One that predicts words.
        settings: Those of :class:`Settings`, under the names of transformers' ``generate``:
            ``max_new_tokens``, ``num_beams``, ...
        given: The model's arguments for the sources: ``input_ids``, ``lengths``, ``regions``, ...

    Returns:
        ``(B * num_return_sequences, n)``: targets without the [CLS] before them, with padding after the
        end of each.

    Raises:
        ValueError: Naming the argument.

    Example:
        >>> from pkernels.models import build
        >>> sizes = {"vocab_size": 50, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 24}
        >>> c = Config(num_hidden_layers=1, image_embedding_size=8, eos_token_id=None, **sizes)
        >>> model = build("UNIMOForMaskedLM", c).eval()
        >>> generate(model, {"max_new_tokens": 4}, regions=torch.randn(2, 3, 8), locations=torch.rand(2, 3, 5)).shape
        torch.Size([2, 4])
    """
    if not isinstance(model.config, Config) or not hasattr(model.head, "words"):
        raise ValueError(f"model: a UNIMO that predicts words is allowed, got {model.architecture}")
    return model.generate(**short(settings or {}), **given)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_pairs(c: Config) -> SequenceClassification:
    classifier = Linear(c.hidden_size, c.num_labels)
    return SequenceClassification(Vectors(c.hidden_size), classifier, dropout=c.head_dropout, problem=c.problem_type)


# Sections 2 (pre-training) and 3 (tasks).
HEADS = {
    "UNIMOModel": lambda c: Bare(),
    "UNIMOForPreTraining": Tasks,
    "UNIMOForMaskedLM": lambda c: TextCloze(_words(c)),
    "UNIMOForSequenceClassification": _of_pairs,
}


def _linear(ours: str, theirs: str) -> dict[str, Same | Stacked]:
    return {f"{ours}.weight": Transposed(f"{theirs}.w_0"), f"{ours}.bias": Same(f"{theirs}.b_0")}


def _norm(ours: str, theirs: str) -> dict[str, Same | Stacked]:
    return {f"{ours}.weight": Same(f"{theirs}_layer_norm_scale"), f"{ours}.bias": Same(f"{theirs}_layer_norm_bias")}


def _predictor(ours: str, theirs: str) -> dict[str, Same | Stacked]:
    trans = f"{theirs}_trans"
    return {**_linear(f"{ours}.dense", f"{trans}_fc"), **_norm(f"{ours}.norm", trans)}


_LAYER, _OURS = "encoder_layer_{}", "body.layers.{}"
_QKV = tuple(f"{_LAYER}_multi_head_att_{name}_fc" for name in ("query", "key", "value"))

KEYS = KeyMap(
    prefix="unimo",
    rules={
        "body.embeddings.words.weight": Same("word_embedding"),
        "body.embeddings.positions.weight": Same("pos_embedding"),
        **_norm("body.embeddings.norm", "pre_encoder"),
        **_linear("body.regions.features", "image_emb"),
        **_linear("body.regions.locations", "image_loc"),
        **_norm("body.regions.norm", "v_pre_encoder"),
        f"{_OURS}.attention.inner.qkv.weight": StackedTransposed(tuple(f"{name}.w_0" for name in _QKV)),
        f"{_OURS}.attention.inner.qkv.bias": Stacked(tuple(f"{name}.b_0" for name in _QKV)),
        **_linear(f"{_OURS}.attention.inner.out", f"{_LAYER}_multi_head_att_output_fc"),
        **_norm(f"{_OURS}.attention.norm", f"{_LAYER}_post_att"),
        **_linear(f"{_OURS}.feed_forward.inner.up", f"{_LAYER}_ffn_fc_0"),
        **_linear(f"{_OURS}.feed_forward.inner.down", f"{_LAYER}_ffn_fc_1"),
        **_norm(f"{_OURS}.feed_forward.norm", f"{_LAYER}_post_ffn"),
        **_predictor("head.words", "mask_lm"),
        "head.words.bias": Same("mask_lm_out_fc.b_0"),
        **_predictor("head.features", "mask_feature"),
        **_linear("head.features.decoder", "mask_feature_out_fc"),
        **_predictor("head.classes", "mask_class"),
        **_linear("head.classes.decoder", "mask_class_out_fc"),
        **_linear("head.vectors.text.dense", "pooled_fc_text"),
        **_linear("head.vectors.image.dense", "pooled_fc_image"),
        **_linear("head.pooler.text.dense", "pooled_fc_text"),
        **_linear("head.pooler.image.dense", "pooled_fc_image"),
        **_linear("head.match", "match_fc"),
        "head.classifier.weight": Transposed("cls_out_w"),
        "head.classifier.bias": Same("cls_out_b"),
    },
    # What an optimizer kept, and segments, which the program makes and does not use.
    ignored=(r"_moment[12]_\d+$", r"_beta[12]_pow_acc_\d+$", r"^(learning_rate|@LR|loss_scaling)", r"^sent_embedding$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range))
