"""`edgec passes`, `edgec devices`, `edgec explain`: tables of what is installed and known."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from dataclasses import asdict
from typing import Any

from ..diagnostics.diagnostic import fail
from ..diagnostics.explain import codes, explanation
from ..diagnostics.nearest import nearest_help
from ..diagnostics.plugin_pages import page_files
from ..plan.devices import Device, devices, resolve_device
from ..plan.parameters import Parameter, parameters
from ..registry import broken_plugins, passes
from .streams import print_json
from .terminal import show


def run_passes(arguments: argparse.Namespace) -> int:
    """List the installed passes, or the parameters of one."""
    installed = passes()
    if arguments.name and arguments.name not in installed:
        _unknown("E0102", "pass", arguments.name, installed)
    chosen = [arguments.name] if arguments.name else sorted(installed)
    described = [_pass_facts(name, installed[name]) for name in chosen]
    if arguments.json:
        print_json(described)
    elif arguments.name:
        _print_pass(installed[arguments.name], described[0])
    else:
        width = max(len(row["name"]) for row in described)
        for row in described:
            print(f"{row['name']:<{width}}  {row['help'].splitlines()[0]}")
    show(broken_plugins())
    return 0


def _pass_facts(name: str, cls: type) -> dict[str, Any]:
    leaves = cls.leaves
    return {
        "name": name,
        "help": inspect.getdoc(cls) or "",
        "takes": [level.label for level in cls.takes],
        "leaves": leaves.label if leaves is not None else None,
        "selects": cls.selects,
        "parameters": [_parameter_facts(p) for p in parameters(cls)],
    }


def _parameter_facts(parameter: Parameter) -> dict[str, Any]:
    default = parameter.default
    shown = default if isinstance(default, (int, float)) else parameter.written(default)
    return {
        "name": parameter.name,
        "takes": parameter.describe(),
        "default": None if parameter.required else shown,
        "required": parameter.required,
        "help": parameter.doc,
    }


def _print_pass(cls: type, facts: dict[str, Any]) -> None:
    selects = "  on …  except …" if facts["selects"] else ""
    leaves = f", leaves it {facts['leaves']}" if facts["leaves"] else ""
    print(f"{facts['name']} (key = value, …){selects}\n")
    print(f"{facts['help']}\n\ntakes a module at level {' or '.join(facts['takes'])}{leaves}")
    for parameter in parameters(cls):
        default = "required" if parameter.required else f"default {parameter.written(parameter.default)}"
        print(f"\n  {parameter.name} = {parameter.describe()}   ({default})")
        print(textwrap.fill(parameter.doc, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))


def run_devices(arguments: argparse.Namespace) -> int:
    """List the known devices, or the figures of one with their sources."""
    known = devices()
    named = resolve_device(arguments.name) if arguments.name else None
    if arguments.name and named is None:
        _unknown("E0103", "device", arguments.name, known)
    if arguments.json:
        chosen = list(known.values()) if named is None else [named]
        print_json([asdict(device) for device in chosen])
    elif named is not None:
        _print_device(named)
    else:
        width = max(map(len, known))
        print(f"{'name':<{width}}  {'chip':<24}  {'model':<7} {'SoC':>4}  {'HTP':<4} {'VTCM':>5}  {'memory':>9}")
        for device in known.values():
            vtcm = f"{device.vtcm_mb} MB" if device.vtcm_mb else "-"
            bandwidth = f"{device.bandwidth_gbs:g} GB/s" if device.bandwidth_gbs else "-"
            chip = f"{device.marketing:<24}  {device.sm or '-':<7} {device.soc or '-':>4}  {device.arch or '-':<4}"
            print(f"{device.name:<{width}}  {chip} {vtcm:>5}  {bandwidth:>9}")
    return 0


def _print_device(device: Device) -> None:
    print(f"{device.name}: {device.marketing}" + (f" ({device.sm})" if device.sm else ""))
    facts = asdict(device)
    for key in ("soc", "arch", "vtcm_mb", "bandwidth_gbs", "npu_int8_tops", "max_ram_gb"):
        if facts[key]:
            print(f"  {key:<14} {facts[key]}")
    for group in device.cores:
        print(f"  {'cores':<14} {group.count} x {group.name} at {group.ghz} GHz")
    for key, source in device.sources.items():
        print(f"  source of {key}: {source}")


def run_explain(arguments: argparse.Namespace) -> int:
    """Print what a code means, or all codes with their titles."""
    others = page_files()
    known = codes(others)
    if arguments.code is None:
        for code, row in known.items():
            print(f"{code}  {row['title']}")
        return 0
    code = arguments.code.upper()
    if code not in known:
        written = re.fullmatch("[EW][0-9]{4}", code)  # a number that is none is no mistyped other one
        help = None if written else nearest_help(code, known, "error code")
        fail("E0112", f"unknown error code `{code}`", help=help or "`edgec explain` lists the codes")
    print(explanation(code, others))
    return 0


def _unknown(code: str, kind: str, name: str, known: Any) -> None:
    fail(code, f"unknown {kind} `{name}`", help=nearest_help(name, known, kind) or f"known: {', '.join(known)}")
