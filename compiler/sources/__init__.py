"""Where models come from: Hugging Face folders, ONNX files, tokenizers. Each gives a module at level `semantic`."""
