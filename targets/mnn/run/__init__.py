"""MNN in child processes: the engine's two faces and the converter."""
