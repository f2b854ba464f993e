"""What `rotate` does to a graph."""
