"""Model families on top of the attention ops; weights and names are Hugging Face's.

Example:
    >>> import tempfile, torch
    >>> from pkernels.models import bert, build, from_pretrained
    >>> config = bert.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     build("BertForMaskedLM", config).save_pretrained(folder)
    ...     model = from_pretrained(folder)
    >>> model(torch.tensor([[101, 103, 102]])).logits.shape
    torch.Size([1, 3, 30522])
"""

from .parts.model import Model
from .pretrained import FAMILIES, build, from_pretrained
from .sentences import Encoder

__all__ = ["FAMILIES", "Encoder", "Model", "build", "from_pretrained"]
