"""What `sparsify` does: which weights are taken (`rewrite`), masks by size, the calibrated methods (torch)."""
