"""An ONNX file: what it must not hold, and the opset it is raised to."""
