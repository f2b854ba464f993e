"""The Android project that a bundle carries: one piece with the runner, and versions of its libraries pinned."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from edgec.compiler.phone.device_sources import SOURCES, runner_rows, write_device_sources

DATA = {
    "devices": [{"name": "snapdragon_8_gen_3"}],
    "models": {"chat": {"kind": "decoder"}},
    "tools": {"onnxruntime": "1.31.1", "onnxruntime-qnn": "2.7.0", "MNN": "3.6.1"},
    "libraries": [
        {"file": "libQnnHtp.so", "engine": "qnn", "why": "", "version": "2.51.0"},
        {"file": "libQnnSystem.so", "engine": "qnn", "why": "", "version": "2.51.0"},
        {"file": "libonnxruntime.so", "engine": "ort", "why": ""},
        {"file": "libonnxruntime_providers_qnn.so", "engine": "ort", "why": ""},
        {"file": "libMNN.so", "engine": "mnn", "why": "", "from": "MNN's source"},
    ],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert write_device_sources(tmp_path, DATA)
    return tmp_path / "device" / "android"


def test_versions_are_those_of_the_bundle(project):
    gradle = (project / "app" / "build.gradle.kts").read_text()
    assert re.findall(r'implementation\("(.+)"\)', gradle) == [
        "com.qualcomm.qti:qnn-runtime:2.51.0",
        "com.microsoft.onnxruntime:onnxruntime-android:1.31.1",
        "com.qualcomm.qti:onnxruntime-android-qnn:2.7.0",
    ]
    assert "MNN's source at 3.6.1" in (project / "app" / "src" / "main" / "cpp" / "CMakeLists.txt").read_text()
    for path in project.rglob("*"):
        assert not path.is_file() or not re.search(r"@[a-z]+@", path.read_text()), path


def test_java_and_c_call_one_function(project):
    main = project / "app" / "src" / "main"
    java = (main / "java" / "org" / "edgec" / "runner" / "Runner.java").read_text()
    jni = (main / "cpp" / "edgec_jni.cc").read_text()
    package, name = re.search(r"package (\S+);", java), re.search(r"static native String (\w+)\(([^)]*)\)", java)
    assert package is not None
    assert name is not None
    assert f"Java_{package[1].replace('.', '_')}_Runner_{name[1]}(" in jni
    declared = jni[jni.index("Java_") :].split(")")[0]
    assert declared.count("jstring") == name[2].count("String")
    assert (main / "cpp" / re.search(r'#include "(.+)"', jni)[1]).resolve() == project.parent / "runner.cc"
    library = re.search(r'loadLibrary\("(\w+)"\)', java)
    assert library is not None
    assert f"add_library({library[1]} SHARED edgec_jni.cc)" in (main / "cpp" / "CMakeLists.txt").read_text()


def test_the_manifest_names_the_activity_and_the_phones_library(project):
    main = project / "app" / "src" / "main"
    tree = ET.parse(main / "AndroidManifest.xml")
    key = "{http://schemas.android.com/apk/res/android}name"
    assert [one.get(key) for one in tree.iter("uses-native-library")] == ["libcdsprpc.so"]
    (activity,) = tree.iter("activity")
    assert (main / "java" / "org" / "edgec" / "runner" / f"{activity.get(key)[1:]}.java").is_file()


@pytest.mark.parametrize(
    "change", [{"devices": [{"name": "host"}]}, {"models": {"net": {"kind": "graph"}}}], ids=["host", "graph"]
)
def test_a_bundle_that_has_no_use_for_it(tmp_path, change):
    assert not write_device_sources(tmp_path, {**DATA, **change})
    assert list(tmp_path.iterdir()) == []
    assert runner_rows({**DATA, **change}) == []


def test_the_runner_is_copied_as_it_is(project):
    assert (project.parent / "runner.cc").read_bytes() == (SOURCES / "runner.cc").read_bytes()
