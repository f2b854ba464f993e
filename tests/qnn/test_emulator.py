"""Graphs of one context share an emulator process, which ends with the last of them; contexts hold 256 graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.emit.child_process import Child
from edgec.compiler.ir.save import save_graphs
from edgec.targets.qnn.binaries import contexts
from edgec.targets.qnn.htp.chip import Chip
from edgec.targets.qnn.htp.compile import compile_twin
from edgec.targets.qnn.htp.emulator import QnnSession, open_shared

TANH = "tanh (float16[1,{s},64] x) => (float16[1,{s},64] y) {{ [act] y = Tanh (x) }}"


def processes() -> set[int]:
    """The emulators that are running now."""
    found = psutil.Process().children(recursive=True)
    return {p.pid for p in found if any("htp.worker" in word for word in p.cmdline())}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, chip: Chip) -> dict[int, Path]:
    """Rows of the input -> EPContext ONNX of a graph of one op."""
    import onnx_ir as ir

    folder = tmp_path_factory.mktemp("twins")
    (folder / "in").mkdir()
    head = '<ir_version: 11, opset_import: ["": 24]>\n'
    graphs = {f"t{s}": ir.from_onnx_text(head + TANH.format(s=s)) for s in (1, 4)}
    save_graphs(graphs, folder / "in", "weights.data")
    return {s: compile_twin(folder / "in", f"t{s}", chip, folder / "out").onnx[f"t{s}"] for s in (1, 4)}


def run(session: QnnSession, rows: int) -> np.ndarray:
    return session.run({"x": np.full((1, rows, 64), 0.5, np.float16)})["y"]


def test_graphs_of_one_context_share_a_process(twins, chip):
    before = processes()
    one, four = (open_shared(chip, "context", lambda _child, s=s: twins[s], f"`p{s}`") for s in (1, 4))
    assert len(processes() - before) == 1
    other = open_shared(chip, "another context", lambda _child: twins[1], "`other`")
    assert len(processes() - before) == 2
    other.close()
    assert len(processes() - before) == 1
    expected = run(four, 4)
    one.close()
    one.close()
    np.testing.assert_array_equal(run(four, 4), expected)
    four.close()
    assert processes() == before


def test_the_process_compiles_what_it_runs(twins, chip, tmp_path):
    before, seen = processes(), []

    def make(child: Child) -> Path:
        source = twins[1].parent.parent / "in"
        made = compile_twin(source, "t1", chip, tmp_path / "out", child).onnx["t1"]
        seen.append(processes() - before)
        return made

    session = open_shared(chip, "context", make, "`p`")
    assert seen == [processes() - before]
    assert len(seen[0]) == 1
    assert run(session, 1).shape == (1, 1, 64)
    session.close()


def test_a_graph_that_cannot_be_opened_leaves_no_process(twins, chip, tmp_path):
    before = processes()
    with pytest.raises(EngineError, match="the HTP emulator running `gone` failed in `open`"):
        open_shared(chip, "context", lambda _child: tmp_path / "gone.onnx", "`gone`")
    assert processes() == before


def test_a_dead_process_is_named_and_replaced(twins, chip):
    before = processes()
    session = open_shared(chip, "context", lambda _child: twins[1], "`p1`, bucket `t1`")
    (pid,) = processes() - before
    psutil.Process(pid).kill()
    with pytest.raises(EngineError, match="the HTP emulator running `p1`, bucket `t1` was killed by SIGKILL in `run`"):
        run(session, 1)
    again = open_shared(chip, "context", lambda _child: twins[1], "`p1`")
    assert run(again, 1).shape == (1, 1, 64)
    session.close()
    again.close()
    assert processes() == before


@pytest.mark.parametrize(
    ("graphs", "shares"),
    [
        ([6], [[0]]),
        ([128, 128], [[0, 1]]),
        ([128, 128, 1], [[0, 1], [2]]),
        ([3] * 113, [list(range(85)), list(range(85, 113))]),
        ([255, 2, 254], [[0], [1, 2]]),
    ],
)
def test_a_context_holds_256_graphs(graphs, shares):
    assert contexts(graphs) == shares
