"""docs/bundle.md tells of every key the schema has."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import schema

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
TOLD = ["tensor", "bucket", "edge", "kv", "part"]


@pytest.mark.parametrize("key", [key for key in schema()["properties"] if key not in ("format", "version")])
def test_a_row_for_each_key(key):
    assert f"| `{key}` |" in PAGE


@pytest.mark.parametrize("name", TOLD)
def test_the_inner_keys_are_told(name):
    own = set(schema()["$defs"][name]["properties"]) - {"name"}
    assert [key for key in sorted(own) if f"`{key}`" not in PAGE and key not in PAGE] == []
