"""The HTP compiler in its worker: one shared binary, same bytes each time, refusals by name, nothing half made."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnxruntime_qnn
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.save import save_graphs
from edgec.targets.qnn.htp import provider as htp
from edgec.targets.qnn.htp.compile import compile_shared, compile_twin, context_node
from edgec.targets.qnn.htp.emulator import QnnEmulator
from edgec.targets.qnn.lower.lower_graphs import lower

MLP = """
mlp (float[1,{s},64] x) => (float[1,{s},32] y)
<float[128,64] up = {{{up}}}, float[32,128] down = {{{down}}}>
{{
    [up__t] up_t = Transpose <perm = [1, 0]> (up)
    [up] h = MatMul (x, up_t)
    [act] a = Swish (h)
    [down__t] down_t = Transpose <perm = [1, 0]> (down)
    [down] y = MatMul (a, down_t)
}}
"""


def mlp(static, tokens: int):
    up = ", ".join(str((i % 17 - 8) / 40) for i in range(128 * 64))
    down = ", ".join(str((i % 13 - 6) / 50) for i in range(32 * 128))
    return static(MLP.format(s=tokens, up=up, down=down))


def write(static, folder: Path, tokens: tuple[int, ...] = (1, 8)) -> list[str]:
    folder.mkdir()
    graphs = {f"t{t}": lowered.model for t in tokens for lowered in lower({"g": mlp(static, t)}).values()}
    save_graphs(graphs, folder, "weights.data")
    return list(graphs)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_option_is_known_to_the_engine():
    library = Path(onnxruntime_qnn.get_library_path()).read_bytes()
    for key in htp.PROVIDER_OPTIONS | htp.SESSION_ENTRIES:
        assert key.encode() in library or key == "session.disable_cpu_ep_fallback", key


def test_an_option_the_engine_would_ignore_is_refused():
    with pytest.raises(ValueError, match="would ignore: vtcm_size"):
        htp.session_options({"vtcm_size": "8"})


def test_two_graphs_share_one_binary(static, tmp_path, chip):
    graphs = write(static, tmp_path / "in")
    made = compile_shared(tmp_path / "in", graphs, chip, tmp_path / "out", "pair")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["pair.bin", "pair.t1.onnx", "pair.t8.onnx"]
    assert set(made.info.graphs) == set(made.names.values())
    for graph in graphs:
        node = onnx.load(made.onnx[graph]).graph.node[0]
        values = {a.name: a.s.decode() for a in node.attribute if a.type == onnx.AttributeProto.STRING}
        assert (values["ep_cache_context"], values["partition_name"]) == ("pair.bin", made.names[graph])


def test_the_same_inputs_give_the_same_bytes_from_another_folder(static, tmp_path, chip):
    for name in ("a", "b"):
        graphs = write(static, tmp_path / name)
        compile_shared(tmp_path / name, graphs, chip, tmp_path / f"{name}-out", "pair")
    first, second = sorted((tmp_path / "a-out").iterdir()), sorted((tmp_path / "b-out").iterdir())
    assert [digest(p) for p in first] == [digest(p) for p in second]


def test_the_twin_runs_and_agrees_with_the_target_graph_on_the_cpu(static, tmp_path, chip):
    import numpy as np
    from edgec.compiler.ir.onnx_runtime import session

    write(static, tmp_path / "in")
    made = compile_twin(tmp_path / "in", "t8", chip, tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((1, 8, 64)).astype(np.float16)
    graph = QnnEmulator(chip).open(made.onnx["t8"], "the test")
    got = graph.run({"x": x})["y"].astype(np.float32)
    graph.close()
    expected = session(str(tmp_path / "in" / "t8.onnx")).run(None, {"x": x})[0].astype(np.float32)
    assert np.abs(got - expected).max() <= 0.005 * np.abs(expected).max()


REFUSED = """
refused (float16[1,4,16] x) => (float16[1,4,16] y)
{
    [layers__0__mlp__act___erf] e = Erf (x)
    [layers__0__mlp__act___gate] y = Mul (x, e)
}
"""


def test_a_refused_op_is_named_and_leaves_nothing(static, tmp_path, chip, golden_error):
    (tmp_path / "in").mkdir()
    save_graphs({"t4": static(REFUSED)}, tmp_path / "in", "weights.data")
    with pytest.raises(PlanError) as caught:
        compile_twin(tmp_path / "in", "t4", chip, tmp_path / "out")
    golden_error("E0620", caught.value)
    assert not (tmp_path / "out").exists()


def test_a_graph_that_did_not_become_one_context_is_an_error(static, golden_error):
    import onnx_ir as ir
    from edgec.compiler.diagnostics.diagnostic import EngineError

    with pytest.raises(EngineError) as caught:
        context_node("t4", ir.to_proto(static(REFUSED)))
    golden_error("E0612", caught.value)
