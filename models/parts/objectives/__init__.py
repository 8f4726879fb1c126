"""How pre-training chooses what to predict, and what it costs to be wrong.

Data first, then losses; each file imports only from files before it::

    masking  packing
    spans  pairs
    similar
    replaced  distillation  scores
    layerwise  modes
"""

from .masking import BERT, ELECTRA, choose_tokens, corrupt, mask_tokens, static_generator
from .packing import cut, full_sentences, padded
from .pairs import Pair, next_sentence_pairs, sentence_order_pairs
from .similar import corrupt_similar, similar_by_vectors, similar_in_table
from .spans import MACBERT, UNILM, WHOLE_WORDS, choose_ngrams, inverse_lengths, segmented

__all__ = [
    "BERT",
    "ELECTRA",
    "MACBERT",
    "UNILM",
    "WHOLE_WORDS",
    "Pair",
    "choose_ngrams",
    "choose_tokens",
    "corrupt",
    "corrupt_similar",
    "cut",
    "full_sentences",
    "inverse_lengths",
    "mask_tokens",
    "next_sentence_pairs",
    "padded",
    "segmented",
    "sentence_order_pairs",
    "similar_by_vectors",
    "similar_in_table",
    "static_generator",
]
