"""Speed and memory: ``python -m benchmarks run | gpu | train | distill | digits | static | plot | compare``.

``case.py`` and ``cases.py`` say what is measured, ``contenders/`` who runs, ``check.py``
that all compute the same, ``timing.py`` and ``memory.py`` how it is measured, ``rows.py``
and ``machine.py`` what is written down, ``plot.py`` and ``compare.py`` what is made of it.
Whole models stand beside transformers' own: ``text.py`` with real weights, ``long.py`` over
long text, ``training.py`` as they learn; ``models/`` has an entry for each. In ``distill.py`` students
learn from real weights what ``lessons.py`` says; ``digits.py`` trains models of images.
"""
