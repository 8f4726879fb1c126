"""Trainings of two processes, which a third one parts into, so that what takes longest, imports, is done once:
``python -m tests.models.pretrain.two PORT TEXT OUT``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch._dynamo  # which DDP would import in each process
import torch.multiprocessing

from pkernels.models.pretrain import Sizes, pretrain

from .tiny import SETTINGS, SIZES, tokenizer

PROCESSES = 2
FAMILIES = {"albert": 2, "electra": 1, "reformer": 2, "unilm": 1, "distilbert": 1}
"""Layers that work more than once, embeddings of two models, reversible layers, several calls for each
batch, a stop that one process goes on from; and how many layers."""
SHORT = replace(SETTINGS, steps=2, save=1, batch=8)
"""Two micro-batches for each process, so that gradients add up before they are shared."""


def sizes(family: str) -> Sizes:
    return replace(SIZES, layers=FAMILIES[family])


def main(rank: int, port: str, text: Path, out: Path) -> None:
    names = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(names, RANK=str(rank), LOCAL_RANK=str(rank))
    for parallel in ("ddp", "fsdp"):
        for family in FAMILIES:
            given = {"model": sizes(family), "settings": SHORT, "tokenizer": tokenizer(family, text)}
            # One goes on where it stopped.
            for stop in {"electra": (1, 2), "distilbert": (1,)}.get(family, (2,)):
                pretrain(family, text / "text.txt", out / parallel / family, parallel=parallel, stop=stop, **given)


if __name__ == "__main__":
    given = (sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    torch.multiprocessing.start_processes(main, given, PROCESSES, start_method="fork")
