"""What an engine made of a graph by a lowering of its own, held against ONNX Runtime on the model itself."""
