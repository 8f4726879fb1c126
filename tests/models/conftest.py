"""A device context remembers torch's constructors when it is first entered; that must be
before memory is poisoned, or models on the meta device would be made of real memory."""

import torch

with torch.device("cpu"):
    torch.zeros(0)
