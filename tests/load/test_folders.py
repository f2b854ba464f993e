"""What a model's folder can hold beside a model: adapters, wrapped names, settings left out, damage of every kind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.driver import check_plan
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.tokenizer.text_config import read_sampling
from edgec.compiler.sources.tokenizer.tokenizer_file import open_tokenizer

from .mutate_folder import campaign

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "m"))


OPTIONAL = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def change(path: Path, **values) -> None:
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**held, **values}), encoding="utf-8")


def refusal(folder: Path):
    with pytest.raises(EdgecError) as raised:
        HfSource().outline(folder)
    return raised.value.diagnostics[0]


def rename(folder: Path, new) -> None:
    """Give every stored tensor the name `new(name)`."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    held = json.loads(raw[8 : 8 + length]).items()
    header = {name if name == "__metadata__" else new(name): entry for name, entry in held}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_damage_of_every_kind_is_an_error_with_a_code():
    """A sample of what `mutate_folder.py` runs all of."""
    cases, wrong = campaign(MODEL, most=250)
    assert wrong == []
    assert cases == 250


def test_the_campaign_sees_an_exception(monkeypatch):
    def broken(_folder):
        raise ZeroDivisionError

    monkeypatch.setattr("tests.load.mutate_folder.read_sampling", broken, raising=False)
    monkeypatch.setattr("edgec.compiler.sources.hf.folder.read_sampling", broken)
    assert campaign(MODEL, most=40)[1] != []


def test_an_adapter_beside_its_model(folder, golden_error, tmp_path):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(EdgecError) as raised:
        HfSource().outline(folder)
    golden_error("E0339", raised.value, hide={str(tmp_path): "TMP"})
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    assert "of `org/base` and no model" in refusal(folder).message


def test_a_cache_of_the_hub(tmp_path):
    (tmp_path / "models--org--m" / "snapshots" / "abc").mkdir(parents=True)
    assert "models--org--m/snapshots/abc" in (refusal(tmp_path / "models--org--m").help or "")


@pytest.mark.parametrize(
    ("prefix", "said"), [("_orig_mod.", "torch.compile"), ("base_model.model.", "merge_and_unload")]
)
def test_wrapped_names_are_shown(folder, prefix, said):
    rename(folder, lambda name: f"{prefix}{name}")
    found = refusal(folder)
    assert found.code == "E0343"
    assert said in (found.help or "")


def test_one_tensor_under_two_names(folder):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    name = next(name for name in header if name.startswith("model.layers.0.input"))
    begin, stop = header[name]["data_offsets"]
    header[name.removeprefix("model.")] = {**header[name], "data_offsets": [end, end + stop - begin]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :] + bytes(stop - begin))
    assert "which are one tensor" in refusal(folder).message


def test_shards_without_their_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert "no `model.safetensors.index.json`" in refusal(folder).message


def test_attention_in_both_directions(folder):
    change(folder / "config.json", is_causal=False)
    assert refusal(folder).code == "E0333"


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": None, "top_p": None}, {}),
        ({"top_p": 0}, {"top_k": 1}),
        ({"temperature": 0.7, "do_sample": True, "top_p": 0.9}, {"temperature": 0.7, "do_sample": True, "top_p": 0.9}),
    ],
)
def test_sampling_as_it_is_written_in_the_wild(folder, written, values):
    (folder / "generation_config.json").write_text(json.dumps(written))
    assert dict(read_sampling(folder).values) == values


@pytest.mark.parametrize("written", [{"top_p": 2}, {"temperature": -1}, {"top_k": 1.5}, {"do_sample": "yes"}])
def test_sampling_that_means_nothing(folder, written):
    change(folder / "generation_config.json", **written)
    found = refusal(folder)
    assert found.code == "E0336"
    assert f"`{next(iter(written))}`" in found.message


def plan_of(folder: Path, target: str = "ort") -> Path:
    plan = folder.parent / "p.edge"
    plan.write_text(f'plan p\ndevice host\nmodel m {{ source = hf("m") context = 64 }}\ndeploy m on cpu as {target}\n')
    return plan


def checked(folder: Path, target: str = "ort"):
    return check_plan(plan_of(folder, target))[1]


def test_what_is_left_out_is_said(folder, golden_error, tmp_path):
    change(folder / "generation_config.json", repetition_penalty=1.3, min_p=0.0)
    change(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    found = checked(folder)
    assert [one.code for one in found] == ["W0330", "W0330"]
    golden_error("W0330", found, hide={str(tmp_path): "TMP"})


def test_a_template_that_fails_is_told_before_the_compile(folder, golden_error, tmp_path):
    change(folder / "tokenizer_config.json", chat_template="{{ nobody.knows.this }}")
    found = checked(folder)
    golden_error("W0331", found, hide={str(tmp_path): "TMP"})


def test_no_tokenizer_is_told(folder, golden_error, tmp_path):
    (folder / "tokenizer.json").unlink()
    golden_error("W0332", checked(folder), hide={str(tmp_path): "TMP"})
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (one,) = checked(folder)
    assert one.code == "E0309"
    assert "git lfs pull" in (one.help or "")


@pytest.mark.slow
def test_older_tokenizer_files_are_converted(folder):
    """vocab.json and merges.txt, by transformers: ids as its own."""
    from transformers import AutoTokenizer

    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(table["model"]["vocab"]), encoding="utf-8")
    merges = [one if isinstance(one, str) else " ".join(one) for one in table["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    made = HfSource().tokenizer_folder(folder)
    assert made != folder
    theirs, text = AutoTokenizer.from_pretrained(folder), "def mean(values):\n    return 12345 / len(values)  # naïve"
    assert open_tokenizer(made / "tokenizer.json").encode(text).ids == theirs(text)["input_ids"]
    assert checked(folder) == []


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                                  "special_tokens_map.json", "chat_template.jinja", "model.safetensors"])  # fmt: skip
@pytest.mark.parametrize("odd", ["pipe", "device", "folder"])
def test_what_is_no_file_in_a_folder_is_refused_and_not_waited_for(tmp_path, name, odd):
    folder = Path(shutil.copytree(MODEL, tmp_path / "m"))
    (folder / name).unlink(missing_ok=True)
    if odd == "pipe":
        os.mkfifo(folder / name)
    elif odd == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    plan = f'plan p\ndevice host\nmodel m {{ source = hf("{folder}") context = 64 }}\ndeploy m on cpu as mnn\n'
    signal.alarm(20)  # what waits at a pipe is ended
    try:
        _, found, _ = check_plan(tmp_path / "plan.edge", text=plan)
    finally:
        signal.alarm(0)
    errors = [one for one in found if one.severity == "error"]
    assert {one.code for one in errors} <= {"E0309", "E0330", "E0340", "E0705"}
    assert errors or name in OPTIONAL
    assert all(name in one.message for one in errors)
