"""What two or more families share. A family file composes these parts.

Each file imports only from files before it::

    layouts  layers  axial  config  files  keys  outputs  scores  regions  paddle
    attention  embeddings  chosen  relative  runs  cache
    chunked  global_rows  writing
    objectives  search  beams
    heads  generation
    encoder  model
    cloze_generation  decoder  joint
    gpt  region_heads  pair_generation
"""
