"""`edgec push`: a bundle onto a phone."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from ..phone.push import push_bundle
from .streams import print_json, print_line
from .terminal import meanwhile


def run_push(arguments: argparse.Namespace) -> int:
    """Copy what the phone's chip needs, and say what is to be done next."""
    made = push_bundle(arguments.bundle, arguments.serial, arguments.device, arguments.to, arguments.libraries, _tell)
    if arguments.json:
        print_json({"ok": True, **asdict(made), **meanwhile()})
        return 0
    print_line(f"{made.serial} ({made.soc}): {made.files} files, {made.bytes / 1e6:.2f} MB in {made.folder}")
    for row in made.missing:
        print_line(f"  to go into {made.folder}/lib: {row['file']} ({row.get('from', row['engine'])})")
    print_line(f"next: adb -s {made.serial} shell sh {made.folder}/device/run.sh check")
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
