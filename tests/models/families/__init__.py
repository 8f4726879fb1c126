"""The survey's 21 families, each run before it is called green: a small model through files, beside its
peer, and in training. ``make families`` (``python -m tests.models.families``) writes the README's table anew.
"""

from .encoders import ALBERT, BERT, DISTILBERT, ELECTRA, MACBERT, ROBERTA, TINYBERT
from .family import Family, Found, run
from .long import BIGBIRD, LONGFORMER, REFORMER
from .pictures import CLIP, UNIMO, UNITER, VIT
from .recurrent import ELMO, TRANSFORMER_XL, XLNET
from .writing import BART, GPT3, T5, UNILM

FAMILIES = {
    family.name: family
    for family in (
        ELMO,
        *(BERT, ROBERTA, ALBERT, ELECTRA, XLNET, MACBERT),
        *(DISTILBERT, TINYBERT),
        *(TRANSFORMER_XL, REFORMER, LONGFORMER, BIGBIRD),
        *(BART, UNILM, T5, GPT3),
        VIT,
        *(UNITER, CLIP, UNIMO),
    )
}
"""In the survey's order."""

__all__ = ["FAMILIES", "Family", "Found", "run"]
