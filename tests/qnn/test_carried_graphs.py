"""A bundle with a context binary runs on a machine that never saw its compile; a binary of other weights is found."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EdgecError, EngineError
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.files import cache
from edgec.targets.qnn.carried_graphs import DATA, carry, unpack
from edgec.targets.qnn.htp.find_weights import Held, TileFinder, missing, read
from edgec.targets.qnn.htp.weight_layouts import BY_NAME, LAYOUTS, Layout, Sparse
from edgec.targets.qnn.twins import TARGET_KIND, restore

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
PLAN = """
plan carried
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 64 }}
pipeline p {{
    quantize (weights = int4, block = 32, method = {method}) except "embed_tokens"
    bucket (tokens = [1, 16], context = [64])
}}
deploy m on npu through p as qnn
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a method of choosing integers, compiled once."""
    folder, found = tmp_path_factory.mktemp("carried"), {}

    def make(method: str) -> Path:
        if method not in found:
            plan = folder / f"{method}.edge"
            plan.write_text(PLAN.format(model=MODELS / "pycode-qwen2", method=method), encoding="utf-8")
            found[method] = compile_plan(load_plan(plan), folder / method).bundle
        return found[method]

    return make


@pytest.fixture
def moved(made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle on a machine whose cache is empty."""
    original = made("rtn")
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(original, tmp_path / "moved"))


@pytest.mark.parametrize("layout", [one for layouts in LAYOUTS.values() for one in layouts], ids=lambda one: one.name)
def test_tiles_are_the_numbers_in_another_order(layout: Layout):
    chance = np.random.default_rng(1)
    outputs, inputs = 2 * layout.width, 64
    numbers = chance.integers(0, 1 << min(layout.bits, 8), (outputs, inputs)).astype(np.uint8)
    if layout.bits == 16:
        numbers = chance.integers(-32639, 32640, (outputs, inputs)).astype(np.int16).view(np.uint16)
    if isinstance(layout, Sparse):
        numbers = two_of_four(chance, outputs, inputs)
    tiles = layout.tiles(numbers)
    assert tiles.shape[1] == layout.tile_bytes(inputs)
    np.testing.assert_array_equal(layout.numbers(tiles, inputs), numbers)


def two_of_four(chance: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """Numbers of which two of every four inputs are zero."""
    order = chance.permuted(np.tile([True, True, False, False], (outputs, inputs // 4, 1)), axis=-1)
    numbers = chance.integers(1, 256, order.shape).astype(np.uint8) * order
    return numbers.reshape(outputs, inputs)


def test_tiles_that_are_not_there_are_carried():
    """Of a sparse weight with a tile of other zeros all else is found, and read back whole."""
    chance, layout = np.random.default_rng(2), BY_NAME["sparse int8"]
    numbers = two_of_four(chance, 64, 128)
    numbers[40, :4] = (0, 0, 0, 7)
    weights = np.ascontiguousarray(numbers.T).reshape(-1)
    held = Held("w", 0, weights.size, "INT8", (128, 64))
    binary = np.concatenate([np.zeros(128, np.uint8), layout.tiles(numbers).reshape(-1), np.zeros(64, np.uint8)])
    odd = layout.tiles(numbers)[:, 0] == 255
    found = TileFinder(binary).find(held, weights)
    assert found is not None
    assert (found.layout, int((found.places < 0).sum())) == ("sparse int8", 1)
    assert odd.sum() >= 1
    made = np.zeros_like(weights)
    read(held, found, binary, made, io.BytesIO(b"".join(missing(held, found, weights))))
    np.testing.assert_array_equal(made, weights)
    with pytest.raises(ValueError, match="reshape"):
        read(held, found, binary, made, io.BytesIO(b"short"))


@pytest.mark.slow
def test_a_moved_bundle_runs_and_is_verified(made, moved, tmp_path, monkeypatch, capsys):
    words = ["--prompt", "def mean(", "--tokens", "3"]
    assert main(["run", str(moved), *words]) == 0
    text = capsys.readouterr().out
    assert main(["run", str(moved), *words, "--oracle"]) == 0
    assert capsys.readouterr().out == text
    assert main(["verify", str(moved), "--source", f"m={MODELS / 'pycode-qwen2'}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["parts"]["m.npu0"]
    assert facts["ran"] == "twin"
    assert facts["read_back"]["bytes"] > 0.97 * facts["read_back"]["of"]
    monkeypatch.undo()
    assert main(["run", str(made("rtn")), *words]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.slow
def test_two_bits_stay_two_bits_in_the_binary(tmp_path, capsys):
    plan = tmp_path / "two.edge"
    text = PLAN.format(model=MODELS / "pycode-qwen2", method="mse")
    plan.write_text(text.replace("weights = int4, block = 32", "weights = int2, block = 32, symmetric = false"))
    bundle = compile_plan(load_plan(plan), tmp_path / "bundle").bundle
    manifest = load_manifest(bundle)
    rows = [row for row in manifest.models["m"]["weights"] if row["dtype"] == "uint2"]
    assert len(rows) == 15
    for row in rows:
        n, k = row["shape"]
        assert row["bytes"] == n * (k // 4 + k // 32 * 2) + (n * (k // 32) * 2 + 7) // 8
    capsys.readouterr()
    assert main(["verify", str(bundle), "--json"]) == 3  # two bits of so small a model are far from its floats
    facts = json.loads(capsys.readouterr().out)["parts"]["m.npu0"]
    assert facts["emission"] < 0.01 < facts["quantization"]
    assert facts["read_back"]["bytes"] > 0.97 * facts["read_back"]["of"]


@pytest.mark.slow
def test_a_binary_of_other_weights_is_found(made, moved, tmp_path, capsys):
    binary = moved / "m" / "m_ctx.bin"
    shutil.copy(made("mse") / "m" / "m_ctx.bin", binary)
    sealed(moved)
    assert main(["verify", str(moved)]) == 3
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: part `m.npu0`")]
    assert any("holds other weights" in line and "q_proj.weight" in line for line in said)
    assert main(["run", str(moved), "--prompt", "def", "--tokens", "1"]) == 4
    assert "E0614" in capsys.readouterr().err


def sealed(bundle: Path) -> None:
    """Make every hash of a bundle right again."""
    import hashlib

    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for name, facts in data["files"].items():
        content = (bundle / name).read_bytes()
        facts.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    raw = json.dumps(data).encode()
    path.write_bytes(raw)
    (bundle / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n", encoding="utf-8")


def test_one_bit_of_a_weight_is_found(emitted, tmp_path, golden_error):
    binary, key = copied(emitted, tmp_path)
    with zipfile.ZipFile(binary.with_suffix(".graphs.zip")) as carried:
        index = json.loads(carried.read("index.json"))
        place = int(np.frombuffer(carried.read("places"), "<i8")[0])
    content = bytearray(binary.read_bytes())
    content[place + 100] ^= 1
    binary.write_bytes(content)
    (tmp_path / "made").mkdir()
    read = unpack(binary, tmp_path / "made")
    assert [name for name, _ in read.wrong] == [next(row["name"] for row in index["weights"] if row["layout"])]
    shutil.rmtree(cache.entry(TARGET_KIND, key), ignore_errors=True)
    with pytest.raises(EngineError) as caught:
        restore(binary, key)
    golden_error("E0614", caught.value)


def copied(emitted, folder: Path) -> tuple[Path, str]:
    """A copy of the emitted binary with what is carried beside it, and the key of its graphs."""
    (part,) = emitted.emission.parts.values()
    source = emitted.bundle / part["file"]
    binary = Path(shutil.copy(source, folder / source.name))
    shutil.copy(source.with_suffix(".graphs.zip"), binary.with_suffix(".graphs.zip"))
    return binary, part["details"]["twins"]


def edit(change: Callable[[dict], object]) -> Callable[[dict[str, bytes]], object]:
    """A change of the archive's index."""

    def apply(members: dict[str, bytes]) -> None:
        index = json.loads(members["index.json"])
        change(index)
        members["index.json"] = json.dumps(index).encode()

    return apply


def model_of(members: dict[str, bytes], change: Callable) -> None:
    import onnx

    name = next(name for name in members if name.endswith(".onnx"))
    model = onnx.load_model_from_string(members[name])
    change(model)
    members[name] = model.SerializeToString()


HOSTILE = {
    "no index": lambda m: m.pop("index.json"),
    "no places": lambda m: m.pop("places"),
    "no rest": lambda m: m.pop("rest"),
    "short rest": lambda m: m.update(rest=m["rest"][:-5]),
    "short places": lambda m: m.update(places=m["places"][:-16]),
    "odd places": lambda m: m.update(places=m["places"][:-3]),
    "places outside": lambda m: m.update(places=np.full(len(m["places"]) // 8, 1 << 40, "<i8").tobytes()),
    "index no JSON": lambda m: m.update({"index.json": b"{" * 3000}),
    "index a list": lambda m: m.update({"index.json": b"[]"}),
    "size huge": edit(lambda i: i.update(size=10**15)),
    "size text": edit(lambda i: i.update(size="x")),
    "size nan": edit(lambda i: i.update(size=float("nan"))),
    "size negative": edit(lambda i: i.update(size=-1)),
    "graph up": edit(lambda i: i["graphs"].append("../../x")),
    "graph unknown": edit(lambda i: i["graphs"].append("x")),
    "offset outside": edit(lambda i: i["weights"][0].update(offset=1 << 60)),
    "length huge": edit(lambda i: i["weights"][0].update(length=1 << 60)),
    "dims negative": edit(lambda i: i["weights"][0].update(dims=[-1, -1])),
    "dims huge": edit(lambda i: [row.update(dims=[10**9, 10**9]) for row in i["weights"]]),
    "dims text": edit(lambda i: i["weights"][0].update(dims="abc")),
    "layout unknown": edit(lambda i: i["weights"][0].update(layout="x")),
    "layout list": edit(lambda i: i["weights"][0].update(layout=[1])),
    "tiles none": edit(lambda i: [row.update(tiles=0) for row in i["weights"]]),
    "tiles negative": edit(lambda i: [row.update(tiles=-5) for row in i["weights"]]),
    "weights null": edit(lambda i: i.update(weights=[None])),
    "a graph is garbage": lambda m: m.update({name: b"\xff" * 99 for name in m if name.endswith(".onnx")}),
    "a loop": lambda m: model_of(m, lambda model: model.graph.node.add(op_type="Loop")),
    "external up": lambda m: model_of(
        m,
        lambda model: [
            setattr(entry, "value", "../../../etc/passwd")
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        ],
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_changed_archive_is_refused_with_a_code(emitted, tmp_path, case):
    binary, _ = copied(emitted, tmp_path)
    archive = binary.with_suffix(".graphs.zip")
    with zipfile.ZipFile(archive) as carried:
        members = {name: carried.read(name) for name in carried.namelist()}
    HOSTILE[case](members)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, content in members.items():
            changed.writestr(name, content)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(EdgecError) as caught:
        restore(binary, "0" * 64)
    assert [found.code for found in caught.value.diagnostics] == ["E0614"]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30])
def test_a_cut_archive_is_refused_with_a_code(emitted, tmp_path, cut):
    binary, key = copied(emitted, tmp_path)
    archive = binary.with_suffix(".graphs.zip")
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(EngineError) as caught:
        restore(binary, key)
    assert caught.value.diagnostics[0].code == "E0614"


def test_what_is_not_found_is_carried_as_it_is(tmp_path, monkeypatch):
    """Weights in no known form lie in the archive; with too many bytes of them there is none."""
    import onnx
    from onnx import helper, numpy_helper

    chance = np.random.default_rng(3)
    entry = tmp_path / "entry"
    entry.mkdir()
    known, other = chance.integers(0, 255, (64, 2048)).astype(np.uint8), chance.integers(0, 255, 4096).astype(np.uint8)
    inputs = [numpy_helper.from_array(known, "known"), numpy_helper.from_array(other, "other")]
    graph = helper.make_graph([], "g", [], [], inputs)
    onnx.save_model(
        helper.make_model(graph), entry / "g.onnx", save_as_external_data=True, location=DATA, size_threshold=0
    )
    binary = tmp_path / "b.bin"
    binary.write_bytes(bytes(640) + known.tobytes() + bytes(640))
    read = carry(entry, ["g"], binary)
    assert read is not None
    assert (read.bytes, read.of) == (known.nbytes, known.nbytes + other.nbytes)
    (tmp_path / "made").mkdir()
    assert unpack(binary, tmp_path / "made").wrong == ()
    assert (tmp_path / "made" / DATA).read_bytes() == (entry / DATA).read_bytes()
    binary.write_bytes(bytes(1000))
    read = carry(entry, ["g"], binary)  # nothing of it is in the binary, and it is little
    assert read is not None
    assert (read.bytes, read.of) == (0, known.nbytes + other.nbytes)
    (tmp_path / "again").mkdir()
    unpack(binary, tmp_path / "again")
    assert (tmp_path / "again" / DATA).read_bytes() == (entry / DATA).read_bytes()
    monkeypatch.setattr("edgec.targets.qnn.carried_graphs._SMALL", 100_000)
    assert carry(entry, ["g"], binary) is None
