"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs
    attention  embeddings  chosen  patches
    chunked  prenorm
    objectives
    heads
    encoder  model  tower
"""
