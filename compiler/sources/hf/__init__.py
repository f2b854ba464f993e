"""A Hugging Face folder: its config, its tensors, and the decoder graph built from them."""
