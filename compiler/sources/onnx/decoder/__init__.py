"""An exported decoder: what it is, read from its graph, and the semantic graph built from it in its place."""
