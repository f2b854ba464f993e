"""A language model made of parts: each call runs the graphs of one bucket along its schedule.

    ids -> feeds -> part 1 -> part 2 -> ... -> logits        values go from part to part by tensor name
                      ^  new K/V of every part -> cache

Padding fills a bucket's slots behind the new tokens; its K/V never enters the cache and its logits are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.schedule import Schedule
from ..diagnostics.diagnostic import EngineError, fail
from .bucket_choice import Buckets
from .decoder_inputs import Branching, as_float, as_tensor, made_here
from .kv_cache import KvCache
from .language_model import PIECE
from .run_schedule import run_schedule
from .timeline import Timeline

if TYPE_CHECKING:
    from ..emit.engine_protocols import GraphSession

Opener = Callable[[Manifest, str, str], "GraphSession"]
Tap = Callable[[str, Mapping[str, np.ndarray], int], None]  # part, its float outputs, valid slots


class ChainModel:
    """`step`: calls of at most so many tokens use the smallest bucket of so many while it fits, as rounds do."""

    def __init__(self, manifest: Manifest, name: str, opener: Opener) -> None:
        entry = manifest.model(name)
        self.name = name
        self.step: int | None = None
        self.timeline = Timeline()
        self._tree: list[int] = []  # parents of the slots behind the text, while a tree is in the cache
        self.tap: Tap | None = None  # sees every part's outputs (`verify`)
        self._manifest, self._opener = manifest, opener
        self._arch = entry["arch"]
        self._schedules = {bucket["name"]: Schedule.of_bucket(bucket) for bucket in entry["buckets"]}
        self._lanes = {
            name: {part: lane for lane, parts in schedule.lanes.items() for part in parts}
            for name, schedule in self._schedules.items()
        }
        self.buckets = Buckets(entry["buckets"], self._arch["context"])
        self.cache = KvCache(self._arch, entry["kv"], self.buckets.context, self._own_layouts())
        self._sessions: dict[tuple[str, str], GraphSession] = {}

    @property
    def vocab(self) -> int:
        """Width of the logits."""
        return self._arch["vocab"]

    @property
    def context(self) -> int:
        """Tokens the K/V cache holds."""
        return self.buckets.context

    @property
    def length(self) -> int:
        """Tokens in the cache now."""
        return self.cache.length

    @property
    def piece(self) -> int:
        """Prompt tokens per `forward` that waste no bucket."""
        return self.buckets.largest or PIECE

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), V] of the next `ids`, which join the cache."""
        if self._tree:
            self.keep([])
        return self._forward(ids, [])

    def grow(self, ids: Sequence[int], parents: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), V] of tokens of a tree below the text, which join the cache as its next slots.

        parents[i] is the slot of the token before ids[i], counted from the text's end; -1: the text's last token.
        The tree lasts until `keep`, `rollback` or `forward`.
        """
        at = len(self._tree)
        if any(not -1 <= parent < at + i for i, parent in enumerate(parents)):
            raise ValueError(f"parents {list(parents)} are not slots before their children, from {at}")
        return self._forward(ids, parents)

    def keep(self, slots: Sequence[int]) -> None:
        """Make a path of the tree, given by its slots, part of the text, and forget the rest of it."""
        self.cache.compact(self.length - len(self._tree), slots)
        self._tree = []

    def _forward(self, ids: Sequence[int], parents: Sequence[int]) -> np.ndarray:
        self._check_ids(ids)
        done, rows = 0, []
        for tokens in self._calls(len(ids)):
            part = ids[done : done + tokens]
            self._tree += parents[done : done + tokens]
            rows.append(self.call(part, self.buckets.dynamic or self._bucket(tokens)))
            done += len(part)
        return np.concatenate(rows) if rows else np.zeros((0, self.vocab), np.float32)

    def rollback(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._tree = self._tree[: max(0, length - (self.length - len(self._tree)))]
        self.cache.rollback(length)

    def reset(self) -> None:
        """Empty the K/V cache, and begin the timeline anew."""
        self.rollback(0)
        self.timeline = Timeline()

    def close(self) -> None:
        """End every session; the model is of no use afterwards."""
        for session in self._sessions.values():
            session.close()
        self._sessions = {}
        self.cache.release()

    def _own_layouts(self) -> dict[str, dict[str, Any]]:
        """K/V tensors of parts whose cache is laid out in another way than the model's."""
        parts = [self._manifest.parts[name] for name in self._manifest.parts_of(self.name)]
        return {
            spec["name"].removesuffix("_in"): part["kv"]
            for part in parts
            if "kv" in part
            for graph in part["graphs"].values()
            for spec in graph["inputs"]
        }

    def outputs_of(self, part: str, bucket: str) -> Sequence[Mapping[str, Any]]:
        """The manifest's entries of what a part's graph makes."""
        return self._manifest.parts[part]["graphs"][bucket]["outputs"]

    def fits(self, count: int) -> bool:
        """Whether buckets are left that take `count` more tokens."""
        return self._plan(count) is not None

    def _plan(self, count: int) -> list[int] | None:
        """The slots of each call for `count` more tokens, None if they do not fit."""
        if self.buckets.dynamic:
            return [count] if self.length + count <= self.context else None
        step = self.buckets.at_least(self.step) if self.step else None
        if step and count <= step and self.buckets.choose(step, self.length):
            return [step]
        return self.buckets.plan(count, self.length)

    def _bucket(self, tokens: int) -> str:
        bucket = self.buckets.choose(tokens, self.length)
        if bucket is None:
            raise ValueError(f"no bucket of {tokens} tokens holds {self.length} past positions")
        return bucket

    def _calls(self, count: int) -> list[int]:
        if count == 0:
            return []
        if calls := self._plan(count):
            return calls
        message = f"`{self.name}` holds {self.length} of {self.context} positions: {count} more tokens do not fit"
        fail("E0912", message, help="shorten the prompt, ask for fewer tokens, or compile with a longer context")

    def call(self, ids: Sequence[int], bucket: str) -> np.ndarray:
        """One call of the graphs of `bucket`, padded; logits [len(ids), V]."""
        entry = self.buckets.entries[bucket]
        tokens = entry["tokens"] or len(ids)
        past = self.cache.stepped() if entry["tokens"] is None else entry["context"] - tokens
        base = self.length - len(self._tree) + len(ids) if self._tree else self.length  # `_tree` has the ids in it
        branching = Branching(base, self._tree) if self._tree else None
        rope = self._arch["rope"]
        values = made_here(ids, tokens, self.length, past, rope, branching) | self.cache.feeds(past)

        def run(part: str) -> None:  # from a thread for each lane; no two parts make a tensor of one name
            made = self._run_part(part, bucket, values)
            values.update(made)
            if self.tap is not None:
                self.tap(part, self._floats(part, bucket, made), len(ids))

        schedule = self._schedules[bucket]
        for part in schedule.parts if len(schedule.lanes) > 1 else ():  # opening one would hold up its lane alone
            self._session(part, bucket)
        run_schedule(schedule, run)
        self.cache.append(values, len(ids))
        logits = values["logits"].reshape(tokens, -1)[: len(ids)]
        if logits.shape[1] != self.vocab or not np.isfinite(logits).all():
            self._nonsense(bucket, logits)
        return logits

    def _run_part(self, part: str, bucket: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self._manifest.parts[part]["graphs"][bucket]
        for spec in graph["inputs"]:
            self._check_input(part, bucket, spec, values)
        session = self._session(part, bucket)
        feeds = {spec["name"]: as_tensor(values[spec["name"]], spec) for spec in graph["inputs"]}
        with self.timeline.running(self._lanes[bucket][part], part):
            outputs = session.run(feeds)
        cached = self.cache.outputs  # these stay as they are stored
        for spec in graph["outputs"]:
            self._check_output(part, bucket, spec, outputs)
        return {
            (name := spec["name"]): outputs[name] if name in cached else as_float(outputs[name], spec)
            for spec in graph["outputs"]
        }

    def _floats(self, part: str, bucket: str, made: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs as floats, those of the cache too."""
        specs = self.outputs_of(part, bucket)
        stored = {spec["name"]: spec for spec in specs if spec["name"] in self.cache.outputs}
        return {name: as_float(x, stored[name]) if name in stored else x for name, x in made.items()}

    def _check_input(self, part: str, bucket: str, spec: dict[str, Any], values: Mapping[str, np.ndarray]) -> None:
        name, shape = spec["name"], spec["shape"]
        if name not in values:
            fail("E0917", f"part `{part}` reads `{name}`, which no part before it in `{bucket}` makes")
        have = list(values[name].shape)
        fixed = name in self.cache.inputs and all(isinstance(size, int) for size in shape)
        if fixed and have != shape:  # another order of axes has as many values: a reshape would mix them up
            fail("E0917", f"part `{part}` reads `{name}` as {shape}, the manifest's K/V layout gives {have}")

    def _check_output(self, part: str, bucket: str, spec: dict[str, Any], outputs: Mapping[str, np.ndarray]) -> None:
        """What a graph makes has to be what the manifest says it makes, which buffers are sized by."""
        name, shape = spec["name"], spec["shape"]
        if name not in outputs:
            fail("E0917", f"part `{part}` makes no `{name}` in `{bucket}`, which the manifest says it does")
        have = list(outputs[name].shape)
        wrong = len(have) != len(shape) or any(isinstance(b, int) and a != b for a, b in zip(have, shape, strict=True))
        if wrong:
            fail("E0917", f"part `{part}` makes `{name}` as {have} in `{bucket}`, the manifest says {shape}")

    def _session(self, part: str, bucket: str) -> GraphSession:
        if (part, bucket) not in self._sessions:
            self._sessions[part, bucket] = self._opener(self._manifest, part, bucket)
        return self._sessions[part, bucket]

    def _check_ids(self, ids: Sequence[int]) -> None:
        for token in ids:
            if not 0 <= token < self.vocab:
                fail("E0915", f"token id {token} is outside the vocabulary of `{self.name}` ({self.vocab} entries)")

    def _nonsense(self, bucket: str, logits: np.ndarray) -> None:
        bad = int(np.count_nonzero(~np.isfinite(logits)))
        what = f"{bad} logits that are no numbers" if bad else f"{logits.shape[1]} logits a token, not {self.vocab}"
        message = f"the engine of `{self.name}` gave {what} in bucket `{bucket}`"
        fail("E0916", message, help="`edgec verify` tells which part is wrong", kind=EngineError)
