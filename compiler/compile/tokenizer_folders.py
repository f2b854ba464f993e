"""Where a bundle keeps its tokenizers: each distinct one once, `tokenizer` the first, then `tokenizer-<model>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files import cache

if TYPE_CHECKING:
    from ..plan.plan import Plan


def tokenizer_folders(plan: Plan) -> dict[str, str]:
    """Model -> the bundle's folder of its tokenizer; models without a tokenizer.json are left out."""
    found: dict[str, str] = {}
    known: dict[str, str] = {}  # digest of a tokenizer.json -> its folder
    for deploy in plan.deploys:
        decl = plan.models[deploy.model]
        source = decl.source.tokenizer_folder
        if decl.arch is None or source is None or not (source / "tokenizer.json").is_file():
            continue
        digest = cache.digest_file(source / "tokenizer.json")
        known.setdefault(digest, "tokenizer" if not known else f"tokenizer-{deploy.model}")
        found[deploy.model] = known[digest]
    return found
