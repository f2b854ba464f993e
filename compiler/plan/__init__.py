"""A checked plan: every name resolved, every step constructed; parameters and devices."""
