"""ONNX Runtime as the oracle: sessions, comparison of two modules, perplexity of a text."""
