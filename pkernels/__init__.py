"""Fused attention for the models that are not another plain decoder."""

from .attention import attention, dilated_attention, flash_attention, sliding_window_attention
from .bias import Dense, Distance, Relative, alibi
from .bigbird import bigbird, bigbird_attention, bigbird_evaluation, bigbird_training
from .blocks import Blocks
from .buckets import Buckets
from .globals import global_attention
from .lsh import local_order, lsh_attention, lsh_order
from .lstm import projected_lstm
from .merge import merge
from .ops import why_not
from .patterns import INF, Band, causal, dense, prefix_lm, window
from .reversible import Reversible

__version__ = "0.1.0"

__all__ = [
    "INF",
    "Band",
    "Blocks",
    "Buckets",
    "Dense",
    "Distance",
    "Relative",
    "Reversible",
    "alibi",
    "attention",
    "bigbird",
    "bigbird_attention",
    "bigbird_evaluation",
    "bigbird_training",
    "causal",
    "dense",
    "dilated_attention",
    "flash_attention",
    "global_attention",
    "local_order",
    "lsh_attention",
    "lsh_order",
    "merge",
    "prefix_lm",
    "projected_lstm",
    "sliding_window_attention",
    "why_not",
    "window",
]
