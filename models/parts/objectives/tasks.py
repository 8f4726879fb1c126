"""Every task as text to text: T5's prefixes (Raffel et al. 2019, arXiv:1910.10683, section 2.4 and
appendix D)."""

from __future__ import annotations

# Task -> the prefix of its text, and what it tells in order.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cola": ("cola", ("sentence",)),
    "sst2": ("sst2", ("sentence",)),
    "mrpc": ("mrpc", ("sentence1", "sentence2")),
    "stsb": ("stsb", ("sentence1", "sentence2")),
    "qqp": ("qqp", ("question1", "question2")),
    "mnli": ("mnli", ("hypothesis", "premise")),
    "qnli": ("qnli", ("question", "sentence")),
    "rte": ("rte", ("sentence1", "sentence2")),
    "cb": ("cb", ("hypothesis", "premise")),
    "copa": ("copa", ("choice1", "choice2", "premise", "question")),
    "multirc": ("multirc", ("question", "answer", "paragraph")),
    "wic": ("wic", ("pos", "sentence1", "sentence2", "word")),
    "squad": ("", ("question", "context")),
    "wsc": ("wsc:", ()),
    "summarize": ("summarize:", ()),
    "translate": ("translate English to {}:", ()),
}


def as_text(task: str, text: str | None = None, /, *, language: str = "German", **parts: str) -> str:
    """The text of a task, as T5 was trained on it.

    Args:
        task: One of ``TASKS``.
        text: Of "wsc", "summarize" and "translate", whose prefix stands before a whole text.
        language: Of "translate": German, French or Romanian in the paper.
        parts: Of the other tasks, each by its name.

    Example:
        >>> as_text("mnli", hypothesis="The St. Louis Cardinals have always won.", premise="yeah well losing is")
        'mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is'
        >>> as_text("translate", "That is good.", language="French")
        'translate English to French: That is good.'
    """
    if task not in TASKS:
        raise ValueError(f"task: one of {', '.join(TASKS)} is allowed, got {task!r}")
    prefix, names = TASKS[task]
    if set(parts) != set(names) or (text is None) == (not names):
        wanted = ", ".join(names) if names else "one text"
        given = ", ".join(parts) + (" and a text" if text is not None else "")
        raise ValueError(f"{task}: {wanted} is allowed, got {given or 'nothing'}")
    told = [text] if text is not None else [f"{name}: {parts[name]}" for name in names]
    return " ".join(filter(None, [prefix.format(language), *told]))


def similarity_text(score: float) -> str:
    """STS-B's target: a score from 1 to 5 to the nearest 0.2 (section 2.4).

    Example:
        >>> similarity_text(2.57), similarity_text(5)
        ('2.6', '5.0')
    """
    return f"{round(score * 5) / 5:.1f}"
