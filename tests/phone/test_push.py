"""`edgec push` against a stand-in for adb that records its calls: what is copied, refused, and left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.phone.push import push_bundle

OF_GEN_3 = {
    "chat/snapdragon_8_gen_3/chat_ctx.bin", "chat/snapdragon_8_gen_3/chat_ctx.main.onnx",
    "chat/snapdragon_8_gen_3/genie_config.json", "device/run.sh", "device/files.sha256",
    "manifest.json", "manifest.sha256",
}  # fmt: skip


def test_the_phone_gets_what_its_chip_needs(phone, bundle, capsys):
    assert main(["push", str(bundle), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["serial"], said["soc"], said["device"]) == ("R5CT30", "SM8650-AC", "snapdragon_8_gen_3")
    assert said["folder"] == "/data/local/tmp/edgec/chat"
    assert [row["file"] for row in said["missing"]] == ["libQnnHtp.so", "libQnnHtpV75Stub.so", "libGenie.so"]
    assert phone.files() == OF_GEN_3
    for name in OF_GEN_3 - {"device/files.sha256"}:
        assert (phone.pushed / name).read_bytes() == (bundle / name).read_bytes()


def test_adb_is_asked_before_it_is_told(phone, bundle):
    push_bundle(bundle)
    calls = phone.calls
    assert calls[:3] == ["devices", "-s R5CT30 shell getprop ro.soc.model", "-s R5CT30 shell df -k /data"]
    assert calls[3].startswith("-s R5CT30 shell rm -rf /data/local/tmp/edgec/chat.partial && mkdir -p ")
    pushes = [call for call in calls if call.startswith("-s R5CT30 push ")]
    assert len(pushes) == len(OF_GEN_3)
    assert all("/data/local/tmp/edgec/chat.partial/" in call for call in pushes)
    assert "sha256sum -c" in calls[-2]
    assert calls[-1].endswith(
        "rm -rf /data/local/tmp/edgec/chat && mv /data/local/tmp/edgec/chat.partial /data/local/tmp/edgec/chat"
    )


def test_libraries_go_along(phone, bundle, library_folder):
    made = push_bundle(bundle, library_folder=library_folder)
    assert made.missing == []
    assert phone.files() - OF_GEN_3 == {"lib/libQnnHtp.so", "lib/libQnnHtpV75Stub.so"}
    assert phone.calls[-1].endswith("EDGEC_DEVICE=snapdragon_8_gen_3 sh /data/local/tmp/edgec/chat/device/run.sh check")


def test_one_of_several_phones(phone, bundle):
    phone.set("devices", "R5CT30\tdevice\nemulator-5554\tdevice\n")
    assert push_bundle(bundle, serial="emulator-5554").serial == "emulator-5554"


def test_a_folder_of_ones_own(phone, bundle):
    made = push_bundle(bundle, folder="/data/local/tmp/mine/a-b.c")
    assert (phone.root / made.folder.lstrip("/") / "manifest.json").is_file()


@pytest.mark.parametrize("folder", ["relative/x", "/data", "/data/../x", "/data/a b", "/data/$(reboot)", "/a;b"])
def test_a_folder_a_shell_could_misread_is_refused(phone, bundle, folder):
    with pytest.raises(EdgecError, match="no folder that can be filled"):
        push_bundle(bundle, folder=folder)


def refused(phone, bundle, golden_error, code: str, **options) -> None:
    """A push fails with `code` as its golden file says, and nothing was written to the phone."""
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle, **options)
    plain = [type(one)(one.code, _plain(one.message, bundle), help=one.help) for one in raised.value.diagnostics]
    golden_error(code, plain)
    assert not phone.pushed.exists()


def _plain(text: str, bundle: Path) -> str:
    return re.sub(r"/\S*?/(qairt)", r"\1", text.replace(str(bundle), "bundle"))


def test_no_adb(phone, bundle, golden_error, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    refused(phone, bundle, golden_error, "E0940")


@pytest.mark.parametrize(
    ("devices", "serial", "says"),
    [
        ("", None, "no phone is connected"),
        ("R5CT30\tunauthorized\n", None, "adb calls it `unauthorized`"),
        ("R5CT30\toffline\n", "R5CT30", "adb calls it `offline`"),
        ("R5CT30\tno permissions (user in plugdev group?); see [http://…]\n", None, "adb calls it `no permissions`"),
        ("R5CT30\tdevice\n", "R6", "no phone `R6` is connected"),
    ],
)
def test_no_phone_that_answers(phone, bundle, devices, serial, says):
    phone.set("devices", devices)
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle, serial=serial)
    assert raised.value.diagnostics[0].code == "E0941"
    assert says in raised.value.diagnostics[0].message
    assert raised.value.diagnostics[0].help


def test_no_phone(phone, bundle, golden_error):
    phone.set("devices", "")
    refused(phone, bundle, golden_error, "E0941")


def test_several_phones(phone, bundle, golden_error):
    phone.set("devices", "R5CT30\tdevice\nemulator-5554\tdevice\nold\toffline\n")
    refused(phone, bundle, golden_error, "E0942")


def test_a_phone_that_does_not_say_its_chip(phone, bundle, golden_error):
    phone.set("soc", "")
    refused(phone, bundle, golden_error, "E0943")
    assert push_bundle(bundle, device="sm8550").device == "snapdragon_8_gen_2"


@pytest.mark.parametrize("soc", ["SM8750", "Tensor G5", "SM8635"])
def test_a_phone_with_another_chip_is_refused_by_name(phone, bundle, soc):
    phone.set("soc", soc)
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle)
    (found,) = raised.value.diagnostics
    assert found.code == "E0924"
    assert f"not for `{soc}`" in found.message
    assert len(phone.calls) == 2  # nothing was copied


def test_a_chip_that_the_phone_contradicts(phone, bundle):
    with pytest.raises(EdgecError, match="the phone says it is a SM8650-AC"):
        push_bundle(bundle, device="sm8550")


def test_libraries_that_are_not_there(phone, bundle, golden_error, library_folder):
    (library_folder / "lib" / "aarch64-android" / "libQnnHtp.so").unlink()
    refused(phone, bundle, golden_error, "E0944", library_folder=library_folder)


def test_too_little_space(phone, bundle, golden_error):
    phone.set("free", "12000\n")
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle)
    (found,) = raised.value.diagnostics
    golden_error("E0945", [found])
    assert len(phone.calls) == 3


def test_a_cable_that_is_pulled_leaves_the_old_bundle(phone, bundle, golden_error):
    push_bundle(bundle)
    before = phone.files()
    phone.set("breaks", "chat_ctx.bin")
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle)
    golden_error("E0946", raised.value)
    assert raised.value.exit_code == 4
    assert phone.files() == before


def test_files_that_arrive_damaged_are_not_kept(phone, bundle):
    phone.set("spoils", "")
    with pytest.raises(EdgecError, match="what arrived on the phone is not what was sent"):
        push_bundle(bundle)
    assert list(phone.pushed.parent.iterdir()) == []


def test_a_damaged_bundle_is_not_pushed(phone, bundle):
    (bundle / "chat" / "snapdragon_8_gen_2" / "chat_ctx.bin").write_text("something else")
    with pytest.raises(EdgecError) as raised:
        push_bundle(bundle)
    assert raised.value.diagnostics[0].code in ("E0905", "E0908")
    assert not (phone.root / "calls").exists()
