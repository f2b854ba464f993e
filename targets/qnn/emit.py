"""Emit the NPU parts of one model: all buckets in one context binary, twins in the cache, manifest entries.

A context holds at most 256 graphs; what is more goes, part by part, into further binaries (`_ctx0`, `_ctx1`, …). So
does each shard. Which binaries there are and how they are made: `binaries.py`.

    <bundle>/<model>/<model>_ctx.bin             every graph, weights shared; cannot be loaded on the host
    <bundle>/<model>/<model>_ctx.<graph>.onnx    EPContext model of one graph, for ONNX Runtime on the phone
    <bundle>/<model>/<model>_ctx.graphs.zip      what other machines run in its place; see `carried_graphs.py`
    <bundle>/<model>/<model>_ctx.mnn             an MNN model whose one op runs the binary; see `mnn_wrapper.py`
    <bundle>/<model>/genie_config.json           for a decoder that lies on the NPU whole
    <bundle>/<model>/<chip>/…                    the same for each of several chips, with `container = per_chip`
    <cache>/qnn-target/<digest>/                 the target-level graphs; an entry's key is in the manifest

Nothing here depends on the clock or on a path: the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.diagnostics.diagnostic import EngineError, blamed_on, fail
from ...compiler.emit.child_process import Child
from ...compiler.emit.conformance.op_class import Use
from ...compiler.emit.part import Part
from ...compiler.emit.target import Emission, EmitJob
from ...compiler.emit.unit import Unit
from ...compiler.files import cache
from .binaries import Binary, contexts, described, make_binaries
from .carried_graphs import DATA, archive_of
from .conformance.legality import local_evidence
from .genie.graph_order import number_shards
from .guard import Guard, guard_key, keep_sizes, known_sizes, random_feeds
from .htp.chip import Chip, tool_versions
from .htp.compile import Compiled
from .htp.context_binary import start_worker
from .htp.sparse_option import known_build
from .lower.lowering import Lowered
from .lower_parts import graph_name, lower_parts, refuse_unproven
from .mnn_wrapper import write_wrapper
from .part_entries import add_part, kv_layout, libraries, lowered_by, part_entry
from .shards import MULTI_SOC, PER_CHIP, own_binaries
from .sparse_store import ROWS, asked
from .stored_weights import stored_weights
from .twins import TARGET_KIND, store_targets, twin

if TYPE_CHECKING:
    from ...compiler.emit.part import Part
    from ...compiler.plan.devices import Device

OTHER_BUILD = "install the version in constraints.txt, or write `as qnn { sparse_store = off }`"
_TOGETHER = 512 << 20  # bytes of weights up to which two compilers run at once: each takes some ten times as much


def emit(job: EmitJob) -> Emission:
    """Lower, check, compile, read back; see the module's text for the files."""
    with blamed_on(job.origin):
        ready = _lowered(job)
        chips, names, notes, uses = ready.chips, ready.names, ready.notes, ready.uses
        job.ready()
        made = make_binaries(list(ready.binaries.values()), job.jobs, job.progress, job.keep)
        compiled = _numbered(job, dict(zip(ready.binaries, made, strict=True)))
        parts: dict[str, dict[str, Any]] = {}
        for (group, chip), one in compiled.items():
            notes += _carried(job, one)
            for index, own in product(group.parts, chips if _container(job) else (chip,)):
                entry = part_entry(job, names[index], one, group.graphs, group.key, own, ready.packs.get((group, own)))
                entry["details"] |= lowered_by(names[index], ready.proven)
                notes += [] if _container(job) else _wrapped(job, index, names[index], one, group, entry)
                add_part(parts, job.parts[index].name, entry, own, several=len(chips) > 1)
    for arch in dict.fromkeys(chip.arch for chip in chips):
        notes += local_evidence(uses, arch)
    if not all(one.reproducible for one in made):
        notes.append(
            f"the context binaries of `{job.module.name}` may have other bytes the next time: the HTP compiler orders "
            "by addresses, and this system refuses fixed ones (Docker's default seccomp profile does)"
        )
    genie = False
    if job.module.arch is not None:
        from .genie.config import write_config

        of_chips = [[one for (_, chip), one in compiled.items() if chip == own] for own in chips]
        reasons = [write_config(job, of_chip) for of_chip in of_chips if of_chip]
        notes += [f"no genie_config.json for `{job.module.name}`: {reasons[0]}"] if reasons[0] else []
        genie = reasons[0] is None
    stored = stored_weights(job.module, [part for part in job.parts if part.name in parts], sparse_parts(parts))
    needed = libraries(chips, made[0].info.build, genie)
    units = _described(ready.binaries) if job.keep else []
    return Emission(
        "chain",
        parts,
        libraries=needed,
        notes=list(dict.fromkeys(notes)),
        kv=kv_layout(made),
        stored=stored,
        units=units,
    )


@dataclass(frozen=True, eq=False)
class _Group:
    """Parts that share a context: their positions, their graphs by name, and where these lie in the cache."""

    parts: tuple[int, ...]
    graphs: Mapping[str, Lowered]
    key: str
    file: str


@dataclass(frozen=True, eq=False)
class _Lowered:
    """A model before its binaries are made: what they are, by group and chip, and what was found on the way."""

    chips: list[Chip]
    names: list[dict[str, str]]
    uses: list[Use]
    packs: dict[tuple[_Group, Chip], tuple[int, int] | None]
    binaries: dict[tuple[_Group, Chip], Binary]
    notes: list[str]
    proven: dict[str, dict[str, Any]]


def _lowered(job: EmitJob) -> _Lowered:
    """Lower and check; the graphs lie in the cache then."""
    chips = [Chip.of(device) for device in job.chips]
    if _container(job):  # it is prepared with one amount of VTCM, and less than a chip has is safe
        chips = [replace(chip, vtcm_mb=min(one.vtcm_mb for one in chips)) for chip in chips]
    sparse = not _container(job) and _sparse_store(job)  # it was never tried with a container
    rows = ROWS if sparse else 1
    graphs, proven = lower_parts(job, rows)
    uses = [use for lowered in graphs.values() for use in lowered.uses]
    for chip in chips:
        refuse_unproven(job, uses, chip, rows)
    names = [{bucket: graph_name(job, index, bucket) for bucket in part.graphs} for index, part in enumerate(job.parts)]
    groups = _groups(job, names, graphs)
    notes: list[str] = []
    packs = {(group, chip): _guarded(job, group, chip, notes) for group in groups for chip in chips if sparse}
    return _Lowered(chips, names, uses, packs, _binaries(job, groups, chips, packs), notes, proven)


def lower_alone(job: EmitJob) -> list[dict[str, Any]]:
    """Lower and check, and compile nothing; each binary to be made, in the order of `units`."""
    with blamed_on(job.origin):
        return _described(_lowered(job).binaries)


def _described(binaries: Mapping[tuple[_Group, Chip], Binary]) -> list[dict[str, Any]]:
    groups = list(dict.fromkeys(group for group, _ in binaries))
    return [described(binary, groups.index(group)) for (group, _), binary in binaries.items()]


def units(parts: Sequence[Part], options: Any, devices: Sequence[Device]) -> list[Unit]:
    """The binaries that a model's parts become, told by their graphs alone: by group, in it by chip."""
    container = getattr(options, "container", PER_CHIP) == MULTI_SOC and len(devices) > 1
    shards = [part.shard for part in parts] if own_binaries(parts) else None
    shares = contexts([len(part.graphs) for part in parts], shards, alone=container)
    found = []
    for share in shares:
        own = tuple(parts[index].name for index in share)
        graphs = sum(len(parts[index].graphs) for index in share)
        for device in devices[:1] if container else devices:
            found.append(Unit(own, "all chips" if container else device.name, graphs))
    return found


def _groups(job: EmitJob, names: Sequence[Mapping[str, str]], graphs: Mapping[str, Lowered]) -> list[_Group]:
    """The parts by the context that holds them, their graphs put into the cache."""
    shards = [part.shard for part in job.parts] if own_binaries(job.parts) else None
    shares = contexts([len(own) for own in names], shards, alone=_container(job))
    groups = []
    for number, share in enumerate(shares):
        own = {name: graphs[name] for index in share for name in names[index].values()}
        file = f"{job.folder}_ctx{number if len(shares) > 1 else ''}"
        groups.append(_Group(tuple(share), own, _kept_graphs(job, file, own) or store_targets(own), file))
    return groups


def _kept_graphs(job: EmitJob, file: str, graphs: Mapping[str, Lowered]) -> str | None:
    """The key under which an earlier lowering of the same parts left these graphs with their weights in the cache."""
    for facts in job.lowered:
        if facts["name"] == file and facts["graphs"] == list(graphs):
            return facts["key"] if cache.find(TARGET_KIND, facts["key"]) is not None else None
    return None


def _numbered(job: EmitJob, compiled: Mapping[tuple[_Group, Chip], Compiled]) -> dict[tuple[_Group, Chip], Compiled]:
    """With graphs of a language model's shards named in the order they run in, which is what Genie goes by."""
    if job.module.arch is None or not _several_shards(job):
        return dict(compiled)
    found = dict(compiled)
    with start_worker(f"the reader of the binaries of `{job.module.name}`") as reader:
        for chip in dict.fromkeys(chip for _, chip in compiled):
            own = [key for key in compiled if key[1] == chip]
            inside = [Chip.of(device).soc_model for device in job.chips] if _container(job) else [chip.soc_model]
            shards = number_shards([compiled[key] for key in own], inside, reader)
            found |= zip(own, shards, strict=True)
    return found


def _wrapped(
    job: EmitJob, index: int, names: Mapping[str, str], one: Compiled, group: _Group, entry: dict[str, Any]
) -> list[str]:
    """Write MNN's wrapper of a part beside its binary; a note where MNN has no tensors for it."""
    own = [one.names[name] for name in names.values()]
    short = f".{job.parts[index].name.rpartition('.')[2]}" if len(group.parts) > 1 else ""
    path = one.binary.with_name(f"{one.binary.stem}{short}.mnn")
    others = sorted(set(one.info.graphs) - set(own))
    why = write_wrapper(path, one.binary, [(name, one.info.graphs[name]) for name in own], others)
    if why is not None:
        return [f"no wrapper for MNN beside `{one.binary.name}`: {why}"]
    entry["details"]["mnn_wrapper"] = path.relative_to(job.directory).as_posix()
    return []


def _several_shards(job: EmitJob) -> bool:
    """Whether the layers are in several binaries."""
    return own_binaries(job.parts) and len({part.shard for part in job.parts}) > 1


def _container(job: EmitJob) -> bool:
    """Whether all chips go into one file."""
    return getattr(job.options, "container", PER_CHIP) == MULTI_SOC and len(job.chips) > 1


def _binaries(
    job: EmitJob,
    groups: Sequence[_Group],
    chips: Sequence[Chip],
    packs: Mapping[tuple[_Group, Chip], tuple[int, int] | None],
) -> dict[tuple[_Group, Chip], Binary]:
    """What is to be compiled, by group and chip; a container stands under its first chip."""
    root, found = job.directory / job.folder, {}
    container = _container(job)
    for group in groups:
        entry = cache.entry(TARGET_KIND, group.key)
        for chip in chips[:1] if container else chips:
            own = tuple(chips) if container else (chip,)
            folder = root if container or len(chips) == 1 else root / chip.name
            sparse = packs.get((group, chip)) is not None
            found[group, chip] = Binary(own, group.key, entry, tuple(group.graphs), folder, group.file, sparse)
    return found


def _sparse_store(job: EmitJob) -> bool:
    """Whether the plan's weights and its line ask for HTP's sparse store, and this build of the compiler has it."""
    if not asked(job.options, job.parts, job.origin):
        return False
    import onnxruntime_qnn

    library = Path(onnxruntime_qnn.get_qnn_htp_path())
    if known_build(library):
        return True
    message = f"`{library.name}` of onnxruntime-qnn {tool_versions()['onnxruntime-qnn']} is not a build whose sparse "
    fail("E0643", message + "store was tried", job.origin, help=OTHER_BUILD, kind=EngineError)


def _guarded(job: EmitJob, group: _Group, chip: Chip, notes: list[str]) -> tuple[int, int] | None:
    """Bytes of the first graph without and with the sparse store, if every graph computes the same with it; else a
    note says why not.

    That it does is kept in the cache, by the graphs with their weights, the chip, the engine's build and the guard's
    own code; that it does not is found again each time, as an engine may have died of other things.
    """
    key = group.key
    verdict = guard_key(key, list(group.graphs), chip)
    if (sizes := known_sizes(verdict)) is not None:
        return sizes
    together = (cache.entry(TARGET_KIND, key) / DATA).stat().st_size < _TOGETHER
    with Guard(chip, together) as guard:
        for name, lowered in group.graphs.items():
            job.progress(f"{job.module.name}: holding `{name}` with sparse weights against its dense form")
            feeds = random_feeds(lowered.model, lowered.encodings)

            def made(form: bool, child: Child, name: str = name) -> Path:
                return twin(key, name, chip, child, form)

            found = guard.compared(made, feeds, f"`{name}` of `{job.module.name}`")
            if isinstance(found, str):
                dense = f"the weights of `{job.module.name}` are stored dense, not in HTP's sparse form"
                notes.append(f"{dense}: {found}, in `{name}`")
                return None
            sizes = sizes or found
    keep_sizes(verdict, sizes)
    return sizes


def sparse_parts(parts: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """The parts whose entries say that their weights are stored sparse."""
    return frozenset(name for name, entry in parts.items() if entry["details"].get("sparse_store"))


def _carried(job: EmitJob, compiled: Compiled) -> list[str]:
    """A note where what other machines need to run in a binary's place takes too much to be carried beside it."""
    if archive_of(compiled.binary).is_file():
        return []
    where = f"the weights of `{job.module.name}` lie in its context binary in a form that edgec does not read"
    return [f"{where}: on a PC the bundle runs where it was compiled, elsewhere `edgec run` cannot run it (E0613)"]
