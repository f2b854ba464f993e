"""The tokenizer of a model's folder."""
