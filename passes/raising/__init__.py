"""Patterns of primitive ops that are one op of ONNX: how each is recognised, and put in the pattern's place."""
