"""What `fuse` does to a graph."""
