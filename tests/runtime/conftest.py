"""A tiny random decoder, cut and laid out as targets do it, as a bundle's manifest and ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import FORMAT, VERSION, Manifest, arch_entry, problems
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.decoder_arch import DecoderArch
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import MAIN, BucketShape, Module
from edgec.compiler.ir.rope import RopeSpec
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.oracle import open_session
from edgec.compiler.partition.parts import partition
from edgec.compiler.sources.hf.decoder_graph import build

CONTEXT, VOCAB = 64, 61
LAYOUTS = {
    "ort": {
        "key": ["batch", "kv_heads", "position", "head_dim"],
        "value": ["batch", "kv_heads", "position", "head_dim"],
    },
    "qnn": {
        "key": ["kv_heads", "batch", "head_dim", "position"],
        "value": ["kv_heads", "batch", "position", "head_dim"],
    },
}
ARCH = DecoderArch(
    family="qwen3",
    layers=2,
    hidden=24,
    intermediate=40,
    heads=6,
    kv_heads=3,
    head_dim=8,
    vocab=VOCAB,
    max_positions=256,
    rms_eps=1e-6,
    tied=False,
    attention_bias=(),
    mlp_bias=False,
    qk_norm=True,
    activation="silu",
    rope=RopeSpec(100.0, "yarn", 4.0, 1.25, 32),  # cos and sin carry a factor
    bos=None,
    eos=(2,),
)


class CheckedSession:
    """ONNX Runtime behind the types and shapes that the manifest promises to the graph."""

    def __init__(self, graph: dict[str, Any], model: ir.Model) -> None:
        self.graph, self._session = graph, open_session(model)
        self.calls = 0

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert feeds.keys() == {spec["name"] for spec in self.graph["inputs"]}
        for spec in self.graph["inputs"]:
            array = feeds[spec["name"]]
            assert array.dtype == spec["dtype"], spec["name"]
            assert array.flags.c_contiguous
            for have, size in zip(array.shape, spec["shape"], strict=True):
                assert not isinstance(size, int) or have == size, spec["name"]
        self.calls += 1
        names = [spec["name"] for spec in self.graph["outputs"]]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def close(self) -> None:
        self.graph = {}


class Toy:
    """A module, the manifest of a bundle of it, and an opener of its graphs."""

    def __init__(self, module: Module, layout: str, buckets: list[tuple[int | None, int | None]], split: bool) -> None:
        self.module = module
        self.sessions: dict[tuple[str, str], CheckedSession] = {}
        self._models: dict[tuple[str, str], ir.Model] = {}
        placed = module.clone()
        on_cpu = ("embed_tokens", "layers.0.") if layout == "mixed" else ("embed_tokens",) if split else ()
        for node in placed.nodes():
            DEVICE.set(node, "cpu" if (node.name or "").startswith(on_cpu) else "npu")
        placed.level = Level.PLACED
        cut = partition(placed, "npu")
        parts, schedule = cut.parts, cut.schedule()
        run = {"parts": list(schedule.parts), "schedule": schedule.entry()}
        rows = [{"name": _name(*b), "tokens": b[0], "context": b[1], **run} for b in buckets]
        entries = {}
        for part in parts:
            model = part.graphs[MAIN].clone()
            genie = layout == "qnn" or (layout == "mixed" and part.device == "npu")
            if genie:
                _lay_out(model)
            graphs = {}
            for tokens, context in buckets:
                self._models[part.name, _name(tokens, context)] = model
                graphs[_name(tokens, context)] = _graph(model, tokens, context)
            entries[part.name] = {
                "model": "toy", "device": part.device, "target": "ort", "file": "toy/toy.onnx", "graphs": graphs
            }  # fmt: skip
            if layout == "mixed" and genie:
                entries[part.name]["kv"] = cache("qnn")
        data = manifest_data(entries, rows, cache("ort" if layout == "mixed" else layout))
        assert problems(data) == []
        self.manifest = Manifest(Path("toy"), data)

    def open(self, _manifest: Manifest, part: str, bucket: str) -> CheckedSession:
        session = CheckedSession(self.manifest.parts[part]["graphs"][bucket], self._models[part, bucket])
        self.sessions[part, bucket] = session
        return session


def cache(layout: str) -> dict[str, Any]:
    dtype = "float16" if layout == "qnn" else "float32"
    return {"dtype": dtype, "layout": LAYOUTS[layout], "capacity": "context - tokens", "rollback": "drop"}


def manifest_data(parts: dict[str, Any], buckets: list[Any], kv: dict[str, Any]) -> dict[str, Any]:
    deploy = {"device": "npu", "target": "ort", "pipeline": None, "options": {}}
    model = {
        "role": "model", "kind": "decoder", "engine": "chain", "deploy": deploy, "weights": [], "buckets": buckets,
        "kv": kv, "arch": arch_entry(ARCH, CONTEXT), "tokenizer": None,
    }  # fmt: skip
    return {
        "format": FORMAT, "version": VERSION, "plan": {"name": "toy", "sha256": "0" * 64, "defines": {}},
        "devices": [{"name": "host"}], "tools": {}, "inputs": {}, "tokenizers": {}, "models": {"toy": model},
        "parts": parts, "speculation": None, "sampling": {}, "memory": {}, "libraries": [], "files": {},
    }  # fmt: skip


def _name(tokens: int | None, context: int | None) -> str:
    return MAIN if tokens is None or context is None else BucketShape(tokens, context).name


def _graph(model: ir.Model, tokens: int | None, context: int | None) -> dict[str, Any]:
    sizes = {} if tokens is None or context is None else {"S": tokens, "P": context - tokens, "T": context}

    def tensor(value: ir.Value) -> dict[str, Any]:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [
            d if isinstance(d, int) else {"B": 1, "MB": 1, **sizes}.get(str(d.value), d.value) for d in value.shape
        ]
        return {"name": value.name, "dtype": str(value.dtype.numpy()), "shape": shape}

    return {
        "graph": "main",
        "inputs": [tensor(value) for value in model.graph.inputs],
        "outputs": [tensor(value) for value in model.graph.outputs],
    }


def _lay_out(model: ir.Model) -> None:
    """Genie's interface around a semantic graph: its K/V order, rotary tables as inputs, fp16 everywhere."""
    for index, value in enumerate(list(model.graph.inputs)):
        name = value.name or ""
        if name.startswith("past_"):
            key = "key" in name
            shape = [ARCH.kv_heads, 1, ARCH.head_dim, "P"] if key else [ARCH.kv_heads, 1, "P", ARCH.head_dim]
            _before(model, index, shape, [("Transpose", {"perm": [1, 0, 3, 2] if key else [1, 0, 2, 3]})])
        elif value.dtype == ir.DataType.FLOAT:
            _before(model, index, list(value.shape or ()), [])
    if any(value.name == "position_ids" for value in model.graph.inputs):
        _rotary_inputs(model)
    for index, value in enumerate(list(model.graph.outputs)):
        name = value.name or ""
        perm = [1, 0, 3, 2] if "key" in name else [1, 0, 2, 3] if "value" in name else None
        _after(model, index, perm)


def _before(model: ir.Model, index: int, shape: list[Any], ops: list[tuple[str, dict[str, Any]]]) -> None:
    """Put a Cast to float32 and `ops` between an fp16 input of `shape` and the readers of input `index`."""
    old = model.graph.inputs[index]
    new = ir.Value(name=old.name, type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(shape))
    old.name = f"{old.name}.inside"
    chain = [("Cast", {"to": int(ir.DataType.FLOAT)}), *ops]
    value: ir.Value = new
    made = []
    for op, attributes in chain:
        made.append(ir.node(op, [value], attributes=attributes, name=f"{new.name}.{op}"))
        value = made[-1].outputs[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
    model.graph.inputs[index] = new
    old.replace_all_uses_with(value)
    model.graph.insert_before(model.graph[0], made)


def _after(model: ir.Model, index: int, perm: list[int] | None) -> None:
    old = model.graph.outputs[index]
    name, value, made = old.name, old, []
    old.name = f"{name}.inside"
    if perm is not None:
        made.append(ir.node("Transpose", [value], attributes={"perm": perm}, name=f"{name}.transpose"))
        value = made[-1].outputs[0]
    made.append(ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT16)}, name=f"{name}.cast"))
    new = made[-1].outputs[0]
    shape = list(old.shape or ())
    new.name, new.type = name, ir.TensorType(ir.DataType.FLOAT16)
    new.shape = ir.Shape([shape[axis] for axis in perm] if perm else shape)
    model.graph.extend(made)
    model.graph.outputs[index] = new


def _rotary_inputs(model: ir.Model) -> None:
    nodes = {node.name: node for node in model.graph}
    for part in ("cos", "sin"):
        table = nodes[f"rotary.{part}_scaled"].outputs[0]
        given = ir.Value(
            name=f"position_ids_{part}",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=ir.Shape([1, 1, "S", ARCH.head_dim // 2]),
        )
        cast = ir.node("Cast", [given], attributes={"to": int(ir.DataType.FLOAT)}, name=f"given.{part}")
        axes = ir.node("Constant", [], attributes={"value": ir.tensor(np.array([1]))}, name=f"axes.{part}")
        flat = ir.node("Squeeze", [cast.outputs[0], axes.outputs[0]], name=f"flat.{part}")
        table.replace_all_uses_with(flat.outputs[0])
        model.graph.insert_before(model.graph[0], [cast, axes, flat])
        model.graph.inputs.append(given)
    for node in [node for node in nodes.values() if (node.name or "").startswith("rotary.")][::-1]:
        model.graph.remove(node, safe=True)
    kept = [value for value in model.graph.inputs if value.name != "position_ids"]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)


def _random(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Norms around 1; matrices that keep the size of what they multiply."""
    values = random.normal(size=shape)
    return 1 + 0.2 * values if len(shape) == 1 else 1.5 * values / np.sqrt(shape[-1])


@pytest.fixture(scope="session")
def toy_module() -> Module:
    random = np.random.default_rng(7)
    weights = {
        name: from_array(name, _random(random, shape).astype(np.float32)) for name, shape in ARCH.tensors().items()
    }
    return Module("toy", {MAIN: build(ARCH, weights, CONTEXT)}, Level.SEMANTIC, ARCH, None, CONTEXT)


@pytest.fixture
def toy(toy_module: Module) -> Callable[..., Toy]:
    """`toy(layout, buckets, split)`: a bundle of the toy decoder."""
    return lambda layout, buckets, split=False: Toy(toy_module, layout, buckets, split)


EXAMPLES = Path(__file__).parents[2] / "examples"
PAIR = """
plan pair
device host
model target { source = hf("models/pycode-qwen3") context = 512 }
model draft  { source = hf("models/pycode-qwen2") context = 512 }
pipeline p {
  quantize (weights = int8)
  bucket   (tokens = [1, 4, 64], context = [128, 512])
}
deploy target on cpu through p as ort
deploy draft  on cpu as ort
speculate draft -> target { k = 3 accept = greedy }
"""


def compile_text(directory: Path, text: str) -> Path:
    """The bundle of a plan given as text."""
    from edgec.compiler.driver import compile_plan, load_plan

    plan = directory / "plan.edge"
    plan.write_text(text)
    return compile_plan(load_plan(plan), directory / "bundle").bundle


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's two models for ONNX Runtime: the target in six buckets, the draft as one dynamic graph."""
    directory = tmp_path_factory.mktemp("pair")
    (directory / "models").symlink_to(EXAMPLES / "models")
    return compile_text(directory, PAIR)
