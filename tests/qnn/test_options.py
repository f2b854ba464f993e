"""Every option of the HTP compiler is read back from the binary; one that the engine did not follow is an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edgec.compiler.commands.inspect import describe
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.targets.qnn import verify
from edgec.targets.qnn.htp import provider
from edgec.targets.qnn.htp.compile import compile_twin
from edgec.targets.qnn.htp.context_binary import read
from edgec.targets.qnn.htp.context_binary import verify as read_and_verify
from edgec.targets.qnn.htp.engine_options import ignored, option_rows

from .test_compile import write


@pytest.fixture(scope="module")
def info(emitted):
    return read(emitted.folder / "target_ctx.bin")


def test_the_manifest_says_what_was_asked_and_what_is_there(emitted):
    rows = emitted.emission.parts["target.npu0"]["details"]["options"]
    assert {row["option"]: (row["asked"], row["found"]) for row in rows} == {
        "soc_model": (57, 57),
        "vtcm_mb": (8, 8),
        "htp_graph_finalization_optimization_mode": (3, 3),
        "ep.share_ep_contexts": (1, 1),
        "enable_htp_fp16_precision": (1, 1),
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"soc_model": 43}, "`soc_model` was to be 57, in the binary it is 43"),
        ({"vtcm_bytes": {"a": 4 << 20, "b": 8 << 20}}, "`vtcm_mb` was to be 8, in the binary it is 4, 8"),
        ({"vtcm_bytes": {"a": None}}, "`vtcm_mb` was to be 8, in the binary it is None"),
        ({"optimization": {"a": 1}}, "`htp_graph_finalization_optimization_mode` was to be 3, in the binary it is 1"),
    ],
)
def test_an_option_that_was_ignored_is_told(info, chip, changes, says):
    assert list(ignored(option_rows(chip, info, True))) == []
    assert list(ignored(option_rows(chip, replace(info, **changes), True))) == [says]


def test_an_engine_that_ignores_one_fails_the_compile(static, tmp_path, chip, monkeypatch):
    """VTCM that is asked for, and an engine that takes another amount."""
    write(static, tmp_path / "in")
    made = compile_twin(tmp_path / "in", "t8", chip, tmp_path / "out")
    with pytest.raises(EngineError, match="`vtcm_mb` was to be 2, in the binary it is 8"):
        read_and_verify(made.binary, {}, replace(chip, vtcm_mb=2), False)


def test_verify_reads_them_again(emitted):
    part = emitted.manifest.part("target.npu0")
    assert verify.verify_part(emitted.bundle, part) == []
    rows = [{**row, "found": 1} if row["option"].startswith("htp_graph") else row for row in part["details"]["options"]]
    (problem,) = verify.verify_part(emitted.bundle, {**part, "details": {**part["details"], "options": rows}})
    assert "`htp_graph_finalization_optimization_mode` is 3, the manifest says 1" in problem


def test_every_option_that_is_set_is_looked_for(info, chip):
    """Those that no binary states follow from others, or end a compile if they are not followed."""
    read_back = {row["option"] for row in option_rows(chip, info, True)}
    elsewhere = {
        "backend_path", "htp_arch",  # of the SoC, which has the higher priority
        "offload_graph_io_quantization",  # of graphs of integers
        "session.disable_cpu_ep_fallback",  # a graph that is not one context is E0612
        "ep.stop_share_ep_contexts",  # without it there is no binary
    }  # fmt: skip
    assert read_back | elsewhere == provider.PROVIDER_OPTIONS | provider.SESSION_ENTRIES


def test_inspect_shows_the_level_of_a_binary(emitted):
    graphs = describe(emitted.folder / "target_ctx.bin")["graphs"].values()
    assert {(graph["vtcm_bytes"], graph["optimization"]) for graph in graphs} == {(8 << 20, 3)}
