"""Damaged ONNX models: structure and bytes changed at random; each has to load or be refused by a diagnostic.

    python -m tests.onnx_source.fuzz_onnx [cases] [seed]

Cases run in forked processes with limits on time and memory, so that a crash of a library is a finding and no end.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from onnx import numpy_helper

_LONGEST, _LARGEST = 20, 4 << 30  # seconds and bytes of a case
_INTEGERS = [0, 1, -1, 2, 3, 7, 24, 255, -(1 << 31), (1 << 31) - 1, (1 << 63) - 1, -(1 << 63)]
_OPS = [
    "Add", "MatMul", "Gemm", "Conv", "Reshape", "Gather", "Concat", "Split", "If", "Loop", "Scan", "Constant", "Cast",
    "Shape", "Expand", "Slice", "Softmax", "Attention", "DequantizeLinear", "TopK", "Resize", "Transpose",
    "Unsqueeze", "Identity",
]  # fmt: skip
_TEXTS = ["", "x", "y", "w", "\x00", "\x1b[31m", "ä", "a" * 5000, "../w"]

MODELS = {
    "mlp": """
      <ir_version: 8, opset_import: ["" : 18]> g (float[B,8] x) => (float[B,4] y)
      <float[8,16] w, float[16] b, float[4,16] v>
      { h = MatMul(x, w)  i = Add(h, b)  j = Relu(i)  y = Gemm<transB = 1>(j, v) }""",
    "convolution": """
      <ir_version: 8, opset_import: ["" : 13]> g (float[1,3,8,8] x) => (float[1,40] y)
      <float[4,3,3,3] w, int64[2] s, float[144,40] m>
      { h = Conv<pads = [0,0,0,0], strides = [1,1], kernel_shape = [3,3]>(x, w)  r = Relu(h)  f = Reshape(r, s)
        t = MatMul(f, m)  y = Softmax<axis = -1>(t) }""",
    "branches": """
      <ir_version: 8, opset_import: ["" : 18]> g (float[2,3] x, bool c) => (float[2,3] y)
      { y = If(c) <then_branch = t () => (float[2,3] a) { a = Add(x, x) },
                  else_branch = e () => (float[2,3] b) { b = Neg(x) }> }""",
    "functions": """
      <ir_version: 8, opset_import: ["" : 18, "d" : 1]> g (float[2,3] x) => (float[2,3] y)
      { h = d.twice(x)  y = d.scaled<k = 2>(h) }
      <domain: "d", opset_import: ["" : 18]> twice (a) => (b) { b = Add(a, a) }
      <domain: "d", opset_import: ["" : 18, "d" : 1]> scaled <k> (a) => (b)
      { t = Constant<value_int : int = @k>()  f = CastLike(t, a)  u = Mul(a, f)  b = d.twice(u) }""",
    "integers": """
      <ir_version: 10, opset_import: ["" : 21]> g (float[2,64] x) => (float[2,8] y)
      <int8[64,8] q, float[8] s> { w = DequantizeLinear<axis = 1>(q, s)  y = MatMul(x, w) }""",
}


def whole_models() -> dict[str, onnx.ModelProto]:
    """The right models, with random weights."""
    rng, made = np.random.default_rng(0), {}
    for name, text in MODELS.items():
        proto = onnx.parser.parse_model(text)
        for tensor in proto.graph.initializer:
            dtype, dims = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), list(tensor.dims)
            values = np.array([1, -1]) if tensor.name == "s" and dims == [2] else rng.normal(size=dims) + 3
            tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype).reshape(dims), tensor.name))
        made[name] = proto
    return made


def cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged models, each with words for what was done."""
    rng, whole = random.Random(seed), whole_models()
    for index in range(count):
        name = rng.choice(list(whole))
        proto = onnx.ModelProto()
        proto.CopyFrom(whole[name])
        if index % 6 == 0:
            raw = bytearray(proto.SerializeToString())
            for _ in range(rng.choice((1, 3, 10))):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            yield f"{name}: bytes", bytes(raw[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))])
            continue
        done = [rng.choice(CHANGES) for _ in range(rng.choice((1, 1, 2, 3)))]
        for change in done:
            change(proto, rng)
        yield f"{name}: {' '.join(change.__name__ for change in done)}", proto.SerializeToString()


def graphs_of(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The graph and those inside nodes."""
    found = [proto.graph]
    for graph in found:
        found += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return found


def any_node(proto: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto | None:
    nodes = [node for part in (*graphs_of(proto), *proto.functions) for node in part.node]
    return rng.choice(nodes) if nodes else None


def op(proto: onnx.ModelProto, rng: random.Random) -> None:
    if (node := any_node(proto, rng)) is not None:
        node.op_type = rng.choice([*_OPS, "twice", ""])


def domain(proto: onnx.ModelProto, rng: random.Random) -> None:
    if (node := any_node(proto, rng)) is not None:
        node.domain = rng.choice(("", "d", "ai.onnx", "ai.edgec", "com.microsoft", "\x00"))


def wire(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = any_node(proto, rng)
    if node is None:
        return
    side = rng.choice((node.input, node.output))
    names = ["x", "y", "h", "w", "", "missing", *node.input, *node.output]
    if side and rng.random() < 0.7:
        side[rng.randrange(len(side))] = rng.choice(names)
    elif side and rng.random() < 0.5:
        del side[rng.randrange(len(side))]
    else:
        side.extend([rng.choice(names)] * rng.choice((1, 40)))


def attribute(proto: onnx.ModelProto, rng: random.Random) -> None:
    node = any_node(proto, rng)
    if node is None:
        return
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    made = rng.choice(node.attribute) if node.attribute and rng.random() < 0.6 else node.attribute.add()
    made.name = rng.choice([made.name, "axis", "perm", "to", "value", "transB", "pads", "body", "then_branch", ""])
    what = rng.randrange(8)
    if what < 2:
        made.i, made.type = rng.choice(_INTEGERS), 2
    elif what == 2:
        made.ints.extend([rng.choice(_INTEGERS)] * rng.choice((1, 5)))
        made.type = 7
    elif what == 3:
        made.s, made.type = rng.choice((b"", b"SAME_UPPER", b"\xff")), 3
    elif what == 4:
        made.t.CopyFrom(rng.choice(proto.graph.initializer) if proto.graph.initializer else onnx.TensorProto())
        made.type = 4
    elif what == 5:
        inner = onnx.GraphProto()  # a copy: a message cannot hold itself
        inner.CopyFrom(proto.graph if rng.random() < 0.5 else onnx.GraphProto())
        made.g.CopyFrom(inner)
        made.type = 5
    elif what == 6:
        made.ref_attr_name = rng.choice(("k", "", "nothing"))
    else:
        made.type = rng.randrange(15)


def tensor(proto: onnx.ModelProto, rng: random.Random) -> None:
    if not proto.graph.initializer:
        return
    held = rng.choice(proto.graph.initializer)
    what = rng.randrange(7)
    if what == 0:
        held.dims.append(rng.choice(_INTEGERS))
    elif what == 1 and held.dims:
        held.dims[rng.randrange(len(held.dims))] = rng.choice(_INTEGERS)
    elif what == 2:
        held.data_type = rng.randrange(30)
    elif what == 3:
        held.raw_data = held.raw_data[: rng.randrange(len(held.raw_data) + 1)]
    elif what == 4:
        held.name = rng.choice([*_TEXTS, "x"])
    elif what == 5:
        held.data_location = 1
        entry = held.external_data.add()
        entry.key = rng.choice(("location", "offset", "length"))
        entry.value = rng.choice(("w.bin", "/etc/passwd", "..", "", "-1", "99999999999", "x" * 300, "damaged.onnx"))
    else:
        held.float_data.extend([1.0] * rng.choice((1, 7)))


def value(proto: onnx.ModelProto, rng: random.Random) -> None:
    graph = rng.choice(graphs_of(proto))
    side = rng.choice((graph.input, graph.output, graph.value_info))
    if not side or rng.random() < 0.2:
        side.add().name = rng.choice([*_TEXTS, "h"])
        return
    one = rng.choice(side)
    what = rng.randrange(6)
    if what == 0:
        one.type.tensor_type.elem_type = rng.randrange(30)
    elif what == 1:
        one.type.tensor_type.shape.dim.add().dim_value = rng.choice(_INTEGERS)
    elif what == 2 and one.type.tensor_type.shape.dim:
        rng.choice(one.type.tensor_type.shape.dim).dim_value = rng.choice(_INTEGERS)
    elif what == 3:
        one.ClearField("type")
    elif what == 4:
        one.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        one.name = rng.choice([*_TEXTS, "h"])


def graph(proto: onnx.ModelProto, rng: random.Random) -> None:
    part = rng.choice([*graphs_of(proto), *proto.functions])
    what = rng.randrange(5)
    if what == 0 and part.node:
        part.node.extend([rng.choice(part.node)])
    elif what == 1 and part.node:
        del part.node[rng.randrange(len(part.node))]
    elif what == 2 and part.node:
        part.node.sort(key=lambda _node: rng.random())
    elif what == 3:
        del part.output[:]
    else:
        del part.input[:]


def model(proto: onnx.ModelProto, rng: random.Random) -> None:
    what = rng.randrange(6)
    if what == 0 and proto.opset_import:
        rng.choice(proto.opset_import).version = rng.choice([*_INTEGERS, 6, 9, 11, 17, 25, 99])
    elif what == 1 and proto.opset_import:
        del proto.opset_import[rng.randrange(len(proto.opset_import))]
    elif what == 2:
        proto.ir_version = rng.choice(_INTEGERS)
    elif what == 3 and proto.functions:
        proto.functions.extend([rng.choice(proto.functions)])
    elif what == 4 and proto.functions:
        del proto.functions[rng.randrange(len(proto.functions))]
    else:
        proto.opset_import.add(domain=rng.choice(("", "d", "other")), version=rng.choice(_INTEGERS))


def function(proto: onnx.ModelProto, rng: random.Random) -> None:
    if not proto.functions:
        return
    one = rng.choice(proto.functions)
    what = rng.randrange(4)
    if what == 0:
        one.name = rng.choice(("twice", "scaled", "Add", ""))
    elif what == 1:
        one.attribute.append(rng.choice(("k", "", "z")))
    elif what == 2 and one.opset_import:
        one.opset_import[0].version = rng.choice(_INTEGERS)
    else:
        one.node.add(op_type=rng.choice(("twice", "scaled")), domain="d", input=["a"], output=["b"])


def names(proto: onnx.ModelProto, rng: random.Random) -> None:
    if (node := any_node(proto, rng)) is not None:
        node.name = rng.choice(_TEXTS)


CHANGES: list[Callable[[onnx.ModelProto, random.Random], None]] = [
    op, domain, wire, wire, attribute, attribute, tensor, tensor, value, graph, model, function, names,
]  # fmt: skip


def tried(path: Path) -> str:
    """What becomes of the file: `read`, or the code it is refused with. Anything but a diagnostic is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_onnx("m", path, 0)
    except PlanError as error:
        (diagnostic,) = error.diagnostics
        return diagnostic.code
    return "read"


def campaign(folder: Path, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Codes and how often each came, and the findings, over `count` cases."""
    found: Counter[str] = Counter()
    findings = []
    for index, (what, raw) in enumerate(cases(count, seed)):
        path = folder / "damaged.onnx"
        path.write_bytes(raw)
        told = _in_a_child(path)
        if told.startswith("!"):
            findings.append(f"case {index} of seed {seed} ({what}): {told[1:]}")
        found[told if not told.startswith("!") else "finding"] += 1
    return found, findings


def _in_a_child(path: Path) -> str:
    """What `tried` says in a process of its own; behind `!` what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (_LONGEST, _LONGEST))
        resource.setrlimit(resource.RLIMIT_AS, (_LARGEST, _LARGEST))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            told = tried(path)
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = f"!{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {str(error)[:200]}"
        os.write(write, told.encode(errors="replace"))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return told if told else f"!ended by signal {os.WTERMSIG(status)}"


if __name__ == "__main__":
    number, seeds = (int(word) for word in (*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :]))
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        codes, wrong = campaign(Path(scratch), number, seeds)
    print(*wrong, dict(codes), f"{time.monotonic() - begun:.0f} s", sep="\n")
