"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs
    attention  embeddings  chosen  relative  runs
    chunked  global_rows
    objectives  search
    heads
    encoder  model
    cloze_generation
"""
