"""The table of families: what each is made of, and how it is trained. To add one, add an entry.

Small models are the papers' but for their sizes; a config of any size can be given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import albert, bert, bigbird, distilbert, electra, gpt2, longformer, reformer, roberta
from ..parts.config import BaseConfig
from ..parts.model import Model
from ..parts.objectives import ELECTRA, next_sentence_pairs, sentence_order_pairs
from ..pretrained import build
from . import learners, objectives, rows, vocabulary
from .learners import Losses, words_and_relation
from .neighbours import neighbours
from .objectives import ALBERT_NGRAMS, Objective, always, cloze, ngrams, seeing_all, similar_words, with_relation
from .settings import Sizes
from .text import Corpus
from .vocabulary import Scheme, Vocabulary


@dataclass(frozen=True)
class Recipe:
    """How a family is pre-trained.

    Args:
        scheme: Its kind of tokens.
        kind: Class of its configs.
        config: From sizes, a vocabulary and the length of rows to a small model's config.
        learner: From a config to a module that takes the objective's arguments and returns
            what has a ``loss``.
        rows: From documents to rows.
        objective: From the text to the objective.
        losses: The parts of the loss; "words" is the one to compare with the unigrams' entropy.
        models: From the learner to the models that are saved: folder within the output -> model.
        taught: From a teacher's directory to the recipe with him, of families that can have one.
        copies: In how many ways each row is masked, 0 for anew each time.
    """

    scheme: Scheme
    kind: type[BaseConfig]
    config: Callable[[Sizes, Vocabulary, int], BaseConfig]
    learner: Callable[[Any], nn.Module]
    rows: rows.Make
    objective: Callable[[Corpus, Vocabulary], Objective]
    losses: Losses = learners.words_alone
    models: Callable[[nn.Module], Mapping[str, Model]] = learners.itself
    taught: Callable[[str | Path], Recipe] | None = None
    copies: int = 0


def model(architecture: str) -> Callable[[BaseConfig], nn.Module]:
    """A learner that is one model."""
    return lambda config: build(architecture, config)


def _sizes(s: Sizes, v: Vocabulary, positions: int) -> dict[str, Any]:
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


def _bert(s: Sizes, v: Vocabulary, length: int) -> bert.Config:
    return bert.Config(**_sizes(s, v, length))


def _roberta(s: Sizes, v: Vocabulary, length: int) -> roberta.Config:
    return roberta.Config.base(**_sizes(s, v, length + v.pad + 1))


def _albert(s: Sizes, v: Vocabulary, length: int) -> albert.Config:
    return albert.Config(embedding_size=s.hidden // 2, classifier_dropout_prob=s.dropout, **_sizes(s, v, length))


def _electra(s: Sizes, v: Vocabulary, length: int) -> electra.Config:
    return electra.Config(embedding_size=s.hidden, **_sizes(s, v, length))


def _distilbert(s: Sizes, v: Vocabulary, length: int) -> distilbert.Config:
    return distilbert.Config(
        vocab_size=v.size, max_position_embeddings=length, n_layers=s.layers, n_heads=s.heads, dim=s.hidden,
        hidden_dim=s.inner, dropout=s.dropout, attention_dropout=s.dropout, pad_token_id=v.pad,
    )  # fmt: skip


def _longformer(s: Sizes, v: Vocabulary, length: int) -> longformer.Config:
    window = max(2, length // 8 * 2)
    return longformer.Config(
        attention_window=window, type_vocab_size=1, sep_token_id=v.last, **_sizes(s, v, length + v.pad + 1)
    )


def _bigbird(s: Sizes, v: Vocabulary, length: int) -> bigbird.Config:
    # Blocks so small that the length is beyond the one up to which all tokens see one another.
    block = max(1, length // 16)
    return bigbird.Config(block_size=block, num_random_blocks=2, sep_token_id=v.last, **_sizes(s, v, length))


def _reformer(s: Sizes, v: Vocabulary, length: int) -> reformer.Config:
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


def _distilled(local_dir: str | Path) -> Recipe:
    teacher = learners.bert_teacher(local_dir)
    return replace(
        RECIPES["distilbert"], config=lambda s, v, length: learners.half_of(teacher),
        learner=learners.student_of(teacher), losses=learners.of_student, models=learners.the_student,
    )  # fmt: skip


_NEXT = words_and_relation("seq_relationship_logits", "next_sentence_label")


def _gpt2(s: Sizes, v: Vocabulary, length: int) -> gpt2.Config:
    return gpt2.Config(
        vocab_size=v.size, n_positions=length, n_embd=s.hidden, n_layer=s.layers, n_head=s.heads, n_inner=s.inner,
        resid_pdrop=s.dropout, embd_pdrop=s.dropout, attn_pdrop=s.dropout, bos_token_id=v.last, eos_token_id=v.last,
    )  # fmt: skip


RECIPES = {
    # Appendix A.2 and the authors' create_pretraining_data: each text is masked in 10 ways.
    "bert": Recipe(
        vocabulary.BERT, bert.Config, _bert, model("BertForPreTraining"),
        rows.pairs(next_sentence_pairs), always(with_relation(cloze(), "next_sentence_label")), _NEXT, copies=10,
    ),
    "roberta": Recipe(
        vocabulary.ROBERTA, roberta.Config, _roberta, model("RobertaForMaskedLM"), rows.sentences, always(cloze()),
    ),
    "albert": Recipe(
        vocabulary.ALBERT, albert.Config, _albert, model("AlbertForPreTraining"),
        rows.pairs(sentence_order_pairs), always(with_relation(cloze(ngrams(ALBERT_NGRAMS)), "sentence_order_label")),
        words_and_relation("sop_logits", "sentence_order_label"),
    ),
    "electra": Recipe(
        vocabulary.BERT, electra.Config, _electra, learners.detector,
        rows.sentences, always(cloze(shares=ELECTRA)), learners.of_detector, learners.both_models,
    ),
    "macbert": Recipe(
        vocabulary.BERT, bert.Config, _bert, model("BertForPreTraining"), rows.pairs(sentence_order_pairs),
        lambda corpus, v: with_relation(similar_words(neighbours(corpus, v)), "next_sentence_label"), _NEXT,
    ),
    "distilbert": Recipe(
        vocabulary.BERT, distilbert.Config, _distilbert, model("DistilBertForMaskedLM"),
        rows.sentences, always(cloze()), taught=_distilled,
    ),
    "longformer": Recipe(
        vocabulary.ROBERTA, longformer.Config, _longformer, model("LongformerForMaskedLM"),
        rows.sentences, always(seeing_all(cloze())),
    ),
    "bigbird": Recipe(
        vocabulary.ALBERT, bigbird.Config, _bigbird, learners.big_bird, rows.sentences, always(cloze()),
    ),
    "reformer": Recipe(
        vocabulary.PLAIN, reformer.Config, _reformer, model("ReformerModelWithLMHead"),
        rows.stream, always(objectives.causal),
    ),
    "gpt2": Recipe(
        vocabulary.GPT2, gpt2.Config, _gpt2, model("GPT2LMHeadModel"), rows.stream, always(objectives.causal),
    ),
}  # fmt: skip
"""Family -> recipe."""


def recipe(family: str) -> Recipe:
    """
    Raises:
        ValueError: If there is none.
    """
    if family not in RECIPES:
        raise ValueError(f"family: one of {', '.join(RECIPES)} is allowed, got {family!r}")
    return RECIPES[family]
