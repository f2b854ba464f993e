"""The intermediate representation: modules of ONNX graphs, lazy weights, linears, levels and legality."""
