"""A compile as a graph of actions: what each hangs on, in which order they run, where, and what has run before."""
