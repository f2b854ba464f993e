"""Kernels of edgec's own in C, with what builds them on this machine."""
