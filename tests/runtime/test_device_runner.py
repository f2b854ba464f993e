"""`device/runner.cc`: the tokens of `edgec run` on ONNX Runtime, MNN and the NPU's emulator, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.runtime.generate import Runner
from edgec.compiler.runtime.sample import Sampling

from .conftest import EXAMPLES, PAIR, compile_text
from .cpp_runner import Program, build, compiler, onnxruntime_library, site_packages

PROMPTS = (
    "def read_config(path):\n",
    "import os\n\n\nclass Folder:\n    def __init__(self, path):\n        self.path = path\n\n" * 4,  # three buckets
)
NPU = """
plan npu
device [snapdragon_8_gen_2, snapdragon_8_gen_3]
model target { source = hf("models/pycode-qwen2") context = 64 }
pipeline npu {
  quantize (weights = int4, block = 32) except ["lm_head", "embed_tokens"]
  place    (device = cpu) on "embed_tokens"
  bucket   (tokens = [1, 8], context = [64])
}
deploy target on npu through npu as qnn { shard = 2 accept = W0601 reason = "for the emulator" }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    if compiler() is None:
        pytest.skip("there is no C++ compiler")
    site = site_packages()
    if not list(site.glob("_mnncengine.*.so")):
        pytest.skip("MNN's module is not laid out as its Linux wheels are")
    made = build(tmp_path_factory.mktemp("runner"), site)
    return Program((str(made),), onnxruntime_library(site))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target in ONNX Runtime with a cache of two values in a byte, the draft in MNN."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "models").symlink_to(EXAMPLES / "models")
    text = PAIR.replace("draft  on cpu as ort", "draft  on cpu as mnn { memory = normal }")
    text = text.replace("through p as ort", "through p as ort { kv = uint4 }")
    words = f'text = "{EXAMPLES}/text/calibration.txt" samples = 2 length = 32'
    return compile_text(folder, f"{text}calibration {{ {words} }}\n")


def ours(bundle: Path, prompt: str, tokens: int, least: int = 0, **words: Any) -> tuple[list[int], dict[str, Any]]:
    """The ids of the prompt, again and again until there are `least`, and what `edgec run` makes of them."""
    runner = Runner(bundle, **{key: words.pop(key) for key in ("model", "device") if key in words})
    runner.pace = words.pop("pace", None)
    ids = runner.tokenizer.encode(prompt)
    ids = (ids * -(-least // len(ids)))[:least] if least else ids
    made = runner.generate(ids, tokens, **words)
    runner.close()
    return ids, made


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("speculation", [True, False])
def test_tokens_and_rounds_are_those_of_run(program, pair, prompt, speculation):
    ids, made = ours(pair, prompt, 24, speculation=speculation)
    answer = program.answer(pair, ids, 24, *(() if speculation else ("--no-speculation",)))
    for key in ("tokens", "rounds", "drafted", "accepted", "stopped"):
        assert answer[key] == made[key], key


SAMPLED = [
    ({"temperature": 0.8}, 7, ("--temperature", "0.8", "--seed", "7")),
    (
        {"temperature": 1.5, "top_p": 0.7},
        2**40 + 5,
        ("--temperature", "1.5", "--top-p", "0.7", "--seed", str(2**40 + 5)),
    ),
    ({"temperature": 1.0, "top_k": 3}, 0, ("--temperature", "1", "--top-k", "3")),
]


@pytest.mark.parametrize(("sampling", "seed", "words"), SAMPLED)
@pytest.mark.parametrize("speculation", [True, False])
def test_sampled_tokens_are_those_of_run_with_the_same_seed(program, pair, sampling, seed, words, speculation):
    """The random generator is NumPy's: PCG64, seeded with the seed, and for a draft with the seed and the place."""
    ids, made = ours(pair, PROMPTS[0], 40, sampling=Sampling(**sampling), seed=seed, speculation=speculation)
    answer = program.answer(pair, ids, 40, *words, *(() if speculation else ("--no-speculation",)))
    for key in ("tokens", "rounds", "drafted", "accepted", "stopped"):
        assert answer[key] == made[key], key
    other = program.answer(
        pair, ids, 40, *words[:-2], "--seed", "12345", *(() if speculation else ("--no-speculation",))
    )
    assert other["tokens"] != made["tokens"]


def speculating(bundle: Path, copy: Path, **words: Any) -> Path:
    """The bundle, whose manifest speculates in another way."""
    shutil.copytree(bundle, copy)
    data = json.loads((copy / "manifest.json").read_text())
    data["speculation"] |= words
    raw = json.dumps(data).encode()
    (copy / "manifest.json").write_bytes(raw)
    (copy / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")
    return copy


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("tree", [{}, {"tree": 10}], ids=str)
def test_drafts_out_of_the_text_are_those_of_run(program, pair, tmp_path, temperature, tree):
    copy = speculating(pair, tmp_path / "pair", source="prompt", **tree)
    prompt = "total = total + value\ncount = count + 1\n" * 4
    ids, made = ours(copy, prompt, 60, sampling=Sampling(temperature), seed=3)
    assert made["looked_up"]
    answer = program.answer(copy, ids, 60, "--temperature", str(temperature), "--seed", "3")
    for key in ("tokens", "rounds", "drafted", "accepted", "stopped"):
        assert answer[key] == made[key], key


OVERLAP = {"outcomes": 64, "lanes": {"target": "npu", "draft": "cpu"}}
FORMS = [
    {"tree": 6},
    {"k": 5, "tree": 15},
    {"overlap": OVERLAP},
    {"tree": 10, "overlap": OVERLAP | {"outcomes": 4}},
    {"tree": 10, "overlap": OVERLAP, "source": "prompt"},
]


@pytest.mark.parametrize(
    ("words", "temperature", "prompt"),
    [
        *((words, 0.0, PROMPTS[0]) for words in FORMS),
        *((words, 0.8, PROMPTS[0]) for words in FORMS[::2]),
        (FORMS[3], 0.0, PROMPTS[1]),
    ],
    ids=str,
)
def test_trees_and_overlap_are_those_of_run(program, pair, tmp_path, words, temperature, prompt):
    """At a fixed pace, so that rounds do not hang on the clock; on the clock the tokens are the same."""
    copy = speculating(pair, tmp_path / "pair", **words)
    ids, made = ours(copy, prompt, 40, sampling=Sampling(temperature), seed=5, pace=6)
    asked = ("--temperature", str(temperature), "--seed", "5")
    answer = program.answer(copy, ids, 40, *asked, *(("--pace", "6") if "overlap" in words else ()))
    for key in ("tokens", "rounds", "drafted", "accepted", "stopped"):
        assert answer[key] == made[key], key
    if "overlap" in words:
        assert (answer["ready"], answer["waited"]) == (made["ready"], made["waited"])
        assert answer["ready"] > 0
        assert program.answer(copy, ids, 40, *asked)["tokens"] == made["tokens"]
        assert program.answer(copy, ids, 40, *asked, "--no-overlap")["ready"] == 0
    if temperature == 0:
        assert made["tokens"] == ours(copy, prompt, 40, speculation=False)[1]["tokens"]


def test_a_tree_ends_with_the_context(program, pair, tmp_path):
    copy = speculating(pair, tmp_path / "pair", tree=12, overlap=OVERLAP)
    ids, made = ours(copy, PROMPTS[1], 40, least=495, pace=4)
    answer = program.answer(copy, ids, 40, "--pace", "4")
    assert made["stopped"] == "context"
    for key in ("tokens", "rounds", "drafted", "accepted", "stopped"):
        assert answer[key] == made[key], key


def test_mnn_drafts_beside_the_target(program, mixed, tmp_path):
    copy = speculating(mixed, tmp_path / "mixed", tree=10, overlap=OVERLAP)
    ids, made = ours(copy, PROMPTS[0], 32, pace=8)
    answer = program.answer(copy, ids, 32, "--pace", "8")
    assert [answer[key] for key in ("tokens", "rounds", "accepted", "ready")] == [
        made[key] for key in ("tokens", "rounds", "accepted", "ready")
    ]
    assert program.answer(copy, ids, 32)["tokens"] == made["tokens"]


def test_a_target_in_mnn_takes_no_tree(program, mixed, tmp_path):
    copy = speculating(mixed, tmp_path / "mixed", target="draft", draft="target", tree=10)
    done = program.run(copy, "--ids", "1 2 3")
    assert (done.returncode, "`draft` takes no trees of drafts in its engine" in done.stderr) == (1, True)


def test_it_ends_with_the_context(program, pair):
    ids, made = ours(pair, PROMPTS[1], 40, least=500)
    assert made["stopped"] == "context"
    answer = program.answer(pair, ids, 40)
    assert (answer["tokens"], answer["stopped"]) == (made["tokens"], "context")


def test_mnn_drafts_and_answers(program, mixed):
    ids, made = ours(mixed, PROMPTS[0], 24)
    answer = program.answer(mixed, ids, 24)
    assert [answer[key] for key in ("tokens", "drafted", "accepted")] == [
        made[key] for key in ("tokens", "drafted", "accepted")
    ]
    assert made["accepted"] > 4
    _, alone = ours(mixed, PROMPTS[0], 12, model="draft")
    assert program.answer(mixed, ids, 12, "--model", "draft")["tokens"] == alone["tokens"]


@pytest.fixture(scope="module")
def npu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards for two chips; below `plain` and `twins` what runs here in the place of the binaries of 8 Gen 3."""
    pytest.importorskip("onnxruntime_qnn")
    from edgec.compiler.runtime.on_device import for_device
    from edgec.targets.qnn.htp.chip import Chip
    from edgec.targets.qnn.twins import target_graph, twin

    folder = tmp_path_factory.mktemp("npu")
    (folder / "models").symlink_to(EXAMPLES / "models")
    bundle = compile_text(folder, NPU)
    for part in for_device(load_manifest(bundle), "sm8650").parts.values():
        key, chip = part["details"].get("twins"), part["details"].get("chip")
        for graph in part["graphs"].values() if key else ():
            name = graph["details"]["target_graph"]
            held = {"plain": target_graph(key, name), "twins": twin(key, name, Chip(**chip))}
            for kind, path in held.items():
                (folder / kind / key).mkdir(parents=True, exist_ok=True)
                for file in path.parent.iterdir():
                    if not (link := folder / kind / key / file.name).exists():
                        link.symlink_to(file)
    return bundle


def test_the_npus_part_in_onnx_runtime_and_on_the_emulator(program, npu):
    import onnxruntime_qnn as qnn

    ids, made = ours(npu, PROMPTS[0], 4, device="sm8650")
    folder = npu.parent
    answer = program.answer(npu, ids, 4, "--device", "sm8650", "--cpu-graphs", str(folder / "plain"))
    assert (answer["tokens"], answer["device"]) == (made["tokens"], "snapdragon_8_gen_3")
    engines = ("--qnn-provider", qnn.get_library_path(), "--qnn-backend", qnn.get_qnn_htp_path())
    words = ("--device", "SM8650-AC", "--npu-graphs", str(folder / "twins"), *engines)
    assert program.answer(npu, ids, 4, *words)["tokens"] == made["tokens"]


def test_the_bundle_carries_it_and_a_push_leaves_it(npu):
    from edgec.compiler.phone.device_files import device_files

    data = load_manifest(npu).data
    assert {"device/runner.cc", "device/android/app/build.gradle.kts"} <= data["files"].keys()
    pushed = device_files(data, "snapdragon_8_gen_3")
    assert "device/run.sh" in pushed
    assert not [name for name in pushed if name.startswith(("device/runner", "device/android"))]


@pytest.mark.parametrize(
    ("words", "ids", "code", "says"),
    [
        (("--device", "sm8750"), "1", 1, "snapdragon_8_gen_2 (SM8550) and snapdragon_8_gen_3 (SM8650), not for sm8750"),
        (("--device", "SM86500"), "1", 1, "not for SM86500"),
        ((), "1", 1, "this machine does not say its chip: give `--device`"),
        (("--device", "sm8550"), "one", 1, "the prompt is no list of token ids: `one`"),
        (("--device", "sm8550"), "", 1, "the prompt is empty"),
        (("--device", "sm8550"), "[1, 2048]", 1, "token id 2048 is outside the vocabulary of 2048"),
        (("--device", "sm8550"), "1 " * 80, 1, "the prompt has 80 tokens, the context of the model 64"),
        (("--device", "sm8550", "--model", "x"), "1", 1, "the bundle has no model `x`, it has `target`"),
        (("--fly",), "1", 2, "`--fly` is not understood"),
        (("--tokens", "many"), "1", 2, "`--tokens` is no number of at most 16777216"),
        (("--seed", "-1"), "1", 2, "`--seed` is no number of at most"),
        (("--temperature", "nan"), "1", 2, "`--temperature` is no number"),
        (("--temperature", "-1"), "1", 2, "`--temperature` is below 0"),
        (("--top-p", "0"), "1", 2, "`--top-p` is not above 0 and at most 1"),
        (("--top-k", "x"), "1", 2, "`--top-k` is no number of at most"),
    ],
)  # fmt: skip
def test_what_it_refuses(program, npu, words, ids, code, says):
    done = program.run(npu, *words, "--cpu-graphs", str(npu.parent / "plain"), ids=ids)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda root: (root / "target" / "ort.data").write_bytes(b"short"), "`target/ort.data` has another size"),
        (lambda root: (root / "manifest.json").write_text('{"format": '), "manifest.json is not JSON: it ends early"),
        (lambda root: (root / "manifest.json").write_text('{"format": "x", "version": 1}'), "no bundle of version 1"),
        (lambda root: packed(root), "lies packed in the bundle"),
    ],
)  # fmt: skip
def test_a_damaged_bundle(program, pair, tmp_path, damage, says):
    other = Path(shutil.copytree(pair, tmp_path / "other"))
    damage(other)
    done = program.run(other, ids="1 2 3")
    assert done.returncode in (1, 3)
    assert says in done.stderr


def packed(root: Path) -> None:
    data = json.loads((root / "manifest.json").read_text())
    data["packed"] = {"version": 1, "reader": "device/unpack.c", "files": {"target/ort.data": {"file": "x"}}}
    (root / "manifest.json").write_text(json.dumps(data))


def test_nothing_but_tokens_on_standard_output(program, mixed):
    done = program.run(mixed, "--tokens", "3", "--ids", "1,2,3")
    assert len(done.stdout.split()) == 3
    assert done.stdout.split() == [str(int(word)) for word in done.stdout.split()]


ARM = "aarch64-linux-gnu-"
WHEELS = ("onnxruntime", "MNN")
CPU = """processor : {number}
Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer : 0x41
CPU architecture : 8
CPU variant : 0x3
CPU part : 0xd0b
CPU revision : 0

"""


@pytest.fixture
def emulator() -> str:
    if compiler(ARM) is None or shutil.which("qemu-aarch64") is None:
        pytest.skip(f"there is no {ARM}g++ or no qemu-aarch64")
    return "qemu-aarch64"


def test_it_is_built_for_aarch64_and_refuses_there(emulator, npu, tmp_path):
    made = build(tmp_path, site_packages(), ARM, mnn=False, optimise="-O0")
    line = [emulator, "-L", "/usr/aarch64-linux-gnu", str(made), str(npu), "--device", "sm8750", "--ids", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, "not for sm8750" in done.stderr) == (1, True)


@pytest.mark.nightly
@pytest.mark.skipif(not os.environ.get("EDGEC_NIGHTLY"), reason="nightly: wheels for aarch64 are fetched, two minutes")
def test_the_engines_wheels_for_aarch64_give_the_same_tokens(emulator, mixed, tmp_path):
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    words = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "-d", str(tmp_path / "wheels")]
    words += [word for tag in ("_2_28", "_2_27", "2014") for word in ("--platform", f"manylinux{tag}_aarch64")]
    pip = [sys.executable, "-m", "pip", "download", "-q", *words, *wanted]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip("the wheels for aarch64 cannot be had")
    site = tmp_path / "site"
    for wheel in (tmp_path / "wheels").iterdir():
        shutil.unpack_archive(wheel, site, "zip")
    root = tmp_path / "root"  # onnxruntime's library dies at once where /proc shows no processor of its kind
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text("".join(CPU.format(number=number) for number in range(os.cpu_count() or 1)))
    (root / "lib").symlink_to("/usr/aarch64-linux-gnu/lib")
    made = build(tmp_path, site, ARM)
    program = Program((emulator, "-L", str(root), str(made)), onnxruntime_library(site))
    ids, here = ours(mixed, PROMPTS[0], 24)
    answer = program.answer(mixed, ids, 24)
    assert [answer[key] for key in ("tokens", "rounds", "accepted")] == [
        here[key] for key in ("tokens", "rounds", "accepted")
    ]
