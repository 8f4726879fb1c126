"""What two or more families share. A family file composes these parts.

``config``, ``files``, ``keys`` -> ``layouts`` -> ``attention``, ``layers``, ``embeddings`` ->
``heads`` -> ``model``: each file imports only from files before it.
"""
