"""Model families on top of the attention ops; weights and names are Hugging Face's.

Example:
    >>> from pkernels.models import from_pretrained  # doctest: +SKIP
    >>> model = from_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
"""

from .parts.model import Model
from .pretrained import FAMILIES, build, from_pretrained
from .sentences import Encoder

__all__ = ["FAMILIES", "Encoder", "Model", "build", "from_pretrained"]
