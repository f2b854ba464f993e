"""What `quantize` does to a graph: formats, round to nearest, pairs of activations and their ranges."""
