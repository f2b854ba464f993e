"""Whether a bundle is what its plan would become again: made from the same inputs, and no file of it changed since.

    <cache>/bundle/<digest of all that the plan reads>.note    the manifest's sha256, and what the compile said

Where that is so, there is nothing to do. What a compile asks of texts and of `require` lines held then.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.file_hashes import check_files
from ..bundle.manifest import SEAL, load_manifest
from ..bundle.write import foreign_files, is_bundle
from ..diagnostics.diagnostic import EdgecError
from ..files import cache
from .facts import digest, plan_facts

if TYPE_CHECKING:
    from ..plan.plan import Plan

_KIND = "bundle"


def kept_facts(plan: Plan, bundle: Path) -> dict[str, Any] | None:
    """What the compile said that made `bundle` from all that `plan` reads now; None if it has to be made."""
    if not is_bundle(bundle):
        return None
    try:
        held = json.loads(cache.read_note(_KIND, _key(plan)) or "null")
        if not isinstance(held, dict) or held["manifest"] != _sealed(bundle) or foreign_files(bundle):
            return None
        check_files(load_manifest(bundle))
    except (EdgecError, OSError, ValueError, KeyError):
        return None
    return {**held["facts"], "bundle": str(bundle)}


def keep_facts(plan: Plan, bundle: Path, facts: dict[str, Any]) -> None:
    """Keep them for `kept_facts`; a cache that cannot be written forgets them."""
    with contextlib.suppress(OSError, TypeError):
        cache.write_note(_KIND, _key(plan), json.dumps({"manifest": _sealed(bundle), "facts": facts}))


def _key(plan: Plan) -> str:
    return digest(sorted(plan_facts(plan).items()))


def _sealed(bundle: Path) -> str:
    return (bundle / SEAL).read_text(encoding="ascii").split()[0]
