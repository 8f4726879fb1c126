"""Hugging Face's Longformer: its sliding-window attention between the projections."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from pkernels import Band

from ..workload import Inputs, Workload
from .base import Forward


class Longformer:
    """The chunked products of ``LongformerSelfAttention``, without its linear layers."""

    name = "HF longformer"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """All but symmetric windows whose chunks divide the sequence."""
        if importlib.util.find_spec("transformers") is None:
            return "transformers is not installed"
        w = workload.pattern.left
        alike = workload.pattern == Band(w, w) and not (workload.bias or workload.lengths or workload.dropout)
        if not alike or workload.positions or workload.keys is not None or workload.queries % (2 * w):
            return "for symmetric windows that divide the sequence"
        return None

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """Queries are scaled, then scores, softmax in fp32 and the product, as its layer does."""
        from transformers import LongformerConfig
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

        w, width = workload.pattern.left, workload.heads * workload.dim
        config = LongformerConfig(
            hidden_size=width, num_attention_heads=workload.heads, attention_window=[2 * w], num_hidden_layers=1
        )
        with torch.device("meta"):
            layer = LongformerSelfAttention(config, layer_id=0)

        def forward() -> Tensor:
            q, k, v = (y.transpose(1, 2) for y in (x.q, x.k, x.v))
            scores = layer._sliding_chunks_query_key_matmul(q * workload.dim**-0.5, k, w)
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores)
            return layer._sliding_chunks_matmul_attn_probs_value(weights, v, w).transpose(1, 2)

        return forward
