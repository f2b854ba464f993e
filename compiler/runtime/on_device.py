"""A bundle as one of its devices reads it: of a bundle for several chips, the files of one."""

from __future__ import annotations

import copy
from typing import Any

from ..bundle.manifest import Manifest
from ..diagnostics.diagnostic import fail
from ..diagnostics.wording import join_or
from ..plan.devices import known_help, resolve_device


def for_device(manifest: Manifest, name: str | None) -> Manifest:
    """The manifest with the parts of the device that `name` means; without a name, of the first one.

    E0103 if no device is called so, E0924 if the bundle was not built for it.
    """
    first = manifest.data["devices"][0]["name"]
    chosen = first if name is None else chosen_device(manifest, name)
    if not any("chips" in part for part in manifest.parts.values()):
        return manifest
    data = {**manifest.data, "parts": {key: _on(part, chosen) for key, part in manifest.parts.items()}}
    return Manifest(manifest.bundle, data)


def chosen_device(manifest: Manifest, name: str, unknown: str = "E0103") -> str:
    """The name of the bundle's device that `name` means (`sm8650`, `Snapdragon 8 Gen 3`); E0924 for another one.

    `unknown`: the code for a chip that edgec does not know either, which a phone may have.
    """
    built = [device["name"] for device in manifest.data["devices"]]
    found = resolve_device(name)
    if found is None and name not in built and unknown == "E0103":
        fail("E0103", f"unknown device `{name}`", help=known_help(name))
    wished = name if found is None else found.name
    if wished not in built:
        said = f"`{name}`" if wished == name else f"`{name}`, which is `{wished}`"
        listed = join_or([f"`{one}`" for one in built], "and")
        message = f"`{manifest.bundle}` was built for {listed}, not for {said}"
        if found is None:
            fail("E0924", message, help="`edgec devices` lists the chips that a plan can be for")
        fail("E0924", message, help=f"add `{wished}` to the plan's `device` line and compile again")
    return wished


def _on(part: dict[str, Any], device: str) -> dict[str, Any]:
    chips = part.get("chips")
    if not chips or device not in chips:  # a part of the CPU is the same on every chip
        return part
    own = copy.deepcopy({key: value for key, value in part.items() if key != "chips"})
    own |= {"file": chips[device]["file"], "details": chips[device]["details"]}
    for bucket, files in chips[device]["graphs"].items():
        own["graphs"][bucket] |= files
    return own
