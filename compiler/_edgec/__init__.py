"""edgec: a compiler for on-device LLM deployment."""

__version__ = "0.1.0"
