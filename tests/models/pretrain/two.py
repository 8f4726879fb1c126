"""Trainings of two processes, which a third one parts into, so that what takes longest, imports, is done once:
``python -m tests.models.pretrain.two PORT TEXT OUT``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch._dynamo  # which DDP would import in each process
import torch.multiprocessing

from pkernels.models.pretrain import pretrain

from .tiny import DEEP, FLAT, SETTINGS, SIZES, data, tokenizer, with_room

PROCESSES = 2
FAMILIES = ("albert", "electra", "reformer", "unilm", "transformer_xl", "distilbert", "elmo", "uniter")
"""Layers that work more than once, embeddings of two models, reversible layers, several calls for each
batch, memories, a stop that one process goes on from; memories of LSTMs, pictures and several tasks."""
SHORT = replace(SETTINGS, steps=2, save=1, batch=8)
"""Two micro-batches for each process, so that gradients add up before they are shared."""


def main(rank: int, port: str, text: Path, out: Path) -> None:
    names = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update(names, RANK=str(rank), LOCAL_RANK=str(rank))
    for parallel in ("ddp", "fsdp"):
        for family in FAMILIES:
            given = {
                "model": SIZES if family in DEEP else FLAT,
                "settings": with_room(family, SHORT),
                "tokenizer": tokenizer(family, text),
            }
            # One goes on where it stopped.
            for stop in {"electra": (1, 2), "transformer_xl": (1, 2), "elmo": (1, 2), "distilbert": (1,)}.get(
                family, (2,)
            ):
                pretrain(family, data(family, text), out / parallel / family, parallel=parallel, stop=stop, **given)


if __name__ == "__main__":
    given = (sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    torch.multiprocessing.start_processes(main, given, PROCESSES, start_method="fork")
