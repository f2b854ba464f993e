"""`device/run.sh` of a bundle: checks the phone, sets the environment, starts an engine.

    sh device/run.sh check | list | exec COMMAND… | runner WORD… | genie MODEL PROMPT | mnn MODEL PROMPT

Plain POSIX sh, as Android's mksh and toybox have it. It refuses chips that the bundle was
not built for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.full_disk import writes
from .device_files import RUN_SCRIPT, device_files, is_needed, libraries
from .device_sources import PROGRAM, has_runner

_HEAD = """#!/bin/sh
# {name}: on a phone, from the folder that `edgec push` filled:
#   sh device/run.sh check                    the chip, the files, the libraries
#   sh device/run.sh exec COMMAND…            a program with the libraries' environment
{uses}# Built for {devices}.
here=$(cd "$(dirname "$0")/.." && pwd) || exit 4
cd "$here" || exit 4

die() {{ echo "run.sh: $1" >&2; exit "$2"; }}

soc=$(getprop ro.soc.model 2>/dev/null)
case "$(echo "${{EDGEC_DEVICE:-$soc}}" | tr '[:upper:]' '[:lower:]')" in
{cases}
'') die "the phone does not say its chip (ro.soc.model); set EDGEC_DEVICE to {names}" 1 ;;
*) die "this bundle was built for {devices}, not for ${{EDGEC_DEVICE:-$soc}}" 1 ;;
esac

export LD_LIBRARY_PATH="$here/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export ADSP_LIBRARY_PATH="$here/lib;/vendor/dsp/cdsp;/vendor/lib/rfsa/adsp;/system/lib/rfsa/adsp;/dsp"

check() {{
  missing=
  for file in $files; do [ -f "$file" ] || missing="$missing $file"; done
  [ -z "$missing" ] || die "files are missing, push the bundle again:$missing" 3
  for file in $libraries; do [ -f "lib/$file" ] || missing="$missing $file"; done
  [ -z "$missing" ] || die "libraries are missing in $here/lib (docs/phone.md says where they come from):$missing" 3
}}

case "${{1:-check}}" in
check) check; echo "ok: $device ($soc)" ;;
list) for file in $files; do echo "$file"; done ;;
exec) shift; [ $# -gt 0 ] || die "exec needs a command" 2; check; exec "$@" ;;
{commands}*) die "unknown word $1: check, list, exec{words}" 2 ;;
esac
"""
_RUNNER = """runner)
  shift
  [ -f lib/{program} ] || die "lib/{program} is not there: build device/runner.cc and push it with --libraries" 3
  check; chmod +x lib/{program} 2>/dev/null
  exec lib/{program} "$here" --device "$device" "$@" ;;
"""
_GENIE = """genie)
  case "$2" in
{models}
  *) die "genie runs {listed}, not '$2'" 2 ;;
  esac
  [ -n "$3" ] || die "genie needs a prompt" 2
  check; cd "$folder" && exec genie-t2t-run -c genie_config.json -p "$3" ;;
"""
_MNN = """mnn)
  case "$2" in
{models}
  *) die "mnn runs {listed}, not '$2'" 2 ;;
  esac
  [ -n "$3" ] || die "mnn needs a file of prompts" 2
  check; exec llm_demo "$config" "$3" ;;
"""


def write_run_script(directory: Path, data: Mapping[str, Any]) -> bool:
    """Write the script into a bundle that is being made; False for a bundle of no phone.

    `data`: the manifest, of which `files` may be missing: they are those in the folder.
    """
    if all(device["name"] == "host" for device in data["devices"]):
        return False
    path = directory / RUN_SCRIPT
    path.parent.mkdir(exist_ok=True)
    names = [file.relative_to(directory).as_posix() for file in sorted(directory.rglob("*")) if file.is_file()]
    packed = data.get("packed") or {"files": {}}
    stored = {entry["file"]: restored for restored, entry in packed["files"].items()}  # a push restores them
    whole = {**data, "files": dict.fromkeys([*(stored.get(name, name) for name in names), RUN_SCRIPT])}
    with writes(path):
        path.write_text(run_script(whole), encoding="utf-8")
    return True


def run_script(data: Mapping[str, Any]) -> str:
    """The text for the bundle with the manifest `data`."""
    devices = data["devices"]
    genie, mnn = _genie_folders(data), _mnn_configs(data)
    commands, words, uses = "", "", ""
    if has_runner(data):
        commands += _RUNNER.format(program=PROGRAM)
        words += ", runner"
        uses += '#   sh device/run.sh runner --ids "1 2 3"     the reference runner, token ids in and out\n'
    if genie:
        commands += _GENIE.format(models=_chosen("folder", genie), listed=" or ".join(sorted(genie)))
        words += ", genie"
        uses += "#   sh device/run.sh genie MODEL PROMPT      Genie (genie-t2t-run on PATH) with the model's binaries\n"
    if mnn:
        commands += _MNN.format(models=_chosen("config", mnn), listed=" or ".join(sorted(mnn)))
        words += ", mnn"
        uses += "#   sh device/run.sh mnn MODEL FILE          MNN (llm_demo on PATH) with a file of prompts\n"
    return _HEAD.format(
        name=_quiet(data["plan"]["name"]),
        uses=uses,
        devices=" and ".join(f"{one['name']}{_part_number(one)}" for one in devices),
        names=" or ".join(one["name"] for one in devices),
        cases="\n".join(_case(data, one) for one in devices),
        commands=commands,
        words=words,
    )


def _quiet(text: str) -> str:
    """A name without what a shell or a comment's end could make of it."""
    return "".join(c if c.isalnum() or c in " _-." else "_" for c in text)


def _part_number(device: Mapping[str, Any]) -> str:
    return f" ({device['sm']})" if device.get("sm") else ""


def _case(data: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """What is set on one chip: `SM8650`, `SM8650P` and `SM8650-AC` are the same one."""
    patterns = [device["name"]]
    if device.get("sm"):
        sm = device["sm"].lower()
        patterns += [sm, f"{sm}[a-z]", f"{sm}[a-z][a-z]", f"{sm}-[a-z][a-z]"]
    files = " ".join(_word(name) for name in device_files(data, device["name"]))
    needed = " ".join(_word(row["file"]) for row in libraries(data, device["name"]) if is_needed(row))
    return (
        f"{'|'.join(patterns)})\n  device={device['name']}\n  files={_quoted(files)}\n  libraries={_quoted(needed)} ;;"
    )


def _word(name: str) -> str:
    return name.replace(" ", "?")  # lists are split at spaces: a pattern finds the file all the same


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _chosen(variable: str, found: Mapping[str, Mapping[str, str]]) -> str:
    rows = []
    for model, of_device in sorted(found.items()):
        inner = " ".join(f"{device}) {variable}={_quoted(value)} ;;" for device, value in of_device.items())
        rows.append(f'  {model}) case "$device" in {inner} esac ;;')
    return "\n".join(rows)


def _genie_folders(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Model -> device -> the folder of its `genie_config.json`."""
    found: dict[str, dict[str, str]] = {}
    for part in data["parts"].values():
        for device in data["devices"]:
            file = part.get("chips", {}).get(device["name"], part)["file"]
            folder = file.rpartition("/")[0]
            if f"{folder}/genie_config.json" in data["files"]:
                found.setdefault(part["model"], {})[device["name"]] = folder
    return found


def _mnn_configs(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Model -> device -> the config of a model that MNN's LLM engine runs whole."""
    names = [str(device["name"]) for device in data["devices"]]
    found: dict[str, dict[str, str]] = {}
    for part in data["parts"].values():
        if data["models"][part["model"]]["engine"] == "mnn-llm":
            found[part["model"]] = dict.fromkeys(names, str(part["file"]))
    return found
