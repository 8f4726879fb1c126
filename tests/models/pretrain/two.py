"""What each of two processes does: ``python -m tests.models.pretrain.two TEXT TOKENIZERS OUT``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pkernels.models.pretrain import pretrain

from .tiny import SETTINGS, SIZES

FAMILIES = {"albert": "albert", "electra": "bert", "reformer": "plain"}
"""Layers that work more than once, embeddings of two models, reversible layers; and their tokenizers."""
SHORT = replace(SETTINGS, steps=3, save=2, batch=8)
"""Two micro-batches for each process, so that gradients add up before they are shared."""


def main(text: Path, out: Path) -> None:
    for parallel in ("ddp", "fsdp"):
        for family, tokenizer in FAMILIES.items():
            given = {"model": SIZES, "settings": SHORT, "tokenizer": text / f"{tokenizer}.json"}
            for stop in (2, 3) if family == "electra" else (3,):  # one of them goes on where it stopped
                pretrain(family, text / "text.txt", out / parallel / family, parallel=parallel, stop=stop, **given)
        given = {"model": SIZES, "settings": SHORT, "tokenizer": text / "bert.json"}
        pretrain("distilbert", text / "text.txt", out / parallel / "distilbert", parallel=parallel, stop=2, **given)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
