"""`edgec run DIR --inputs FILE | --random`: an image or a sound for the input that looks like one, random arrays."""

from __future__ import annotations

import json
import sys
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.runtime.given_inputs import candidates
from PIL import Image

GRAPH = "g (float[1,3,8,16] image, float[1,t] sound, int64[2] i) => (float[1,3,8,16] y, float[1,t] z, int64[2] j)"
BODY = "{ y = Relu(image) z = Neg(sound) j = Neg(i) }"
IMAGE = {"name": "image", "dtype": "float32", "shape": [1, 3, 8, 16]}
LAST = {"name": "bytes", "dtype": "uint8", "shape": [1, None, None, 3]}
SOUND = {"name": "sound", "dtype": "float32", "shape": [1, "t"]}
TABLE = {"name": "i", "dtype": "int64", "shape": [2]}


def wav(path: Path, width: int = 2, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16000)
        half = {1: b"\xc0", 2: b"\x00\x40", 3: b"\x00\x00\x40", 4: b"\x00\x00\x00\x40"}[width]
        file.writeframes(half * channels * 20)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH} {BODY}'), folder / "m.onnx")
    (folder / "plan.edge").write_text('device host\nmodel m { source = onnx("m.onnx") }\ndeploy m on cpu as ort\n')
    assert main(["compile", str(folder / "plan.edge"), "-o", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["run", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_random_inputs_name_shapes_and_ranges(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, str(bundle), "--random")
    assert {name: facts["shape"] for name, facts in told["inputs"].items()} == {
        "image": [1, 3, 8, 16], "sound": [1, 4], "i": [2]
    }  # fmt: skip
    assert told["outputs"]["z"]["min"] == pytest.approx(-told["inputs"]["sound"]["max"])
    assert ran(capsys, str(bundle), "--random") == told
    assert ran(capsys, str(bundle), "--random", "--seed", "1")["inputs"]["image"] != told["inputs"]["image"]


def test_a_sound_and_random_arrays_for_the_rest(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ran(capsys, str(bundle), "--inputs", str(wav(tmp_path / "a.wav")), "--random")
    facts = told["inputs"]["sound"]
    assert (facts["shape"], facts["min"], facts["max"]) == ([1, 20], 0.5, 0.5)


@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_every_width_of_pcm_is_the_same_number(width: int, channels: int, tmp_path: Path) -> None:
    (arrays,) = candidates([SOUND, IMAGE], wav(tmp_path / "a.wav", width, channels), False)
    np.testing.assert_allclose(arrays["sound"], np.full((1, 20), 0.5), atol=1e-2 if width == 1 else 1e-6)


def test_a_fixed_length_cuts_and_pads(tmp_path: Path) -> None:
    for length in (8, 24):
        (arrays,) = candidates([{**SOUND, "shape": [1, 1, length]}], wav(tmp_path / "a.wav"), False)
        assert arrays["sound"].shape == (1, 1, length)
        assert np.count_nonzero(arrays["sound"]) == min(length, 20)


def picture(path: Path, size: tuple[int, int] = (4, 2), mode: str = "RGB", colour: Any = (255, 0, 51)) -> Path:
    Image.new(mode, size, colour).save(path)
    return path


@pytest.mark.parametrize(("ending", "off"), [("png", 0), ("bmp", 0), ("webp", 4), ("jpeg", 4)])
def test_an_image_is_resized_where_sides_are_fixed(ending: str, off: int, tmp_path: Path) -> None:
    file = picture(tmp_path / f"a.{ending}")
    (floats,) = candidates([IMAGE, TABLE], file, False)
    assert (floats["image"].shape, floats["image"].dtype) == ((1, 3, 8, 16), np.float32)
    np.testing.assert_allclose(floats["image"].mean(axis=(0, 2, 3)), [1, 0, 0.2], atol=(off + 0.1) / 255)
    (whole,) = candidates([LAST, TABLE], file, False)
    assert (whole["bytes"].shape, whole["bytes"].dtype) == ((1, 2, 4, 3), np.uint8)
    np.testing.assert_allclose(whole["bytes"].mean(axis=(0, 1, 2)), [255, 0, 51], atol=off)


def test_grey_of_16_bits_and_a_turned_photograph(tmp_path: Path) -> None:
    grey = {"name": "grey", "dtype": "float32", "shape": [1, 1, "h", "w"]}
    Image.fromarray(np.full((2, 4), 0x8000, np.uint16)).save(tmp_path / "grey.png")
    (arrays,) = candidates([grey], tmp_path / "grey.png", False)
    np.testing.assert_array_equal(arrays["grey"], np.full((1, 1, 2, 4), 128 / 255, np.float32))
    held = Image.new("L", (4, 2))
    exif = held.getexif()
    exif[0x0112] = 6  # on its side
    held.save(tmp_path / "side.jpeg", exif=exif)
    (arrays,) = candidates([grey], tmp_path / "side.jpeg", False)
    assert arrays["grey"].shape == (1, 1, 4, 2)


def bomb(path: Path, side: int) -> Path:
    """A PNG of few bytes whose header states that many pixels a side."""
    picture(path, (1, 1))
    held = bytearray(path.read_bytes())
    held[16:24] = side.to_bytes(4, "big") * 2
    held[29:33] = zlib.crc32(held[12:29]).to_bytes(4, "big")
    path.write_bytes(held)
    return path


@pytest.mark.parametrize("side", [8200, 12000, 60000])  # above ours, above where Pillow warns, above where it refuses
def test_a_picture_that_unpacks_to_too_much_is_not_unpacked(side: int, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="pixels") as raised:
        next(candidates([IMAGE], bomb(tmp_path / "a.png", side), False))
    assert raised.value.diagnostics[0].code == "E0922"


def test_broken_pictures_and_other_formats_are_no_stack_trace(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    picture(tmp_path / "a.gif", mode="P", colour=1).rename(tmp_path / "gif.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "gif.png", "text.png"):
        with pytest.raises(PlanError, match="no picture") as raised:
            next(candidates([IMAGE], tmp_path / name, False))
        assert raised.value.diagnostics[0].code == "E0922"


def test_a_picture_through_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, str(bundle), "--inputs", str(picture(tmp_path / "a.png")), "--random")
    assert told["inputs"]["image"] == {
        "dtype": "float32",
        "shape": [1, 3, 8, 16],
        "min": 0.0,
        "max": 1.0,
        "mean": pytest.approx(0.4),
    }


def test_without_pillow_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_error: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    Path("a.png").write_bytes(b"\x89PNG....")
    with pytest.raises(PlanError) as raised:
        next(candidates([IMAGE], Path("a.png"), False))
    golden_error("E0927", raised.value)


@pytest.mark.parametrize(
    ("specs", "says"),
    [([TABLE], "no input of the model looks like one"), ([SOUND, {**SOUND, "name": "b"}], "2 inputs of the model")],
)
def test_a_sound_for_no_input_or_for_several(specs: list[dict[str, Any]], says: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=says):
        next(candidates(specs, wav(tmp_path / "a.wav"), False))


def test_a_broken_sound_is_no_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\x04\x00\x00\x00WAVE")
    with pytest.raises(PlanError, match="no sound"):
        next(candidates([SOUND], tmp_path / "a.wav", False))


def test_a_sound_that_was_cut_is_no_shorter_sound(tmp_path: Path) -> None:
    whole = wav(tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-10])
    with pytest.raises(PlanError, match="it was cut: 30 of 40 bytes are there"):
        next(candidates([SOUND], tmp_path / "a.wav", False))


def test_the_rate_of_a_sound_is_told(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, str(bundle), "--inputs", str(wav(tmp_path / "a.wav", channels=2)), "--random")
    assert told["sound"] == {"rate": 16000, "channels": 2, "samples": 20}


def compiled(folder: Path, text: str, target: str = "ort") -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'), folder / "m.onnx")
    (folder / "p.edge").write_text(f'device host\nmodel m {{ source = onnx("m.onnx") }}\ndeploy m on cpu as {target}\n')
    assert main(["compile", str(folder / "p.edge"), "-o", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


def test_what_is_no_number_is_counted_and_the_rest_has_a_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = compiled(tmp_path, "(float[4] x) => (float[4] y) { y = Log (x) }")
    np.savez(tmp_path / "in.npz", x=np.array([-1, 0, 1, 1], np.float32))
    capsys.readouterr()
    assert main(["run", str(out), "--inputs", str(tmp_path / "in.npz")]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text  # which is no JSON
    assert "Infinity" not in text
    facts = json.loads(text)["outputs"]["y"]
    assert (facts["min"], facts["max"], facts["not_finite"]) == (0.0, 0.0, 2)


def test_an_index_that_is_out_of_range_is_no_broken_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = compiled(tmp_path, "(int64[N] i, float[5,3] t) => (float[N,3] y) { y = Gather (t, i) }")
    np.savez(tmp_path / "in.npz", i=np.array([9]), t=np.zeros((5, 3), np.float32))
    assert main(["run", str(out), "--inputs", str(tmp_path / "in.npz")]) == 4
    assert "an index out of range" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert "i: int64 N" in capsys.readouterr().out


def test_tensors_of_a_sequence_have_sizes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """(float[3,2] x) => (seq(float[]) s, float[3,2] y) {
        k = Constant <value_ints = [1, 2]> () s = SplitToSequence <axis = 0> (x, k) y = Relu (x) }"""
    out = compiled(tmp_path, text)
    told = ran(capsys, str(out), "--random", "--outputs", str(tmp_path / "o.npz"))
    assert [one["shape"] for one in told["outputs"]["s"]["sequence"]] == [[1, 2], [2, 2]]
    with np.load(tmp_path / "o.npz") as file:
        assert {name: file[name].shape for name in file} == {"s.0": (1, 2), "s.1": (2, 2), "y": (3, 2)}


def test_nothing_is_read_of_what_has_no_values_in_mnn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "(float[N,3] x) => (float[N,3] y, int64[N,3] z) { y = Erf (x) z = Cast <to = 7> (y) }"
    out = compiled(tmp_path, text, "mnn")
    np.savez(tmp_path / "in.npz", x=np.zeros((0, 3), np.float32))
    told = ran(capsys, str(out), "--inputs", str(tmp_path / "in.npz"))
    assert [one["shape"] for one in told["outputs"].values()] == [[0, 3], [0, 3]]
    assert [one["dtype"] for one in told["outputs"].values()] == ["float32", "int64"]


def test_a_sequence_as_input_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "(seq(float[]) s) => (float[a,b] y) { y = ConcatFromSequence <axis = 0> (s) }"
    assert main(["run", str(compiled(tmp_path, text)), "--random"]) == 1
    assert "input `s` of model `m` is a sequence of tensors" in capsys.readouterr().err
