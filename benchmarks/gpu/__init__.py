"""``python -m benchmarks gpu``: what there is to learn on a GPU that is there for a quarter of an hour."""
