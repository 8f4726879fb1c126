"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores
    attention  embeddings  chosen  relative  recurrence  runs  cache
    chunked  crossing  global_rows  writing
    objectives  search  beams
    heads  generation
    adaptive
    encoder  seq2seq  model
    cloze_generation  decoder
    gpt
"""
