"""Where the values of a part lie in memory while it runs, and what a model needs in all."""
