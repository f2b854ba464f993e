"""The rule of the conformance table, and that the table tells what the engine does."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.emit.conformance.op_class import Use
from edgec.compiler.emit.refusals import grouped
from edgec.compiler.ir.attributes import WINDOWS, attributes
from edgec.compiler.ir.opset import OPSET
from edgec.targets.qnn.check.graphs import refused_uses
from edgec.targets.qnn.conformance.cases import grid
from edgec.targets.qnn.conformance.legality import legality
from edgec.targets.qnn.conformance.measure import Runner
from edgec.targets.qnn.conformance.table import table
from edgec.targets.qnn.lower.lower_graphs import lower
from edgec.targets.qnn.lower.op_classes import CLASSES
from edgec.targets.qnn.lower.rules import RULES


def use(lowering="norm", **shape):
    return Use(lowering, tuple(sorted(shape.items())), "layers.0.norm")


def test_the_diagnostic_names_the_op_and_the_way_out(golden_error):
    asked = use("rms_norm", rows=1_000_000, size=256, epsilon=1e-6)
    golden_error("E0640", grouped(refused_uses([asked, asked], 75)))


def test_nodes_with_one_fault_are_one_diagnostic():
    shape = use(rows=10**6, size=256, epsilon=1e-6).shape
    norms = [Use("rms_norm", shape, f"layers.{layer}.norm") for layer in range(28)]
    (found,) = grouped(refused_uses([*norms, *norms], 75))
    assert found.message.startswith("28 nodes like `layers.*.norm` would become `rms_norm`, which ")
    assert found.help == 'choose other buckets, or `place (device = cpu) on "layers.*.norm"`'


@pytest.mark.parametrize(
    ("lowering", "shape", "ways"),
    [
        ("op.Add", {"elements": 10**9, "rank": 2}, []),
        ("rotary", {"tokens": 10**6}, ["choose other buckets"]),
        ("matmul_nbits", {"bits": 4, "tokens": 10**6}, ["choose other buckets", "another weight format"]),
        ("u8.linear", {"weights": "int4"}, ["another weight format", "leave its activations in fp16"]),
        ("matmul", {"tokens": 1, "k": 256, "n": 10**7}, []),  # neither buckets nor formats change n
        ("u16.embedding", {"tokens": 1, "vocab": 10**7, "size": 256}, []),
    ],
)
def test_the_help_offers_what_changes_the_use(lowering, shape, ways):
    (found,) = grouped(refused_uses([use(lowering, **shape)], 79))
    first, *others = (found.help or "").replace(", or ", ", ").replace(" or ", ", ").split(", ")
    assert first.startswith("`place (device = cpu) on ")
    assert others == ways


def test_tokens_out_of_range_offer_buckets_first():
    asked = use("matmul", tokens=10**6, k=256, n=256)
    (found,) = grouped(refused_uses([asked], 75))
    assert found.help == 'choose other buckets, or `place (device = cpu) on "layers.0.norm"`'


def test_the_table_in_the_repository_covers_every_architecture_and_says_what_is_wrong():
    assert set(table().tools) == {"v69", "v73", "v75", "v79", "v81"}
    rows = [row for row in table().rows if row.place == "v75"]
    wrong = {(row.lowering, row.shape.get("tokens")) for row in rows if row.verdict == "wrong"}
    assert ("raw.rms_norm", 16) in wrong
    assert not [row for row in rows if row.lowering == "rms_norm" and row.verdict != "right"]
    assert all(report.source.startswith("https://") for report in table().reports)


def op_graphs():
    """A case of each lowering that is no raw graph; of windows one where each attribute changes something."""
    kept = {}
    for case in grid(quick=True):
        plain = not case.lowering.endswith(("MaxPool", "AveragePool")) or "Global" in case.lowering
        if not case.raw and (plain or {("pads", "(1, 1, 1, 1)"), ("stride", 2)} <= set(case.shape)):
            kept.setdefault(case.lowering, case)
    return kept


OPS = op_graphs()


@pytest.mark.parametrize("lowering", OPS)
def test_every_attribute_of_a_lowered_op_is_in_its_class_or_settled(lowering):
    """Set each attribute of the op to another value: the use is of another class then, or the op is refused."""
    model, _ = OPS[lowering].make()
    for node in [node for node in model.graph if node.op_type in RULES]:
        for name, value in other_values(node).items():
            if name in CLASSES.settled.get(node.op_type, {}):
                continue
            before, usual = classes(model), node.attributes.get(name)
            node.attributes.add(ir.convenience.convert_attribute(name, value))
            assert classes(model) != before or CLASSES.is_number(name), f"{node.op_type}.{name}"
            node.attributes.pop(name)
            if usual is not None:
                node.attributes.add(usual)


def classes(model):
    model = model.clone()
    for node in model.graph:
        if node.op_type in WINDOWS:
            node.outputs[0].shape = None  # it follows from the attributes
    try:
        uses = lower({"case": model})["case"].uses
    except (PlanError, ValueError) as refusal:
        return str(refusal)
    return {CLASSES.class_of(use.lowering, use.shape) for use in uses}


def other_values(node):
    """Each attribute of the op's schema with a value that it does not have."""
    now = attributes(node)
    schemas = onnx.defs.get_schema(node.op_type, OPSET).attributes
    made = {
        "INT": lambda value: (value or 0) + 1,
        "INTS": lambda value: [item + 1 for item in value or (1, 1)],
        "FLOAT": lambda value: (value or 0.0) + 0.5,
        "STRING": lambda value: "tanh" if value == "none" else f"not_{value}",
    }
    return {name: made[str(schema.type).rpartition(".")[2]](now[name]) for name, schema in schemas.items()}


def test_every_op_with_a_rule_is_among_the_graphs_and_every_settled_attribute_exists():
    lowered = {node.op_type for case in OPS.values() for node in case.make()[0].graph}
    silent = {"Identity", "Dropout", "Cast"}  # nothing is emitted for them
    covered_by = {
        "Flatten": "Reshape",
        "Squeeze": "Reshape",
        "Unsqueeze": "Reshape",
        "Gemm": "MatMul",
        "Split": "Slice",
    }
    assert {covered_by.get(op, op) for op in RULES} - silent <= lowered
    for op, settled in CLASSES.settled.items():
        assert op in RULES
        assert set(settled) <= set(onnx.defs.get_schema(op, OPSET).attributes), op


@pytest.mark.parametrize(
    ("stated", "emitted"),
    [
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"pads": "0x0x1x1", "strides": "2x2"}),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"pads": "1x1x0x0", "strides": "2x2"}),
        ({"auto_pad": "VALID"}, {}),
        ({"dilations": [1, 1], "pads": [0, 0, 0, 0]}, {}),
        ({"ceil_mode": 1}, {}),  # the windows end where the input does
        ({"ceil_mode": 1, "strides": [2, 2]}, {"ceil_mode": 1, "strides": "2x2"}),
        ({"count_include_pad": 1}, {}),
        ({"count_include_pad": 1, "pads": [1, 1, 1, 1]}, {"count_include_pad": 1, "pads": "1x1x1x1"}),
    ],
)
def test_a_window_is_emitted_in_one_form(static, stated, emitted):
    words = ", ".join(f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in stated.items())
    body = f"[pool] y = AveragePool <kernel_shape = [3, 3], {words}> (x)"
    lowered = lower({"g": static(f"g (float[1,4,16,16] x) => (float[1,4,a,b] y) {{ {body} }}")})["g"]
    (use,) = lowered.uses
    words = {name: value for name, value in use.shape if name not in ("channels", "size", "kernel_shape")}
    assert words == emitted
    (node,) = lowered.model.graph
    assert "auto_pad" not in node.attributes
    assert ("ceil_mode" in node.attributes) == ("ceil_mode" in emitted)


def test_an_average_that_counts_less_at_the_border_is_refused():
    """HTP divides by the whole window at the border: seen on the emulator, kept as rows."""
    judge = legality(75)
    words = {"channels": 32, "size": 28, "kernel_shape": "3x3"}
    assert judge.problem(use("op.AveragePool", **words, strides="2x2")) is None
    for odd in ({"pads": "1x1x1x1"}, {"ceil_mode": 1, "strides": "2x2"}):
        assert "computes wrong numbers" in (judge.problem(use("op.AveragePool", **words, **odd)) or ""), odd
    assert judge.problem(use("op.AveragePool", **words, pads="1x1x1x1", count_include_pad=1)) is None


CHECKED = (
    "matmul_nbits bits=4 block=32 k=256 n=128 symmetric=True tokens=16",
    "rms_norm rows=128 size=32",
    "raw.rms_norm rank=4 size=32 tokens=16",
    "raw.erf tokens=4",
    "raw.sparse_store beside=add rows=8 weights=int8",
    "raw.sparse_store beside=add rows=32 weights=int4",
    "op.AveragePool ceil=True channels=8 kernel=(3, 3) pads=(0, 0, 0, 0) size=56 stride=2",
)


@pytest.mark.slow
def test_the_engine_still_does_what_the_table_says(chip):
    known = {row.key: row for row in table().rows}
    runner = Runner(chip)
    found = list(runner.run(case for case in grid() if case.name in CHECKED))
    assert len(found) == len(CHECKED)
    for again in found:
        assert again.verdict == known[again.key].verdict, again


@pytest.mark.slow
def test_a_crash_is_a_row_and_the_next_case_runs(chip, monkeypatch):
    runner = Runner(chip)
    cases = [case for case in grid() if case.name in CHECKED[:1]] * 2
    rows = runner.run(cases)
    assert next(rows).verdict == "right"
    assert runner.child is not None
    runner.child._process.kill()  # as a segfault would
    runner.child._process.wait()
    assert next(rows).verdict == "crash"
    assert next(runner.run(cases[:1])).verdict == "right"
