"""Small configs: the papers' models but for their sizes, which are those of ``Sizes``. Each is a function
of sizes, a vocabulary and the length of rows."""

from __future__ import annotations

from typing import Any

from .. import (
    albert,
    bart,
    bert,
    bigbird,
    distilbert,
    electra,
    gpt2,
    gpt3,
    gpt_neo,
    longformer,
    reformer,
    roberta,
    t5,
    transformer_xl,
    unilm,
    xlnet,
)  # fmt: skip
from .settings import Sizes
from .vocabulary import Vocabulary


def of_encoder(s: Sizes, v: Vocabulary, positions: int) -> dict[str, Any]:
    """Settings that BERT and its kin have, under BERT's names."""
    return {
        "vocab_size": v.size,
        "pad_token_id": v.pad,
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "intermediate_size": s.inner,
        "hidden_dropout_prob": s.dropout,
        "attention_probs_dropout_prob": s.dropout,
        "max_position_embeddings": positions,
    }


def of_bert(s: Sizes, v: Vocabulary, length: int) -> bert.Config:
    return bert.Config(**of_encoder(s, v, length))


def of_roberta(s: Sizes, v: Vocabulary, length: int) -> roberta.Config:
    return roberta.Config.base(**of_encoder(s, v, length + v.pad + 1))


def of_albert(s: Sizes, v: Vocabulary, length: int) -> albert.Config:
    return albert.Config(embedding_size=s.hidden // 2, classifier_dropout_prob=s.dropout, **of_encoder(s, v, length))


def of_electra(s: Sizes, v: Vocabulary, length: int) -> electra.Config:
    return electra.Config(embedding_size=s.hidden, **of_encoder(s, v, length))


def of_distilbert(s: Sizes, v: Vocabulary, length: int) -> distilbert.Config:
    return distilbert.Config(
        vocab_size=v.size, max_position_embeddings=length, n_layers=s.layers, n_heads=s.heads, dim=s.hidden,
        hidden_dim=s.inner, dropout=s.dropout, attention_dropout=s.dropout, pad_token_id=v.pad,
    )  # fmt: skip


def of_longformer(s: Sizes, v: Vocabulary, length: int) -> longformer.Config:
    window = max(2, length // 8 * 2)
    return longformer.Config(
        attention_window=window, type_vocab_size=1, sep_token_id=v.last, **of_encoder(s, v, length + v.pad + 1)
    )


def of_bigbird(s: Sizes, v: Vocabulary, length: int) -> bigbird.Config:
    # Blocks so small that the length is beyond the one up to which all tokens see one another.
    block = max(1, length // 16)
    return bigbird.Config(block_size=block, num_random_blocks=2, sep_token_id=v.last, **of_encoder(s, v, length))


def of_reformer(s: Sizes, v: Vocabulary, length: int) -> reformer.Config:
    chunk, side = max(2, length // 8), -(-length // 8)
    return reformer.Config(
        vocab_size=v.size, pad_token_id=v.pad, hidden_size=s.hidden, num_attention_heads=s.heads,
        attention_head_size=s.hidden // s.heads, feed_forward_size=s.inner, hidden_dropout_prob=s.dropout,
        local_attention_probs_dropout_prob=s.dropout, lsh_attention_probs_dropout_prob=s.dropout,
        attn_layers=tuple("local" if i % 2 == 0 else "lsh" for i in range(s.layers)), num_hashes=2,
        local_attn_chunk_length=chunk, lsh_attn_chunk_length=chunk, max_position_embeddings=8 * side,
        axial_pos_shape=(8, side), axial_pos_embds_dim=(s.hidden // 4, s.hidden - s.hidden // 4), is_decoder=True,
        axial_norm_std=0.02,  # as words have, which positions would drown out for long
    )  # fmt: skip


def of_gpt2(s: Sizes, v: Vocabulary, length: int) -> gpt2.Config:
    return gpt2.Config(
        vocab_size=v.size, n_positions=length, n_embd=s.hidden, n_layer=s.layers, n_head=s.heads, n_inner=s.inner,
        resid_pdrop=s.dropout, embd_pdrop=s.dropout, attn_pdrop=s.dropout, bos_token_id=v.last, eos_token_id=v.last,
    )  # fmt: skip


def _banded(s: Sizes, v: Vocabulary, length: int) -> dict[str, Any]:
    return {
        "vocab_size": v.size,
        "max_position_embeddings": length,
        "hidden_size": s.hidden,
        "num_layers": s.layers,
        "num_heads": s.heads,
        "intermediate_size": s.inner,
        "window_size": max(2, length // 4),
        "resid_dropout": s.dropout,
        "embed_dropout": s.dropout,
        "attention_dropout": s.dropout,
        "bos_token_id": v.last,
        "eos_token_id": v.last,
    }


def of_gpt3(s: Sizes, v: Vocabulary, length: int) -> gpt3.Config:
    return gpt3.Config(**_banded(s, v, length))


def of_gpt_neo(s: Sizes, v: Vocabulary, length: int) -> gpt_neo.Config:
    return gpt_neo.Config(**_banded(s, v, length))


def of_unilm(s: Sizes, v: Vocabulary, length: int) -> unilm.Config:
    return unilm.Config.base(mask_token_id=v.mask, eos_token_id=v.last, **of_encoder(s, v, length))


def of_t5(s: Sizes, v: Vocabulary, length: int) -> t5.Config:
    return t5.Config(
        vocab_size=v.size, d_model=s.hidden, d_kv=s.hidden // s.heads, d_ff=s.inner, num_layers=s.layers,
        num_heads=s.heads, dropout_rate=s.dropout, pad_token_id=v.pad, eos_token_id=v.last,
        decoder_start_token_id=v.pad,
    )  # fmt: skip


def of_bart(s: Sizes, v: Vocabulary, length: int) -> bart.Config:
    sizes = {"layers": s.layers, "ffn_dim": s.inner, "attention_heads": s.heads}
    both: dict[str, Any] = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sizes.items()}
    return bart.Config(
        vocab_size=v.size, d_model=s.hidden, dropout=s.dropout, attention_dropout=s.dropout, pad_token_id=v.pad,
        # Gaps without a word make a text longer: each tenth place may have one, and one more.
        max_position_embeddings=length + length // 10 + 1, bos_token_id=v.first, eos_token_id=v.last,
        decoder_start_token_id=v.last, forced_eos_token_id=v.last, **both,
    )  # fmt: skip


def of_transformer_xl(s: Sizes, v: Vocabulary, length: int) -> transformer_xl.Config:
    """Section 4: as many tokens are remembered as a row has. Clusters begin where the authors' do, but for the last."""
    return transformer_xl.Config(
        vocab_size=v.size, cutoffs=(v.size // 4, v.size // 2), div_val=2, d_model=s.hidden, d_embed=s.hidden,
        n_head=s.heads, d_head=s.hidden // s.heads, d_inner=s.inner, n_layer=s.layers, mem_len=length, clamp_len=-1,
        same_length=False, untie_r=False, dropout=s.dropout, dropatt=s.dropout, pad_token_id=v.pad,
        eos_token_id=v.last,
    )  # fmt: skip


def of_xlnet(s: Sizes, v: Vocabulary, length: int) -> xlnet.Config:
    """The authors' README: of 512 tokens 256 are remembered, and 384 of all before them."""
    return xlnet.Config.pretraining(
        vocab_size=v.size, d_model=s.hidden, n_layer=s.layers, n_head=s.heads, d_inner=s.inner, dropout=s.dropout,
        summary_last_dropout=s.dropout, mem_len=length * 3 // 4, reuse_len=length // 2, bi_data=False,
        pad_token_id=v.pad, bos_token_id=v.first, eos_token_id=v.last,
    )  # fmt: skip
