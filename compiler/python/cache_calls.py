"""`edgec.cache`: what `edgec cache` does, called from Python."""

from __future__ import annotations

from pathlib import Path

from ..files import cache_contents
from ..files.cache import cache_root
from ..files.cache_contents import Held


class Cache:
    """The folder of what can be made again: `EDGEC_CACHE`, else the user's cache folder."""

    @property
    def path(self) -> Path:
        """Where it lies now; the environment decides."""
        return cache_root()

    def contents(self) -> list[Held]:
        """Every entry: `kind`, `key`, `path`, `bytes`, and the time of its last `used`; longest unused first."""
        return cache_contents.contents()

    def check(self) -> list[tuple[Held, str]]:
        """Compare every file with its digest, and remove what does not fit; which entries, and what was wrong."""
        return cache_contents.remove_damaged()

    def prune(self, *, older: float | None = None, max_bytes: int | None = None) -> list[Held]:
        """Remove what was not used for `older` seconds, then the longest unused until `max_bytes` are left.

        Returns what was removed; EngineError (E0956) while another process works with the cache.
        """
        return cache_contents.prune(older, max_bytes)

    def __repr__(self) -> str:
        held = self.contents()
        return f"<cache {self.path}: {len(held)} entries, {sum(one.bytes for one in held) / 1e6:.2f} MB>"


cache = Cache()
