"""Trainings of two processes, which a third one parts into, so that what takes longest, imports, is done once:
``python -m tests.models.pretrain.two PORT TEXT OUT``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch.multiprocessing

from pkernels.models.pretrain import pretrain

from .tiny import SETTINGS, SIZES

PROCESSES = 2
FAMILIES = {"albert": "albert", "electra": "bert", "reformer": "plain", "unilm": "bert"}
"""Layers that work more than once, embeddings of two models, reversible layers, several calls for each
batch; and their tokenizers."""
SHORT = replace(SETTINGS, steps=2, save=1, batch=8)
"""Two micro-batches for each process, so that gradients add up before they are shared."""


def main(rank: int, port: str, text: Path, out: Path) -> None:
    names = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(names, RANK=str(rank), LOCAL_RANK=str(rank))
    for parallel in ("ddp", "fsdp"):
        for family, tokenizer in FAMILIES.items():
            given = {"model": SIZES, "settings": SHORT, "tokenizer": text / f"{tokenizer}.json"}
            for stop in (1, 2) if family == "electra" else (2,):  # one of them goes on where it stopped
                pretrain(family, text / "text.txt", out / parallel / family, parallel=parallel, stop=stop, **given)
        given = {"model": SIZES, "settings": SHORT, "tokenizer": text / "bert.json"}
        pretrain("distilbert", text / "text.txt", out / parallel / "distilbert", parallel=parallel, stop=1, **given)


if __name__ == "__main__":
    given = (sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    torch.multiprocessing.start_processes(main, given, PROCESSES, start_method="fork")
