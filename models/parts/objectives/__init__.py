"""How pre-training chooses what to predict, and what it costs to be wrong.

Data first, then losses; each file imports only from files before it::

    masking  packing  transport
    spans  pairs  regions  fragments
    similar  image_text
    real  contrast  unified
    replaced  distillation  scores
    layerwise  modes
"""

from .distillation import (
    DISTILBERT,
    TripleLoss,
    cosine_loss,
    initialise_student,
    soft_cross_entropy,
    soft_loss,
)
from .layerwise import LayerwiseLoss
from .masking import BERT, ELECTRA, choose_tokens, corrupt, mask_tokens, static_generator
from .modes import MODES, ModeBatch, draw_modes, mask_targets, unilm_batches
from .packing import cut, full_sentences, padded
from .pairs import Pair, consecutive_pairs, next_sentence_pairs, sentence_order_pairs
from .replaced import ReplacedTokens, replaced_loss, sample, share_embeddings
from .scores import score_loss
from .similar import corrupt_similar, similar_by_vectors, similar_in_table
from .spans import MACBERT, UNILM, WHOLE_WORDS, choose_ngrams, inverse_lengths, segmented

__all__ = [
    "BERT",
    "DISTILBERT",
    "ELECTRA",
    "MACBERT",
    "MODES",
    "UNILM",
    "WHOLE_WORDS",
    "LayerwiseLoss",
    "ModeBatch",
    "Pair",
    "ReplacedTokens",
    "TripleLoss",
    "choose_ngrams",
    "choose_tokens",
    "consecutive_pairs",
    "corrupt",
    "corrupt_similar",
    "cosine_loss",
    "cut",
    "draw_modes",
    "full_sentences",
    "initialise_student",
    "inverse_lengths",
    "mask_targets",
    "mask_tokens",
    "next_sentence_pairs",
    "padded",
    "replaced_loss",
    "sample",
    "score_loss",
    "segmented",
    "sentence_order_pairs",
    "share_embeddings",
    "similar_by_vectors",
    "similar_in_table",
    "soft_cross_entropy",
    "soft_loss",
    "static_generator",
    "unilm_batches",
]
