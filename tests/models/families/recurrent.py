"""States and memories from one piece of text to the next: ELMo, Transformer-XL, XLNet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pkernels.models import build, elmo, transformer_xl, xlnet
from pkernels.models.parts.objectives import partial_spans, permutation_lm

from .. import bilm, test_elmo, test_elmo_files, test_transformer_xl, test_xlnet
from ..agreement import MASKS, inputs
from ..dense_transformer_xl import log_probabilities, read
from .compare import Agreement, Transformers, from_our_files, gradients_apart, outputs_apart, own_gradients
from .encoders import HUGGING_FACE
from .family import Family
from .lessons import Lesson

# ELMo -------------------------------------------------------------------------------------


def _bilm(folder: Path) -> Agreement:
    """All layers of ragged sentences, and the states they end in."""
    c, variables, made = test_elmo.pair(torch.float32)
    ours, sentences = from_our_files(made, folder), test_elmo.TEXTS["ragged"]
    ids, lengths = elmo.character_ids(sentences, c.max_characters_per_token)
    out = ours(ids, lengths=lengths, output_hidden_states=True)
    found: list[tuple[Tensor, Tensor]] = []
    for row, words in enumerate(sentences):
        layers, ends = bilm.sentence(c, variables, words, {})
        found += [(x[row, : len(words)], want[1:-1]) for x, want in zip(out.hidden_states, layers, strict=True)]
        for (way, layer), (h, cells) in ends.items():
            found += [(out.states.h[layer, way, row], h), (out.states.c[layer, way, row], cells)]
    weights = [test_elmo.weights_like(want) for _, want in found]
    for side in range(2):
        torch.stack([(w * pair[side]).sum() for w, pair in zip(weights, found, strict=True)]).sum().backward()
    got = {name: p.grad for name, p in ours.body.named_parameters() if p.grad is not None}
    return Agreement(outputs_apart(found), gradients_apart(got, bilm.gradients(c, variables)))


def _both_directions(folder: Path) -> Lesson:
    """Against sampled words."""
    texts, known = test_elmo.corpus(12, 200)
    sizes = {**test_elmo.TINY, "max_characters_per_token": 12, "vocab_size": len(known) + 2}
    torch.manual_seed(0)
    model = build("ElmoForBidirectionalLM", elmo.Config(**sizes)).train()
    ids, lengths = elmo.character_ids(texts, 12)
    labels = torch.tensor([[known.get(word, 1) for word in words] + [0] * (12 - len(words)) for words in texts])
    return Lesson(model, lambda: model(ids, lengths=lengths, labels=labels, negatives=60).loss)


ELMO = Family(
    "ELMo",
    "character CNN; LSTMs both ways, projected and clipped",
    "LM both ways, sampled softmax",
    "the authors' equations",
    _bilm,
    _both_directions,
    {"bilm-tf's hdf5": test_elmo_files.test_published_files_load},
    {"the authors' test model": lambda folder: test_elmo_files.test_the_authors_embeddings_are_reproduced()},
    measured="ELMo",
)

# Transformer-XL -----------------------------------------------------------------------------


def _equations(folder: Path) -> Agreement:
    """The second segment, behind memories of the first."""
    ours = from_our_files(test_transformer_xl.noisy(), folder)
    sizes = test_transformer_xl.sizes(ours.config)
    tensors = {n: x.detach().clone().requires_grad_() for n, x in ours.named_tensors().items() if "inv_freq" not in n}
    first, second = test_transformer_xl.words(2, 7), test_transformer_xl.words(2, 6, seed=2)
    got = ours(second, mems=ours(first).mems)
    states, mems = read(tensors, sizes, second, read(tensors, sizes, first)[1])
    want = log_probabilities(tensors, sizes, states, test_transformer_xl.WORDS)
    found = [(got.logits, want), *zip(got.mems, mems, strict=True)]
    chosen = second.roll(1, 1)[..., None]
    for side in (got.logits, want):
        side.gather(2, chosen).mean().backward()
    theirs = {n: x.grad for n, x in tensors.items() if x.grad is not None}
    return Agreement(outputs_apart(found), gradients_apart(own_gradients(ours), theirs))


def _segments(folder: Path) -> Lesson:
    """Two segments of a text."""
    torch.manual_seed(0)
    model = build("TransfoXLLMHeadModel", transformer_xl.Config(**test_transformer_xl.TINY, dropout=0.0)).train()
    first, second = test_transformer_xl.words(4, 12).split(6, 1)

    def loss() -> Tensor:
        mems = model(first).mems
        return model(second, mems=mems, labels=second).loss

    return Lesson(model, loss)


def _old_files(folder: Path) -> None:
    test_transformer_xl.test_what_we_save_loads_and_copies_in_old_files_too(folder, "published")


TRANSFORMER_XL = Family(
    "Transformer-XL",
    "decoder, causal behind memories; relative positions",
    "causal LM, adaptive softmax",
    "its equations",
    _equations,
    _segments,
    {f"{HUGGING_FACE} (transformers 4)": _old_files},
    measured="Transformer-XL",
)

# XLNet --------------------------------------------------------------------------------------

_WHOLE = MASKS["whole"]
_TARGETS = torch.tensor([[5, 7, 9], [2, 3, 4], [90, 80, -100]])
_XLNET = Transformers(
    "XLNetLMHeadModel",
    test_xlnet.tiny(),
    {**inputs(_WHOLE, **test_xlnet.KIND), **test_xlnet.order(3, 7, 3), "labels": _TARGETS},
    {"logits": None, "loss": None},
)


def _permuted(folder: Path) -> Lesson:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(6, test_xlnet.WORDS, (4, 24), generator=draw)
    starts = torch.rand(ids.shape, generator=draw) < 0.5
    chosen = partial_spans(starts, count=5, generator=draw)
    given = permutation_lm(ids, chosen, torch.zeros_like(chosen), generator=draw)
    torch.manual_seed(0)
    model = build("XLNetLMHeadModel", xlnet.Config(**test_xlnet.TINY, dropout=0.0)).train()
    types = {"token_type_ids": (torch.arange(24) > 12).long().expand(4, 24)}
    return Lesson(model, lambda: model(**types, **given).loss)


XLNET = Family(
    "XLNet",
    "encoder, two streams in any order; relative positions, memories",
    "permutation LM",
    "transformers",
    _XLNET,
    _permuted,
    {HUGGING_FACE: _XLNET.files},
    measured="XLNet",
)
