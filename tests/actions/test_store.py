"""A store that machines share: what comes out is what went in, and damage is found."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path

import pytest
from edgec.compiler.actions import records
from edgec.compiler.actions.action import Action
from edgec.compiler.actions.elsewhere import perform_with_store, pulled, share
from edgec.compiler.actions.records import Output, Result
from edgec.compiler.actions.store import Store
from edgec.compiler.commands.action_worker import run
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.diagnostics.warn import collected, listening
from edgec.compiler.driver import CompileOptions, action_graph, by_actions, load_plan, load_request
from edgec.compiler.files import cache

KEY = "ab" * 32


def entry(kind: str = "emission") -> Output:
    def fill(folder: Path) -> None:
        (folder / "files" / "a").mkdir(parents=True)
        (folder / "files" / "a" / "x.bin").write_bytes(b"numbers")

    cache.make(kind, KEY, fill)
    return Output(kind, KEY)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to another machine: an empty cache."""

    def go() -> None:
        monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "other"))

    return go


@pytest.mark.parametrize("url", ["memory://edgec-test", "{tmp}/store"])
def test_what_one_machine_leaves_another_finds(own_cache, tmp_path, elsewhere, url):
    store = Store(url.format(tmp=tmp_path))
    made = entry()
    cache.write_note("conformance", KEY, "right")
    action = Action("emit", "a", {"name": url})
    records.keep(action, Result(outputs=[made, Output("conformance", KEY, note=True)]))
    store.push_result(action.key, records.noted(action.key).outputs)
    elsewhere()
    assert records.known(action.key) is None
    assert pulled(action.key, store) is not None
    assert (cache.find("emission", KEY) / "files" / "a" / "x.bin").read_bytes() == b"numbers"
    assert cache.read_note("conformance", KEY) == "right"
    assert records.known(action.key) is not None
    assert pulled("cd" * 32, store) is None


@pytest.mark.parametrize("damage", ["bytes", "cut seal", "missing"])
def test_a_damaged_entry_is_removed_and_told(own_cache, tmp_path, elsewhere, golden_error, damage):
    store = Store(str(tmp_path / "store"))
    made = entry()
    store.push(made)
    place = tmp_path / "store" / "emission" / KEY[:2] / KEY
    if damage == "bytes":
        (place / "files" / "a" / "x.bin").write_bytes(b"NUMBERS")
    elif damage == "missing":
        (place / "files" / "a" / "x.bin").unlink()
    else:
        (place / "seal.json").write_bytes((place / "seal.json").read_bytes()[:-9])
    elsewhere()
    with collected() as told, listening(lambda _warning: None):
        assert store.pull(made) is False
    assert [one.code for one in told] == ["W0978"]
    assert not place.exists()
    assert cache.find("emission", KEY) is None
    if damage == "bytes":
        golden_error("W0978", told, hide={str(tmp_path): "TMP"})


def test_a_damaged_note_counts_as_none(own_cache, tmp_path, elsewhere):
    store = Store(str(tmp_path / "store"))
    cache.write_note("action", KEY, "{}")
    store.push(Output("action", KEY, note=True))
    (tmp_path / "store" / "action" / KEY[:2] / f"{KEY}.note").write_bytes(b"{}\n0\n")
    elsewhere()
    with listening(lambda _warning: None):
        assert store.pull_result(KEY) is False


def test_a_seal_that_leads_out_of_the_entry_is_not_followed(own_cache, tmp_path, elsewhere):
    from edgec.compiler.files.seal import sealed_line

    place = tmp_path / "store" / "emission" / KEY[:2] / KEY
    place.mkdir(parents=True)
    (tmp_path / "store" / "secret").write_text("x")
    files = {"../../../secret": [1, "0" * 64]}
    (place / "seal.json").write_text(sealed_line({"entry": f"emission/{KEY}", "files": files}))
    with listening(lambda _warning: None):
        assert Store(str(tmp_path / "store")).pull(Output("emission", KEY)) is False


def test_a_store_that_cannot_be_written(own_cache, tmp_path, golden_error, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError) as raised:
        Store(str(tmp_path / "file" / "store")).check_writable()
    golden_error("E0978", raised.value, hide={str(tmp_path): "TMP"})
    full = Store("memory://full")

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full._fs, "put_file", no_room)
    with pytest.raises(EngineError, match="no space left"):
        full.push(entry())


def test_a_store_of_one_process_is_no_store(own_cache):
    with pytest.raises(EngineError, match="memory of one process"):
        Store("memory://full").check_writable()


@pytest.mark.parametrize("url", ["", "  "])
def test_a_store_has_a_name(url):
    with pytest.raises(PlanError, match="no name"):
        Store(url)


def test_what_a_cloud_raises_is_told_as_the_store_s(own_cache, monkeypatch):
    """Packages behind fsspec raise types of their own, which are no OSError."""
    store = Store("memory://cloud")

    def refused(*_: object, **_more: object) -> None:
        raise RuntimeError("no credentials\nand a page of hints")

    monkeypatch.setattr(store._fs, "exists", refused)
    with pytest.raises(EngineError) as raised:
        store.has(Output("emission", KEY))
    (told,) = raised.value.diagnostics
    assert told.code == "E0978"
    assert told.message.endswith("cannot be read: no credentials")


def test_a_store_that_cannot_be_opened(tmp_path):
    with pytest.raises(EngineError, match="cannot be opened"):
        Store(f"zip://::{tmp_path}/absent.zip")


def test_a_relative_folder_is_the_same_for_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert by_actions(store="shared").store == str(tmp_path / "shared")
    assert by_actions(store="s3://bucket/shared").store == "s3://bucket/shared"


def test_what_has_run_here_is_in_the_store_for_others(own_cache, tmp_path, elsewhere, diamond):
    """Also where the store lost an output, and has the result still."""
    graph, made = diamond(), entry()
    first, *_ = (key for key, _ in graph)
    records.keep(graph.actions[first], Result(outputs=[made]))
    url = str(tmp_path / "store")
    for _ in range(2):
        share(graph, url)
        place = tmp_path / "store" / "emission" / KEY[:2] / KEY
        assert (place / "files" / "a" / "x.bin").read_bytes() == b"numbers"
        shutil.rmtree(place)
        assert not Store(url).holds(first, [made])
    share(graph, url)
    elsewhere()
    assert pulled(first, Store(url)) is not None
    assert records.known(first) is not None


def test_a_need_that_the_store_lost_is_named(own_cache, tmp_path, elsewhere, diamond):
    graph, made = diamond(), entry()
    first, second, *_ = (key for key, _ in graph)
    records.keep(graph.actions[first], Result(outputs=[made]))
    url = str(tmp_path / "store")
    share(graph, url)
    shutil.rmtree(tmp_path / "store" / "emission")
    elsewhere()
    with pytest.raises(EngineError, match="does not hold whole") as raised:
        perform_with_store(graph.actions[second], url, load_request)
    assert raised.value.diagnostics[0].code == "E0972"


def test_a_store_that_nothing_opens(monkeypatch, golden_error):
    with pytest.raises(PlanError) as raised:
        Store("nothing-known://x")
    assert raised.value.diagnostics[0].code == "E0974"
    real = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PlanError) as raised:
        Store("s3://x")
    golden_error("E0974", raised.value)


def test_an_action_done_with_a_store_is_not_done_again_elsewhere(plan_file, tmp_path, elsewhere):
    ran = action_graph(load_plan(plan_file), CompileOptions())
    ((key, action),) = ran.graph
    made = perform_with_store(action, f"{tmp_path}/store", load_request)
    assert made.runs == 1
    elsewhere()
    again = run(action.described(), store=f"{tmp_path}/store")
    assert again.runs == 1
    assert cache.find("emission", key) is not None


def test_a_compile_without_its_lowering(own_cache, golden_error):
    lonely = Action("compile", "a.npu1 for sm8650", {"lowered": KEY, "unit": "0"}, (), {"unit": 0})
    with pytest.raises(EngineError) as raised:
        perform_with_store(lonely, None, load_request)
    golden_error("E0972", raised.value)
