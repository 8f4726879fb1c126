"""Run every family and write the README's table: ``python -m tests.models.families``."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
import transformers

from . import FAMILIES, run, table


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    rows, red = [], 0
    for family in FAMILIES.values():
        try:
            found = run(family)
        except pytest.skip.Exception as reason:
            print(f"{family.name} cannot be run: {reason}", file=sys.stderr)
            return 2
        red += bool(found.wrong)
        rows.append(table.row(family, found))
        losses = f"loss {found.learned.first:.3f} -> {found.learned.last:.3f}"
        print(f"{family.name}: {found.agreement}, {losses}", *found.wrong, sep="; ")
    table.write(rows)
    return int(red > 0)


if __name__ == "__main__":
    sys.exit(main())
