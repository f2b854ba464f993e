"""Sources in a bundle of a phone: the reference runner, and an Android project around it.

    device/runner.cc        one file of C++17; its first lines say how it is built
    device/android/         Gradle, JNI and a screen; versions of libraries are those that made the bundle

They stay on the PC: `edgec push` takes what is built of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.full_disk import writes

RUNNER_SOURCE, ANDROID, PROGRAM = "device/runner.cc", "device/android/", "edgec-runner"
SOURCES = Path(__file__).with_name("device")
_MAVEN_ORT = "com.microsoft.onnxruntime:onnxruntime-android"
_MAVEN_PROVIDER = "com.qualcomm.qti:onnxruntime-android-qnn"
_MAVEN_QNN = "com.qualcomm.qti:qnn-runtime"


def has_runner(data: Mapping[str, Any]) -> bool:
    """Whether a bundle of the manifest `data` is for a phone and holds a language model."""
    on_phone = any(device["name"] != "host" for device in data["devices"])
    return on_phone and any(model["kind"] == "decoder" for model in data["models"].values())


def write_device_sources(directory: Path, data: Mapping[str, Any]) -> bool:
    """Write them into a bundle that is being made; False for one that has no use for them."""
    if not has_runner(data):
        return False
    texts = android_texts(data)
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        text = source.read_text(encoding="utf-8")
        for word, value in texts.items():
            text = text.replace(f"@{word}@", value)
        target = directory / "device" / source.relative_to(SOURCES)
        target.parent.mkdir(parents=True, exist_ok=True)
        with writes(target):
            target.write_text(text, encoding="utf-8")
    return True


def android_texts(data: Mapping[str, Any]) -> dict[str, str]:
    """What stands for the words between `@` in the project's files."""
    artifacts = dict.fromkeys(found for row in data["libraries"] if (found := _artifact(row, data["tools"])))
    rows = {row["file"]: f"- `{row['file']}`: {row.get('from', row['engine'])}" for row in data["libraries"]}
    return {
        "dependencies": "\n".join(f'    implementation("{one}")' for one in artifacts),
        "libraries": "\n".join(rows.values()),
        "mnn": data["tools"].get("MNN", "the version of the bundle"),
    }


def _artifact(row: Mapping[str, str], tools: Mapping[str, str]) -> str | None:
    """The Maven artifact that holds a library; None for those that there is none of (MNN's, the phone's own)."""
    if row["file"] == "libonnxruntime.so":
        return f"{_MAVEN_ORT}:{tools['onnxruntime']}"
    if row["file"] == "libonnxruntime_providers_qnn.so":
        return f"{_MAVEN_PROVIDER}:{tools['onnxruntime-qnn']}"
    if row["engine"] == "qnn" and row["file"].startswith("libQnn"):
        return f"{_MAVEN_QNN}:{row['version']}"
    return None


def runner_rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """The program in the manifest's `libraries`; none for a bundle that has no use for it."""
    if not has_runner(data):
        return []
    why = "runs the bundle's language models without Python; `sh device/run.sh runner` starts it"
    made = f"`{RUNNER_SOURCE}` of the bundle, with the NDK"
    return [{"file": PROGRAM, "engine": "edgec", "why": why, "from": made, "optional": "true"}]
