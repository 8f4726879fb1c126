"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores  lstm
    padding  attention  patches
    embeddings  chosen  relative  runs  cache
    characters  chunked  crossing  global_rows  prenorm  writing
    objectives  search  beams
    heads  generation
    encoder  seq2seq  model  tower
    cloze_generation  decoder
    gpt
"""
