"""How pre-training chooses what to predict, and what it costs to be wrong.

Data first, then losses; each file imports only from files before it::

    masking  packing  tasks  contrastive  directions  sampled
    spans  sentinels  pairs
    permutation  similar  noises
    real
    replaced  distillation  scores
    layerwise  modes
"""

from .contrastive import contrastive_loss
from .directions import both_directions
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
from .noises import Noise, Passage, bart_noises, delete, denoising, hide, infill, permute, rotate
from .packing import cut, full_sentences, padded, whole_sentences
from .pairs import Pair, consecutive_pairs, next_sentence_pairs, sentence_order_pairs
from .permutation import partial_spans, permutation_lm
from .replaced import ReplacedTokens, replaced_loss, sample, share_embeddings
from .sampled import expected_counts, log_uniform, sampled_softmax_loss
from .scores import score_loss
from .sentinels import choose_spans, fitting_length, hide_spans, span_corruption, span_counts
from .similar import corrupt_similar, similar_by_vectors, similar_in_table
from .spans import MACBERT, UNILM, WHOLE_WORDS, choose_ngrams, inverse_lengths, segmented
from .tasks import TASKS, as_text, similarity_text

__all__ = [
    "BERT",
    "DISTILBERT",
    "ELECTRA",
    "MACBERT",
    "MODES",
    "TASKS",
    "UNILM",
    "WHOLE_WORDS",
    "LayerwiseLoss",
    "ModeBatch",
    "Noise",
    "Pair",
    "Passage",
    "ReplacedTokens",
    "TripleLoss",
    "as_text",
    "bart_noises",
    "both_directions",
    "choose_ngrams",
    "choose_spans",
    "choose_tokens",
    "consecutive_pairs",
    "contrastive_loss",
    "corrupt",
    "corrupt_similar",
    "cosine_loss",
    "cut",
    "delete",
    "denoising",
    "draw_modes",
    "expected_counts",
    "fitting_length",
    "full_sentences",
    "hide",
    "hide_spans",
    "infill",
    "initialise_student",
    "inverse_lengths",
    "log_uniform",
    "mask_targets",
    "mask_tokens",
    "next_sentence_pairs",
    "padded",
    "partial_spans",
    "permutation_lm",
    "permute",
    "replaced_loss",
    "rotate",
    "sample",
    "sampled_softmax_loss",
    "score_loss",
    "segmented",
    "sentence_order_pairs",
    "share_embeddings",
    "similar_by_vectors",
    "similar_in_table",
    "similarity_text",
    "soft_cross_entropy",
    "soft_loss",
    "span_corruption",
    "span_counts",
    "static_generator",
    "unilm_batches",
    "whole_sentences",
]
