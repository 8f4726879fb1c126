"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores  regions  paddle
    padding  attention  patches
    embeddings  chosen  relative  runs  cache
    chunked  crossing  global_rows  prenorm  writing
    objectives  search  beams
    heads  generation
    encoder  seq2seq  model  tower
    cloze_generation  decoder  joint
    gpt  region_heads  pair_generation
"""
