"""Small graphs at the static level, and pycode-qwen3 emitted once for all tests that run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import Manifest, arch_entry
from edgec.compiler.emit.target import Emission, EmitJob
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.partition.parts import partition
from edgec.compiler.plan.devices import devices
from edgec.targets.qnn import QnnTarget
from edgec.targets.qnn.htp.chip import Chip

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
DEVICE = "snapdragon_8_gen_3"
CONTEXT = 256
TOKENS = (1, 4, 64)


@pytest.fixture(scope="session")
def chip() -> Chip:
    return Chip.of(devices()[DEVICE])


@pytest.fixture
def static() -> Callable[[str], ir.Model]:
    """A model from ONNX text; the text has no dots or slashes in names: `__` stands for a dot, `___` for a slash."""

    def parse(text: str) -> ir.Model:
        model = ir.from_onnx_text('<ir_version: 11, opset_import: ["": 24]>\n' + text)
        for node in model.graph:
            node.name = (node.name or "").replace("___", "/").replace("__", ".")
        return model

    return parse


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEC_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@dataclass
class Emitted:
    """A model's emission and the module it was made of; `bundle` holds the files, no manifest."""

    bundle: Path
    module: Module
    compressed: Module
    emission: Emission

    @property
    def folder(self) -> Path:
        return self.bundle / self.module.name

    @property
    def manifest(self) -> Manifest:
        buckets = [
            {
                "name": name,
                "tokens": int(name[1:].split("_")[0]),
                "context": CONTEXT,
                "parts": list(self.emission.parts),
            }
            for name in self.module.graphs
        ]
        assert self.module.arch is not None
        entry = {
            "arch": arch_entry(self.module.arch, CONTEXT), "kv": self.emission.kv, "kind": "decoder",
            "engine": "chain", "buckets": buckets,
        }  # fmt: skip
        return Manifest(self.bundle, {"models": {self.module.name: entry}, "parts": self.emission.parts})


def emit(stage: Callable[..., Module], bundle: Path) -> Emitted:
    """pycode-qwen3, int4 block 32, whole on the NPU."""
    compressed = stage("target", "pycode-qwen3", CONTEXT, Level.COMPRESSED)
    module = stage("target", "pycode-qwen3", CONTEXT, Level.STATIC, TOKENS)
    (bundle / "target").mkdir(parents=True)
    job = EmitJob(module, partition(module, "npu").parts, bundle, "target", devices()[DEVICE], QnnTarget.Options())
    job.tokenizer_source, job.tokenizer_folder = MODELS / "pycode-qwen3", "tokenizer"
    return Emitted(bundle, module, compressed, QnnTarget().emit(job))


@pytest.fixture(scope="session")
def emitted(stage: Callable[..., Module], tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    return emit(stage, tmp_path_factory.mktemp("bundle"))
