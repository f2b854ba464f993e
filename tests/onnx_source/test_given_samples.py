"""`sample = "inputs.npz"`: inputs of a plan, compared with the graph before anything is computed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.files import npz
from edgec.compiler.oracle.compare import EDGES, FROM_THE_END, ORDINARY, SAMPLE
from edgec.compiler.oracle.probes import Probes
from edgec.compiler.sources.onnx.onnx_source import OnnxSource

GRAPH = """g (float[n,3] x, int64[n] i, string[1] t) => (float[n,3] y, int64[n] j, string[1] s) {
    y = Relu(x) j = Neg(i) s = Identity(t)
}"""
GOOD = {"x": np.ones((2, 3), np.float32), "i": np.arange(2), "t": np.array(["größe"])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH}'), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def sample(file: Path, **arrays: np.ndarray) -> Path:
    np.savez(file.with_name("inputs.npz"), **arrays)  # type: ignore[arg-type]
    return file.with_name("inputs.npz")


def test_a_module_carries_one_call(file: Path) -> None:
    module = OnnxSource().with_samples([sample(file, **GOOD)]).load("m", file, 0)
    (feeds,) = module.clone().samples.feeds(module.main.graph)
    assert {name: array.tolist() for name, array in feeds.items()} == {
        name: array.tolist() for name, array in GOOD.items()
    }
    assert feeds["t"].dtype == object


def test_one_axis_more_holds_several(file: Path) -> None:
    stacked = {name: np.stack([array, array]) for name, array in GOOD.items()}
    stacked["i"][1] = 7
    module = OnnxSource().with_samples([sample(file, **stacked)]).load("m", file, 0)
    assert len(module.samples) == 2
    assert [feeds["i"].tolist() for feeds in module.samples.feeds(module.main.graph)] == [[0, 1], [7, 7]]
    assert len(list(module.samples.feeds(module.main.graph, most=1))) == 1


def test_everything_that_does_not_fit_is_said_at_once(file: Path) -> None:
    given = sample(file, x=np.ones((2, 4)), i=np.arange(3), image=np.ones(1))
    with pytest.raises(PlanError) as raised:
        OnnxSource().with_samples([given]).load("m", file, 0)
    told = [found.message.split("does not fit: ")[1] for found in raised.value.diagnostics]
    assert sorted(told) == [
        "`x` is 2x4, the model reads nx3",
        "`x` is a float64, the model reads float32",
        "it lacks the input `t`",
        "the model has no input `image`",
    ]
    assert {found.code for found in raised.value.diagnostics} == {"E0379"}
    assert raised.value.diagnostics[0].help is None


def test_a_name_has_one_size(file: Path) -> None:
    with pytest.raises(PlanError, match="`n` is 2 in `x`"):
        OnnxSource().with_samples([sample(file, **{**GOOD, "i": np.arange(3)})]).load("m", file, 0)


def test_calls_are_as_many_of_each(file: Path) -> None:
    arrays = {name: np.stack([array] * (3 if name == "i" else 2)) for name, array in GOOD.items()}
    with pytest.raises(PlanError, match="2 of `x`, 3 of `i`"):
        OnnxSource().with_samples([sample(file, **arrays)]).load("m", file, 0)


def looked_up(file: Path) -> Path:
    """A table of 5 rows, looked up by `n` indices."""
    text = "g (int64[n] i, float[5,2] w) => (float[n,2] y) { y = Gather(w, i) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), file)
    return file


def test_probes_are_the_samples_and_edges_at_their_sizes(file: Path) -> None:
    given = sample(file, i=np.arange(5), w=np.ones((5, 2), np.float32))
    module = OnnxSource().with_samples([given]).load("m", looked_up(file), 0)
    trials = Probes(module.main, samples=module.samples).trials()
    kinds = [trial.kind for trial in trials]
    assert kinds == [SAMPLE, ORDINARY, ORDINARY, *EDGES]
    assert [len(trial.feeds["i"]) for trial in trials[:2]] == [5, 5]
    assert trials[kinds.index(FROM_THE_END)].feeds["i"].min() < 0
    assert trials[0].expected["y"].tolist() == np.ones((5, 2)).tolist()


def test_a_sample_that_the_model_does_not_run_with(file: Path, golden_error: Callable[..., None]) -> None:
    given = sample(file, i=np.array([7]), w=np.ones((5, 2), np.float32))
    module = OnnxSource().with_samples([given]).load("m", looked_up(file), 0)
    with pytest.raises(PlanError) as raised:
        Probes(module.main, samples=module.samples).trials()
    assert raised.value.diagnostics[0].code == "E0380"
    golden_error("E0380", raised.value)


def member(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"
PICKLED = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
TWO = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no zip archive"),
        (member(TWO, bytes(8)), "one array without a name"),
        (archive(x=member(HUGE)), "states 4000000000000 bytes and has 0"),
        (archive(x=member(PICKLED, b"cos\nsystem\n")), "never unpickled"),
        (archive(x=b"hello"), "no array"),
        (archive(x=member("{" * 4000)), "no array"),
        (archive(x=member(TWO.replace("'<f4'", "[('a', '<f4')]"), bytes(8))), "no array of"),
        (archive(x=member("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1)}", bytes(8))), "no array of"),
        (archive(x=member(TWO, bytes(8)))[:-30], "no zip archive"),
    ],
)
def test_hostile_files_are_refused(content: bytes, says: str, file: Path) -> None:
    given = file.with_name("inputs.npz")
    given.write_bytes(content)
    with pytest.raises(PlanError, match=says):
        OnnxSource().with_samples([given]).load("m", file, 0)


def test_what_unpacks_to_too_much_is_refused_unread(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MOST", 1 << 20)
    with pytest.raises(PlanError, match="its arrays take"):
        OnnxSource().with_samples([sample(file, x=np.zeros(1 << 20, np.float32))]).load("m", file, 0)


def test_a_plan_gives_them(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample(file, **GOOD)
    np.savez(file.with_name("bad.npz"), x=np.ones(1))
    plan = file.with_name("plan.edge")
    text = 'device snapdragon_8_gen_3\nmodel m {{ source = onnx("m.onnx")  sample = {} }}\ndeploy m on cpu as ort\n'
    for given, told in (
        ('"inputs.npz"', ()),
        ('["inputs.npz", "in*.npz"]', ()),
        ('"bad.npz"', ("E0379", "plan.edge:2:45", "lacks the input `t`", "lacks the input `i`")),
        ('"none.npz"', ("E0301", "plan.edge:2:45")),
        ("3", ("E0201",)),
    ):
        plan.write_text(text.format(given))
        status = main(["check", str(plan), "--no-prove"])
        said = capsys.readouterr().err
        assert (status, [one for one in told if one not in said]) == (1 if told else 0, [])


def test_a_decoder_takes_none(golden_error: Callable[..., None]) -> None:
    from edgec.compiler.sources.hf.hf_source import HfSource

    with pytest.raises(PlanError) as raised:
        HfSource().with_samples([Path("inputs.npz")])
    golden_error("E0379", raised.value)


def test_what_is_kept_hangs_on_samples_shapes_and_weights_beside(file: Path) -> None:
    """A result of other samples, other shapes or other weights is none of this model."""
    from edgec.compiler.actions.facts import model_fact
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.plan.plan import ModelDecl, ModelSource

    weights = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n,64] x) => (float[n,64] y) { y = Add(x, w) }'
    )
    weights.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64,), np.float32), "w"))
    onnx.save(weights, file, save_as_external_data=True, location="m.data", size_threshold=0)
    source = OnnxSource().with_samples([sample(file, x=np.ones((2, 64), np.float32))])

    def fact(of: OnnxSource = source) -> str:
        return model_fact(ModelDecl("m", ModelSource(of, file, file.name), 0, Span("p", 1, 1, 1, 1)))

    first = fact()
    assert fact() == first
    assert fact(source.with_shapes({"x": (2, 64)})) != first
    sample(file, x=np.zeros((2, 64), np.float32))
    second = fact()
    assert second != first
    (file.parent / "m.data").write_bytes(np.zeros(64, np.float32).tobytes())
    assert fact() != second
