"""Pre-training: from text files to a model that ``from_pretrained`` loads, here and in transformers.

From a shell; a text is a sentence a line, with an empty line between documents:

    python -m pkernels.models.pretrain bert --text wiki.txt books.txt --out runs/bert

It shows a bar with loss, tokens a second and learning rate, and leaves in ``runs/bert``

- ``config.json``, ``model.safetensors``, ``tokenizer.json``: the model (of ELECTRA the discriminator,
  with the generator in ``generator/``);
- ``log.jsonl``: a line each ``--log`` steps, means over them: ``loss``, ``words`` and what else the
  loss consists of, the ``gradient``'s norm, ``rate``, ``tokens`` and ``tokens_per_second``;
- ``loss.png``: the curve, beside the entropy of single tokens. That is what a guess loses which
  knows how often each token occurs: a model below it has learned something of the language;
- ``state.pt``: the checkpoint, each ``--save`` steps, memories among it. The same command goes on from there, and comes
  to the same bits as if it had never stopped. ``--stop`` ends a call early. A directory that
  holds another training is refused; the error lists what differs;
- ``run.json``, ``tokens.safetensors``: what was asked for, and the text in tokens.

Families (``RECIPES``), and what each learns:

==============  ====================================================================================
bert            masked LM, each text masked in 10 ways (``--copies 0``: anew each time), and whether
                the second segment follows the first
roberta         masked LM anew each time, on full sentences
albert          masked n-grams, and whether two segments stand in order; shared layers
electra         a generator fills gaps in, a discriminator finds its tokens
macbert         similar words in place of masked n-grams, and segments' order; the similar
                words are those that keep similar company in the text
distilbert      masked LM; with ``--teacher DIR`` (a BERT) the triple loss, from his layers
longformer      masked LM in a sliding window, [CLS] seeing all
bigbird         masked LM in block-sparse attention
reformer        the next token, in local and hashed attention and reversible layers
gpt2            the next token; so do gpt3 and gpt_neo, in layers of which some see a band alone
unilm           masked words in four modes: seeing all, the source, what comes before, what comes after
tinybert        the layers of a ``--teacher DIR`` (a BERT; needed); its ``words`` are what the teacher's head
                reads from its last states
transformer_xl  the next token, in a text read in order: what stands before a row is remembered
xlnet           a sixth of the tokens, in any order; half of a row is remembered, half comes again
t5              spans of the text that sentinels stand for; ``words`` leaves the sentinels out
bart            the text, of which sentences change places and gaps stand for words
elmo            the word behind each and the one before, in LSTMs whose states go on from sentence to sentence, against
                a sample of words (``words``: of all, in one row of a micro-batch); ``--vocabulary`` of the commonest
                words are told, ``--hidden`` and ``--inner`` are the LSTMs' projections and cells
vit             classes of pictures
clip            which caption of a micro-batch is a picture's, and which picture is a caption's
uniter          side by side, of a captioned picture: hidden words; hidden regions' features, best classes and classes'
                probabilities; whether it is the caption's picture, words and regions being aligned
unimo           side by side: hidden regions; hidden spans of words; fragments to write; which captions, among rewritten
                ones and those that retrieval found, are the picture's
==============  ====================================================================================

Transformer-XL, XLNet and ELMo read the text in as many streams as a batch has rows, in order from step to step. T5
learns by Adafactor, ELMo by Adagrad, the others by AdamW; ``--optimizer`` and ``--rate`` say otherwise.

Models are small unless sizes (``--hidden``, ``--layers``, ...) or a ``--config config.json`` say
otherwise. A tokenizer of the family's kind is made from the text, of ``--vocabulary`` tokens, unless
``--tokenizer`` names a ``tokenizer.json`` or ``vocab.txt``. (Made twice it may differ in tokens of equal
rank: give it on to trainings that are to be compared.) ``--help`` lists all options.

A step sees ``--batch`` rows of up to ``--length`` tokens, ``--micro`` at a time; gradients of
micro-batches are averaged. torchrun shares the micro-batches of a step between processes:

    torchrun --nproc-per-node 8 -m pkernels.models.pretrain roberta --text wiki.txt --out runs/roberta \\
        --config roberta-base/config.json --length 512 --batch 256 --micro 16 --bf16 --device cuda

With ``--parallel fsdp`` each process keeps a part of every parameter (FSDP2); without, all of them
(DDP). For the same ``--micro`` the result does not depend on the number of processes or on which of
the two it is, but for rounding: all that is random is a function of the seed, the step and the
micro-batch. Checkpoints hold whole tensors, so any number of processes can go on with them.

The last four learn from a folder of pictures, whose form :mod:`pictures` tells, as does ``check --help``:

    python -m pkernels.models.pretrain check coco clip
    python -m pkernels.models.pretrain clip --images coco --out runs/clip --pixels 64 --micro 128 --batch 128

``check`` reads all of it and names the first thing that is wrong. ``guess.json`` says what ``loss.png``
compares with: the entropy of classes, or the logarithm of a micro-batch's pairs, which CLIP sets against one
another. ``tokens`` in the log are pictures for ViT, tokens of captions for CLIP, and those and regions for the others.

From Python, on the documentation of Python itself:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pydoc_data.topics import topics
    >>> from pkernels.models import from_pretrained
    >>> from pkernels.models.pretrain import Settings, Sizes, pretrain
    >>> folder = Path(tempfile.mkdtemp())
    >>> documents = ("\\n".join(filter(None, topics[name].splitlines())) for name in ("if", "while"))
    >>> _ = (folder / "text.txt").write_text("\\n\\n".join(documents))
    >>> sizes, settings = Sizes(hidden=16, inner=16, vocabulary=200), Settings(length=32, batch=2, steps=3)
    >>> done = pretrain("bert", folder / "text.txt", folder / "out", model=sizes, settings=settings)
    >>> done.step, from_pretrained(done.out).architecture
    (3, 'BertForPreTraining')

A new family is an entry in ``RECIPES``: its kind of tokens, a small config (``small``), what is trained, how rows are
made of documents, the objective (from rows, vocabulary and a generator to the model's arguments).
Each file imports only from files before it::

    draws  optimizers  memory  vocabulary  text  processes  learners  folder  pictures
    settings  rows  neighbours  curve
    small
    objectives  checkpoint
    modes  loop  sources
    albums
    seeing  regional  check  words
    recipes
    run
    __main__
"""

from .check import check_folder
from .curve import draw
from .folder import read_log
from .recipes import RECIPES, Recipe
from .run import Outcome, pretrain
from .settings import Settings, Sizes

__all__ = ["RECIPES", "Outcome", "Recipe", "Settings", "Sizes", "check_folder", "draw", "pretrain", "read_log"]
