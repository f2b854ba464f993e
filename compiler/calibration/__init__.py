"""What solvers read besides weights: windows of the calibration text, a graph run in torch, the time that is left."""
