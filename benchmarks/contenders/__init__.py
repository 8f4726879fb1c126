"""Who runs: pkernels, and the best honest alternatives on the same inputs."""

from .base import Contender
from .flash import Flash
from .flex import Flex
from .longformer import Longformer
from .ours import Pkernels
from .plain import Masked, Sdpa, SdpaEach

__all__ = ["Contender", "Flash", "Flex", "Longformer", "Masked", "Pkernels", "Sdpa", "SdpaEach"]
