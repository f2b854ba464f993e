"""Checkpoints whose linears are stored as integers: GPTQ, AWQ and compressed-tensors, read in rows."""
