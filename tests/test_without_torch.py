"""torch is an extra: rounding to nearest, buckets and the emitters must neither need it nor load it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "examples" / "models" / "pycode-qwen2"
SCRIPT = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from pathlib import Path
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize
module = load_hf("m", Path(sys.argv[1]), 64)
assert Quantize(weights="int4").run(module, Scope()) > 0
assert Bucket(tokens=(1,), context=(64,)).run(module, Scope()) == 1
"""


def test_plain_quantisation_does_not_need_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MODEL)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
