"""Weight files in which tensors with a pattern of zeros take as many bytes as their numbers need, and the way back."""
