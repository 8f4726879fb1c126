"""How fast, and in how much memory: ``python -m benchmarks run | plot | compare``.

``case.py`` and ``cases.py`` say what is measured, ``contenders/`` who runs, ``check.py``
that all compute the same, ``timing.py`` and ``memory.py`` how it is measured, ``rows.py``
and ``machine.py`` what is written down, ``plot.py`` and ``compare.py`` what is made of it.
"""
