"""Time one ONNX model by the onnxruntime of this interpreter: prints `VERSION SECONDS`, the least of many.

python lookup_peer.py MODEL INPUTS [KEY=VALUE ...]        session settings; one thread, one token
"""

import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
for setting in sys.argv[3:]:
    key, _, value = setting.partition("=")
    if key == "library":
        options.register_custom_ops_library(value)
    else:
        options.add_session_config_entry(key, value)
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
binding = session.io_binding()
binding.bind_cpu_input("x", np.random.default_rng(0).standard_normal((1, int(sys.argv[2]))).astype(np.float32))
for made in session.get_outputs():
    binding.bind_output(made.name)
best = float("inf")
for _ in range(300):
    start = time.perf_counter()
    session.run_with_iobinding(binding)
    best = min(best, time.perf_counter() - start)
print(onnxruntime.__version__, best)
