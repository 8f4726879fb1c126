"""The table of families: what each is made of, and how it is trained. To add one, add an entry.

Small models (``small``) are the papers' but for their sizes; a config of any size can be given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn

from .. import distilbert
from ..parts.config import BaseConfig
from ..parts.model import Model
from ..parts.objectives import ELECTRA, consecutive_pairs, next_sentence_pairs, sentence_order_pairs
from ..pretrained import build
from . import learners, objectives, regional, rows, seeing, small, vocabulary, words
from .albums import CaptionedSource, LabelledSource, captioned, unigrams, with_regions
from .learners import Losses, Telling, words_and_relation
from .memory import in_streams
from .modes import InModes, in_modes
from .neighbours import neighbours
from .objectives import ALBERT_NGRAMS, Objective, always, cloze, ngrams, seeing_all, similar_words, with_relation
from .rows import Make, Order, shuffled
from .settings import Sizes
from .sources import Source, TextSource
from .vocabulary import Scheme, Vocabulary


@dataclass(frozen=True)
class Recipe:
    """How a family is pre-trained.

    Args:
        scheme: Its kind of tokens.
        config: From sizes, a vocabulary and the length of rows to a small model's config, of the class that it
            says it returns.
        learner: From a config to a module that takes the objective's arguments and returns
            what has a ``loss``; None of families that learn from a teacher alone.
        rows: From documents to rows.
        objective: From the text to the objective.
        losses: The parts of the loss; "words" is the one to compare with the unigrams' entropy.
        models: From the learner to the models that are saved: folder within the output -> model.
        taught: From a teacher's directory to the recipe with him, of families that can have one.
        copies: In how many ways each row is masked, 0 for anew each time.
        order: In which rows come.
        check: A config, of any origin, that does not fit rows of a length, is refused.
        optimizer, rate: How parameters follow the gradient, if the settings do not say.
        stepped: What is done to the learner after each step.
        reads: What is read, text unless another; it says what ``config`` and ``objective`` are given then.
    """

    scheme: Scheme | None
    config: Callable[..., BaseConfig]
    learner: Callable[[Any], nn.Module] | None
    rows: Make | None
    objective: Callable[..., Objective]
    losses: Losses = learners.words_alone
    models: Callable[[nn.Module], Mapping[str, Model]] = learners.itself
    taught: Callable[[str | Path], Recipe] | None = None
    copies: int = 0
    order: Order = shuffled
    check: Callable[[Any, int], None] = lambda config, length: None
    optimizer: str = "adamw"
    rate: float = 2e-3
    stepped: Callable[[Any], None] = lambda learner: None
    reads: Callable[..., Source] = TextSource

    def source(self, data: Sequence[str | Path] | str | Path) -> Source:
        """Of text files, or of a folder of pictures."""
        return self.reads(self, data)

    @property
    def kind(self) -> type[BaseConfig]:
        """Class of its configs."""
        return get_type_hints(self.config)["return"]


def model(architecture: str) -> Callable[[BaseConfig], nn.Module]:
    """A learner that is one model."""
    return lambda config: build(architecture, config)


def _triple(local_dir: str | Path) -> Recipe:
    teacher = learners.bert_teacher(local_dir)

    def config(s: Sizes, v: Vocabulary, length: int) -> distilbert.Config:
        return learners.half_of(teacher)

    return replace(
        RECIPES["distilbert"], config=config, learner=learners.student_of(teacher),
        losses=learners.of_student, models=learners.the_student,
    )  # fmt: skip


def _layerwise(local_dir: str | Path) -> Recipe:
    return replace(RECIPES["tinybert"], learner=learners.reader_of(learners.bert_teacher(local_dir)))


def _remembers_what_comes_again(config: Any, length: int) -> None:
    if config.bi_data:
        raise ValueError("model: a bi_data of False is allowed: all rows are read forwards")
    if config.use_mems_train and config.reuse_len != length // 2:
        raise ValueError(f"model: a reuse_len of half the length ({length // 2}) is allowed, got {config.reuse_len}")


_NEXT = words_and_relation("seq_relationship_logits", "next_sentence_label")

RECIPES = {
    # Appendix A.2 and the authors' create_pretraining_data: each text is masked in 10 ways.
    "bert": Recipe(
        vocabulary.BERT, small.of_bert, model("BertForPreTraining"),
        rows.pairs(next_sentence_pairs), always(with_relation(cloze(), "next_sentence_label")), _NEXT, copies=10,
    ),
    "roberta": Recipe(
        vocabulary.ROBERTA, small.of_roberta, model("RobertaForMaskedLM"),
        rows.sentences, always(cloze()),
    ),
    "albert": Recipe(
        vocabulary.ALBERT, small.of_albert, model("AlbertForPreTraining"),
        rows.pairs(sentence_order_pairs), always(with_relation(cloze(ngrams(ALBERT_NGRAMS)), "sentence_order_label")),
        words_and_relation("sop_logits", "sentence_order_label"),
    ),
    "electra": Recipe(
        vocabulary.BERT, small.of_electra, learners.detector,
        rows.sentences, always(cloze(shares=ELECTRA)), learners.of_detector, learners.both_models,
    ),
    "macbert": Recipe(
        vocabulary.BERT, small.of_bert, model("BertForPreTraining"), rows.pairs(sentence_order_pairs),
        lambda corpus, v: with_relation(similar_words(neighbours(corpus, v)), "next_sentence_label"), _NEXT,
    ),
    "distilbert": Recipe(
        vocabulary.BERT, small.of_distilbert, model("DistilBertForMaskedLM"),
        rows.sentences, always(cloze()), taught=_triple,
    ),
    "longformer": Recipe(
        vocabulary.ROBERTA, small.of_longformer, model("LongformerForMaskedLM"),
        rows.sentences, always(seeing_all(cloze())),
    ),
    "bigbird": Recipe(
        vocabulary.ALBERT, small.of_bigbird, learners.big_bird, rows.sentences, always(cloze()),
    ),
    "reformer": Recipe(
        vocabulary.PLAIN, small.of_reformer, model("ReformerModelWithLMHead"),
        rows.stream, always(objectives.causal),
    ),
    "tinybert": Recipe(
        vocabulary.BERT, small.of_bert, None, rows.sentences, always(cloze()),
        learners.of_reader, learners.the_student, taught=_layerwise,
    ),
    "gpt2": Recipe(
        vocabulary.GPT2, small.of_gpt2, model("GPT2LMHeadModel"), rows.stream, always(objectives.causal),
    ),
    "gpt3": Recipe(
        vocabulary.GPT2, small.of_gpt3, model("GPT3LMHeadModel"), rows.stream, always(objectives.causal),
    ),
    "gpt_neo": Recipe(
        vocabulary.GPT2, small.of_gpt_neo, model("GPTNeoForCausalLM"),
        rows.stream, always(objectives.causal),
    ),
    "unilm": Recipe(
        vocabulary.BERT, small.of_unilm, lambda config: InModes(build("UniLMForPreTraining", config)),
        rows.pairs(consecutive_pairs), in_modes, learners.of_modes, learners.the_model,
    ),
    "t5": Recipe(
        vocabulary.T5, small.of_t5, lambda config: Telling(build("T5ForConditionalGeneration", config)),
        rows.unbroken, always(objectives.spans), learners.told, learners.the_model,
        optimizer="adafactor", rate=0.03,
    ),
    "transformer_xl": Recipe(
        vocabulary.PLAIN, small.of_transformer_xl, model("TransfoXLLMHeadModel"),
        rows.stream, always(objectives.causal), order=in_streams,
    ),
    "xlnet": Recipe(
        vocabulary.XLNET, small.of_xlnet, model("XLNetLMHeadModel"),
        rows.reused, always(objectives.permuted), order=in_streams, check=_remembers_what_comes_again,
    ),
    "bart": Recipe(
        vocabulary.ROBERTA, small.of_bart,
        lambda config: Telling(build("BartForConditionalGeneration", config)),
        rows.passages, always(objectives.denoised), learners.told, learners.the_model,
    ),
    "elmo": Recipe(
        vocabulary.WORDS, words.of_elmo, words.learner, words.sentences, words.spelled, words.of_told,
        learners.the_model, order=in_streams, optimizer="adagrad", rate=0.2, reads=words.WordSource,
    ),
    "vit": Recipe(
        None, seeing.of_vit, model("ViTForPreTraining"), None, seeing.classes, seeing.of_classes,
        reads=LabelledSource,
    ),
    "clip": Recipe(
        vocabulary.CLIP, seeing.of_clip, model("CLIPModel"), None, seeing.pairs, seeing.of_pairs,
        stepped=seeing.limit, reads=partial(CaptionedSource, opened=captioned, guess=seeing.any_pair),
    ),
    "uniter": Recipe(
        vocabulary.CASED, regional.of_uniter, regional.uniter_learner, None, regional.uniter_objective,
        regional.of_tasks, learners.the_model, reads=partial(CaptionedSource, opened=with_regions, guess=unigrams),
    ),
    "unimo": Recipe(
        vocabulary.ROBERTA, regional.of_unimo, regional.unimo_learner, None, regional.unimo_objective,
        regional.of_tasks, learners.the_model,
        reads=partial(CaptionedSource, opened=with_regions, guess=unigrams, least=2),
    ),
}  # fmt: skip
"""Family -> recipe."""


def recipe(family: str, teacher: str | Path | None = None) -> Recipe:
    """With a teacher's directory, the one of his students.

    Raises:
        ValueError: If there is none.
    """
    if family not in RECIPES:
        raise ValueError(f"family: one of {', '.join(RECIPES)} is allowed, got {family!r}")
    chosen = RECIPES[family]
    if teacher is not None:
        if chosen.taught is None:
            raise ValueError(f"teacher: none is allowed, {family} learns without one")
        return chosen.taught(teacher)
    if chosen.learner is None:
        raise ValueError(
            f"teacher: the directory of a trained BERT is allowed, got None; {family} learns from one alone"
        )
    return chosen
