"""In which order the parts of a bucket run, which of them wait for which, and which may run at once.

    lanes      name -> parts that run one after the other: one lane per device
    transfers  tensor, the part that makes it, a part that reads it

A part runs when the one before it in its lane has ended and every transfer to it has arrived. Lanes are pieces of one
order in which all parts can run, so no lane can wait for itself. A bucket without a schedule is one lane of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Transfer:
    """One tensor on its way from the part that makes it to one that reads it.

    `node`, `output`: the op of the model that computes it and which of its outputs it is, so that the same value can be
    found in the float model.
    """

    tensor: str
    maker: str
    reader: str
    node: str
    output: int = 0


@dataclass(frozen=True)
class Schedule:
    """The lanes of a bucket and the transfers between its parts; `parts`: all of them in an order that can run."""

    parts: tuple[str, ...]
    lanes: Mapping[str, tuple[str, ...]]
    transfers: tuple[Transfer, ...] = ()

    @classmethod
    def of_bucket(cls, bucket: Mapping[str, Any]) -> Schedule:
        """The schedule in a bucket's manifest entry; of a bucket that has none, one lane of its parts."""
        parts, entry = tuple(bucket["parts"]), bucket.get("schedule")
        if entry is None:
            return cls(parts, {"all": parts})
        lanes = {name: tuple(lane) for name, lane in entry["lanes"].items()}
        transfers = (Transfer(e["tensor"], e["from"], e["to"], e["node"], e["output"]) for e in entry["edges"])
        return cls(parts, lanes, tuple(transfers))

    def entry(self) -> dict[str, Any]:
        """Its form in the manifest."""
        edges = [
            {"tensor": t.tensor, "from": t.maker, "to": t.reader, "node": t.node, "output": t.output}
            for t in self.transfers
        ]
        return {"lanes": {name: list(lane) for name, lane in self.lanes.items()}, "edges": edges}

    def makers(self) -> dict[str, set[str]]:
        """Part -> the parts whose tensors it reads."""
        found: dict[str, set[str]] = {part: set() for part in self.parts}
        for transfer in self.transfers:
            found[transfer.reader].add(transfer.maker)
        return found

    def overlaps(self) -> list[tuple[str, str]]:
        """Pairs of parts that may run at once: in two lanes, and neither waits for the other."""
        import networkx as nx  # a fifth of a second, which a run does not need

        waits = nx.DiGraph()
        waits.add_nodes_from(self.parts)
        waits.add_edges_from((transfer.maker, transfer.reader) for transfer in self.transfers)
        for lane in self.lanes.values():
            nx.add_path(waits, lane)
        after = {part: nx.descendants(waits, part) for part in self.parts}
        pairs = ((a, b) for i, a in enumerate(self.parts) for b in self.parts[i + 1 :])
        return [(a, b) for a, b in pairs if b not in after[a] and a not in after[b]]

    def problems(self) -> Iterator[str]:
        """What keeps it from running: parts in no lane or in two, an order that a lane or a transfer contradicts."""
        at = {part: i for i, part in enumerate(self.parts)}
        if sorted(part for lane in self.lanes.values() for part in lane) != sorted(self.parts):
            yield "its lanes do not hold each of its parts once"
            return
        for name, lane in self.lanes.items():
            if list(lane) != sorted(lane, key=at.__getitem__):
                yield f"lane `{name}` runs its parts in another order than `parts`"
        for t in self.transfers:
            if t.maker not in at or t.reader not in at or at[t.maker] >= at[t.reader]:
                yield f"`{t.tensor}` goes from `{t.maker}` to `{t.reader}`, which `parts` does not run in this order"


def lanes_by_device(devices: Mapping[str, str], order: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """One lane for each device of `devices` (part -> device), with its parts in `order`."""
    names = dict.fromkeys(devices[part] for part in order)
    return {name: tuple(part for part in order if devices[part] == name) for name in names}
