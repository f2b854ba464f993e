"""A finished bundle checked: hashes, graphs in the binaries, error of each part, perplexity."""
