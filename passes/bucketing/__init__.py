"""What `bucket` does to a graph: every shape a number."""
