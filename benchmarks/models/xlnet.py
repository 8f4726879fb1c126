"""XLNet: over long text, its attention alone behind a memory, and the permutation LM to train.

Both sides get the order as a mask of all pairs, the only one that transformers takes: pkernels'
``ranks``, which need none, have nothing to be compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pkernels.models.parts.layouts import Whole
from pkernels.models.parts.objectives import partial_spans, permutation_lm
from pkernels.models.parts.recurrence import encodings
from pkernels.models.parts.streams import InOrder, Ranked
from pkernels.models.parts.two_streams import Sight
from pkernels.models.xlnet import Config
from pkernels.patterns import Band, causal, dense

from .. import corpus
from .base import Attend, Encoder, Learner

MEMORY = 512
BARE: dict[str, Any] = {
    "vocab_size": corpus.WORDS, "dropout": 0.0, "summary_last_dropout": 0.0, "use_mems_eval": False,
    "pad_token_id": corpus.PADDING, "bos_token_id": corpus.FIRST, "eos_token_id": corpus.LAST,
}  # fmt: skip


def base(length: int, layers: int, **changes: Any) -> Config:
    """XLNet-base of so many layers."""
    return Config(d_model=768, n_layer=layers, n_head=12, d_inner=3072, **BARE, **changes)


def _small(length: int) -> Config:
    return Config(d_model=128, n_layer=2, n_head=4, d_inner=512, **BARE)


def attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``XLNetRelativeAttention`` behind 512 tokens of memory, with the residual and norm that are in it; as far
    as a text is read one way, with the mask that the model makes."""
    one_way = ours.config.attn_type == "uni"
    pattern: Band = causal if one_way else dense
    layer, other = ours.body.layers[0].attention, theirs.layer[0].rel_attn
    steps = encodings(length, MEMORY + length, ours.body.width, clamp=0, device=torch.device(device))
    memory = torch.randn(MEMORY, 1, ours.body.width, generator=torch.Generator().manual_seed(2)).to(device)
    sight = Sight(InOrder(Whole(1, length, torch.device(device)), pattern), None, steps)
    # transformers' table has a distance more at its start, and one way none for tokens ahead.
    all_ = encodings(length, MEMORY + length + 1, ours.body.width, clamp=0, device=torch.device(device))[:, None]
    mask = None
    if one_way:
        pairs = torch.ones(length, MEMORY + length, device=device).triu(MEMORY + 1)
        mask = pairs[:, :, None, None]

    def attend(x: Tensor) -> Tensor:
        return layer(x, layer.inner.see(x, sight, memory, None), sight, sight.content, None)

    def attend_too(x: Tensor) -> Tensor:
        return other(x.transpose(0, 1), None, mask, None, all_, None, mems=memory)[0].transpose(0, 1)

    return attend, attend_too


def _permuted(ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    starts = nn.functional.pad(ids[:, :-1] == corpus.SPECIAL + ord(" "), (1, 0), value=True)
    chosen = partial_spans(starts, count=ids.shape[1] // 6, generator=generator)
    given = permutation_lm(ids, chosen, ids < corpus.SPECIAL, generator=generator)
    ranks, mapping, labels = (given[name] for name in ("ranks", "target_mapping", "labels"))
    assert isinstance(ranks, Tensor) and isinstance(mapping, Tensor) and isinstance(labels, Tensor)
    hidden = Ranked(ranks).hidden(itself=True)
    return {"input_ids": ids, "perm_mask": hidden.float(), "target_mapping": mapping, "labels": labels}


ENCODER = Encoder(
    name="XLNet",
    architecture="XLNetModel",
    config=base,
    # Memory of the other side grows with the square of the length.
    sizes=((1024, 2), (4096, 1)),
    attention=attention,
    lengths=(1024, 4096),
)

LEARNER = Learner("xlnet", "XLNetLMHeadModel", _small, _permuted, length=256)
