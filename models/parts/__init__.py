"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores
    attention  embeddings  chosen  cache
    chunked  writing
    objectives  beams
    heads  generation
    encoder  model
    decoder
    gpt
"""
