"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores
    attention  embeddings  chosen  cache  relative_buckets
    chunked  crossing  writing
    objectives  beams
    heads  generation
    encoder  seq2seq  model
    decoder
    gpt
"""
