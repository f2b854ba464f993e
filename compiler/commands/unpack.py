"""`edgec unpack`: the dense bundle of one whose weight files are packed."""

from __future__ import annotations

import argparse

from ..packed.packed_bundle import unpack_bundle
from .streams import print_json
from .terminal import meanwhile


def run_unpack(arguments: argparse.Namespace) -> int:
    """Write the bundle with its files as engines read them."""
    made = unpack_bundle(arguments.bundle, arguments.output)
    size = sum(entry["size"] for entry in made.files.values())
    if arguments.json:
        print_json({"ok": True, "bundle": str(made.bundle), "bytes": size, **meanwhile()})
    else:
        print(f"{made.bundle}: {size / 1e6:.2f} MB")
    return 0
