"""A decoder as an MNN-LLM bundle."""
