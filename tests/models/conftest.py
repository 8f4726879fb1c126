"""A device context remembers torch's constructors when it is first entered; that must be
before memory is poisoned, or models on the meta device would be made of real memory."""

import sys

import pytest
import torch

with torch.device("cpu"):
    torch.zeros(0)


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests() -> None:
    """Every model traces the same functions; after eight of them torch.compile gives up."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
