"""A GGUF file: its metadata, its tensors, and the decoder and tokenizer they describe."""
