"""Outliers of activations: where they are, how much they matter, and linears split around them."""
