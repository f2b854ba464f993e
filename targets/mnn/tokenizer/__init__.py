"""The `.mtok` tokenizer of MNN-LLM, and its agreement with the model's own."""
