"""Images, and images with text: Vision Transformer, UNITER, CLIP, UNIMO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pkernels.models import Model, build, unimo, uniter, vit
from pkernels.models.parts.objectives import UNIMO as UNIMO_TASKS
from pkernels.models.parts.objectives import UNITER as UNITER_TASKS
from pkernels.models.parts.objectives import Pairs, contrast_batch
from pkernels.models.parts.regions import Images, View, read_captions

from .. import scenes, test_clip, test_unimo, test_unimo_paddle, test_uniter, test_vit
from ..agreement import MASKS
from ..dense_joint import padded
from ..images import pixels
from .compare import Agreement, Tensors, Transformers, from_our_files, gradients_apart, outputs_apart, own_gradients
from .encoders import HUGGING_FACE
from .family import Family
from .lessons import Lesson


def _on_disk(oracle: Any) -> Tensors:
    """Gradients under the names of files, which are not always those in transformers' memory."""
    for parameter in oracle.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(folder)
        return {name: x for name, x in load_file(f"{folder}/model.safetensors").items() if bool(x.any())}


# Vision Transformer ---------------------------------------------------------------------------

_VIT = Transformers(
    "ViTForImageClassification",
    test_vit.tiny(num_labels=5),
    {
        "pixel_values": pixels(3, 3, *test_vit.SIZES["odd"]),
        "interpolate_pos_encoding": True,
        "labels": test_vit.CLASSES,
    },
    {"logits": None, "loss": None},
    gradients=_on_disk,
)


def _classes(folder: Path) -> Lesson:
    torch.manual_seed(0)
    model = build("ViTForPreTraining", vit.Config(**test_vit.TINY, labels=test_vit.LABELS)).train()
    images, classes = pixels(8, 3, 14, 14), torch.arange(8) % 5
    return Lesson(model, lambda: model(images, labels=classes).loss)


VIT = Family(
    "Vision Transformer",
    "encoder of patches, dense",
    "classes of images",
    "transformers",
    _VIT,
    _classes,
    {HUGGING_FACE: _VIT.files, "timm": test_vit.test_files_of_timm_are_read},
    measured="ViT",
)

# CLIP -------------------------------------------------------------------------------------------


_MASK = MASKS["right"]
_CLIP = Transformers(
    "CLIPModel",
    test_clip.config(),
    {
        "input_ids": test_clip.texts(_MASK, "first"),
        "attention_mask": _MASK,
        "pixel_values": pixels(3, 3, 14, 14),
        "return_loss": True,
    },
    dict.fromkeys(("logits_per_image", "text_embeds", "image_embeds", "loss")),
    gradients=_on_disk,
)


def _captions(folder: Path) -> Lesson:
    torch.manual_seed(0)
    model = test_clip.ours_of("CLIPModel").train()
    images, mask = pixels(4, 3, 14, 14), torch.ones(4, 7, dtype=torch.long)
    ids = test_clip.texts(mask, "first")
    return Lesson(model, lambda: model(ids, pixel_values=images, return_loss=True).loss)


CLIP = Family(
    "CLIP",
    "two encoders: patches dense, words causal",
    "contrast of images and texts",
    "transformers",
    _CLIP,
    _captions,
    {HUGGING_FACE: _CLIP.files, "OpenAI's": test_clip.test_state_dicts_of_openai_are_read},
    measured="CLIP",
)

# Words and regions ------------------------------------------------------------------------------


def _square(outputs: Iterable[Tensor]) -> Tensor:
    """A loss of all of them."""
    return torch.stack([(x * torch.linspace(0.5, 1.5, x.shape[-1])).square().sum() for x in outputs]).sum()


def _compared(
    want: list[Tensor], got: list[Tensor], oracle: Any, ours: Model, rename: Callable[[str], str]
) -> Agreement:
    for side in (want, got):
        _square(side).backward()
    theirs = {rename(name): x.grad for name, x in oracle.p.items() if x.grad is not None}
    outputs = outputs_apart(zip(got, want, strict=True))
    return Agreement(outputs, gradients_apart(own_gradients(ours), theirs))


def _uniter(folder: Path) -> Agreement:
    """All of its heads for pre-training, some regions being hidden."""
    oracle, ours = test_uniter.loaded(folder, "UniterForPretraining")
    given = test_uniter.inputs(masked=True)
    rows, ours = oracle.states(given), from_our_files(ours, folder / "ours")
    out = ours(**given)
    want = [
        padded([oracle.cloze(x) for x, _ in rows], 7),
        padded([oracle.features(x) for _, x in rows], 6),
        padded([oracle.classes(x) for _, x in rows], 6),
        oracle.linear("itm_output", oracle.pooled(rows)),
    ]
    got = [out.prediction_logits, out.region_features, out.region_logits, out.matching_logits]
    return _compared(want, got, oracle, ours, test_uniter.modern)


def _unimo(folder: Path) -> Agreement:
    """Hidden words and regions in one call, and how relevant text and picture are."""
    oracle, ours = test_unimo.loaded(folder, "UNIMOForPreTraining")
    given = test_unimo.inputs(masked=True)
    targets = {
        "labels": torch.full((3, 9), 5),
        "feature_targets": given["regions"],
        "class_probabilities": torch.full((3, 6, test_unimo.CLASSES), 1 / test_unimo.CLASSES),
    }
    rows, out = oracle.states(given), ours(**given, **targets)
    texts, images = (
        torch.stack([oracle.vector(what, row[side]) for row in rows]) for side, what in ((1, "text"), (0, "image"))
    )
    masked = given["masked_regions"] & (torch.arange(6) < given["region_lengths"][:, None])
    hidden = padded([picture for picture, _ in rows], 6)[masked]
    want = [
        padded([oracle.told("lm", text) for _, text in rows], 9),
        oracle.told("feature", hidden),
        oracle.told("class", hidden),
        torch.stack([oracle.relevance(*both) for both in zip(texts, images, strict=True)]),
    ]
    got = [out.prediction_logits, out.region_features[masked], out.region_logits[masked], out.relevance]
    return _compared(want, got, oracle, ours, str)


def _pairs(folder: Path, view: View) -> Pairs:
    """Captioned pictures."""
    scenes.write(folder, 12, seed=1)
    images = Images(folder)
    return Pairs(read_captions(folder, images), dict(images), scenes.encode, view, scenes.VOCABULARY)


def _small(kind: type, **changes: Any) -> Any:
    return kind(
        vocab_size=len(scenes.WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=60, image_embedding_size=scenes.FEATURES,
        image_class_size=scenes.CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **changes,
    )  # fmt: skip


def _batches(pairs: Pairs, tasks: Any) -> list[dict[str, Tensor]]:
    """One of each task."""
    return [task(pairs, pairs.captions[:8], torch.Generator().manual_seed(3)) for _, task in tasks.values()]


def _tasks_of_uniter(folder: Path) -> Lesson:
    given = _batches(_pairs(folder, uniter.view), UNITER_TASKS)
    torch.manual_seed(0)
    model = build("UniterForPretraining", _small(uniter.Config, itm_ot_lambda=0.1)).eval()
    return Lesson(model, lambda: torch.stack([model(**one).loss for one in given]).sum())


def _tasks_of_unimo(folder: Path) -> Lesson:
    pairs = _pairs(folder, unimo.view)
    given, anchors = _batches(pairs, UNIMO_TASKS), contrast_batch(pairs, pairs.captions[:6])
    torch.manual_seed(0)
    model = build("UNIMOForPreTraining", _small(unimo.Config)).train()

    def loss() -> Tensor:
        return torch.stack([model(**one).loss for one in given]).sum() + unimo.contrast(model, anchors)

    return Lesson(model, loss)


def _authors_of_uniter(folder: Path) -> None:
    test_uniter.loaded(folder, "UniterForPretraining")


UNITER = Family(
    "UNITER",
    "encoder of words and regions, dense",
    "masked LM, masked regions, matching with optimal transport",
    "its equations",
    _uniter,
    _tasks_of_uniter,
    {"the authors'": _authors_of_uniter},
    measured="UNITER",
)
UNIMO = Family(
    "UNIMO",
    "encoder of regions and words; dense, prefix",
    "masked spans and regions, fragments to write, contrast",
    "its equations",
    _unimo,
    _tasks_of_unimo,
    {"the authors' (Paddle)": test_unimo_paddle.test_converts_the_authors_files},
    measured="UNIMO",
)
