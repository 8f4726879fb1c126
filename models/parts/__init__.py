"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    linear
    layouts  layers  axial  config  files  keys  outputs  scores  lstm  regions  paddle
    padding  attention  patches
    embeddings  chosen  relative  recurrence  runs  cache
    characters  chunked  crossing  global_rows  prenorm  recurrent_layers
    streams  writing
    order  objectives  beams
    heads  generation
    adaptive  answers  two_streams
    encoder  seq2seq  model  tower
    decoder  joint
    gpt  permutation  segments  region_heads  cloze_generation  pair_generation
"""
