"""How far each part of a bundle is from the float module, tensor by tensor, and what made the difference.

max_error      = max |engine - float|                    over all outputs of the part, all its buckets
relative_error = max over outputs of ||engine - float|| / ||float||
emission       = max over outputs of ||engine - reference|| / ||reference||
quantization   = max over outputs of ||reference - float|| / ||float||

The reference is the part as the passes left it: its graph in plain operators, fed what the engine is fed; for an
engine of whole models the float graph with the weights that lie in the bundle. So `emission` is what lowering and the
engine's own rounding add, which is small or a fault, and `quantization` what the plan asked for.

Each bucket is called twice from an empty cache (the second call has a past), with what flows in the chain: a part's
error contains that of the parts before it. The float values are those of the semantic graph of the model's source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.schedule import Schedule
from ..diagnostics.diagnostic import EdgecError
from ..ir import kv_names
from ..ir.clone import clone_model
from ..ir.module import MAIN, Module
from ..oracle.compare import FROM_THE_END, ORDINARY, ZEROS, Feeds, open_dimensions
from ..oracle.probes import Probes, Trial
from ..runtime.chain import ChainModel, Opener
from ..runtime.decoder_inputs import as_float
from ..runtime.engines import open_graph, open_model, open_reference, target_of
from ..runtime.kv_cache import canonical
from ..runtime.plain_graph import Tap, run_parts
from ..runtime.signature import graph_inputs
from .shipped_module import apart, with_weights

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..emit.engine_protocols import GraphSession

PROBE = 16  # tokens per call where a graph takes any number
_KINDS = (ORDINARY, FROM_THE_END, ZEROS)  # of inputs; extreme numbers are tried as a part is written
FAR = 0.7  # a cosine below this is no rounding, but for the coarsest: the part computes something else
STEPS, COARSE = 2.05, 0.5  # of 8 bits whose range an outlier took a tensor has a few: one step is much of its norm
NOTHING = 1e-2  # of a tensor's largest value in other calls: what rounding may leave where it should be zero


class Comparison:
    """The errors of one part as they come in."""

    def __init__(self) -> None:
        self.max_error: float | None = None
        self.relative_error: float | None = None
        self.worst = ""
        self.wrong: list[str] = []  # what the engine computes otherwise than its own graph says
        self._far: list[str] = []  # from the float model: coarse quantisation, or another computation
        self._largest: dict[str, float] = {}  # magnitude of each tensor so far
        self.emission: float | None = None
        self.quantization: float | None = None
        self.bound = 0.0  # of `emission`
        self.rounding: Callable[[str], float] = lambda _tensor: 0.0  # how far rounding alone moves a tensor
        self.unsplit = ""  # why the two are not told apart

    def add(self, tensor: str, bucket: str, engine: np.ndarray, reference: np.ndarray) -> None:
        """Take in one tensor: the engine's value, and the float module's in the same order of elements."""
        if reference.dtype.kind == "O":
            self._add_texts(tensor, bucket, engine, reference)
            return
        a, b = _numbers(engine, reference)
        if a.size != b.size:
            self.wrong.append(f"`{tensor}` of bucket `{bucket}` has {a.size} values, the float module {b.size}")
            return
        error = float(np.abs(a - b).max(initial=0.0))
        size = float(np.linalg.norm(b))
        relative = float(np.linalg.norm(a - b)) / size if size else error
        if self.max_error is None or error > self.max_error:
            self.max_error, self.worst = error, f"{tensor} of {bucket}"
        self.relative_error = max(relative, self.relative_error or 0.0)
        self._largest[tensor] = max(self._largest.get(tensor, 0.0), float(np.abs(b).max(initial=0.0)))
        if not size:  # zeros have no direction: what is nothing beside the tensor's other values is none of these
            if not error <= max(1e-6, NOTHING * self._largest[tensor]):
                self._far.append(f"`{tensor}` of bucket `{bucket}` is {error:.3g} where the float module's is zero")
            return
        cosine = float(a @ b) / (size * float(np.linalg.norm(a)) or 1.0)
        if not cosine >= FAR and error > 1e-6:
            self._far.append(f"`{tensor}` of bucket `{bucket}` has a cosine of {cosine:.3f} with the float module's")

    def _add_texts(self, tensor: str, bucket: str, engine: np.ndarray, reference: np.ndarray) -> None:
        if engine.shape != reference.shape or not np.array_equal(engine, reference):
            self.wrong.append(f"`{tensor}` of bucket `{bucket}` has other texts than the float module's")
        self.max_error, self.worst = self.max_error or 0.0, self.worst or f"{tensor} of {bucket}"

    def split(
        self, tensor: str, bucket: str, engine: np.ndarray, plain: np.ndarray, exact: np.ndarray | None,
        integers: bool = False,
    ) -> None:  # fmt: skip
        """Take in one tensor of the engine, the reference's, and the float module's if it has one; `integers`: the part
        gives it as such.
        """
        if plain.dtype.kind == "O":
            return  # `add` compares texts
        emission = _relative(engine, plain)
        far = not emission <= self.bound and not _furthest(engine, plain) <= self.rounding(tensor)
        if far and not (integers and emission <= COARSE and _steps(engine, plain) <= STEPS):
            told = f"{emission:.3g} relative from its own graph in plain operators, {self.bound:g} is rounding"
            self.wrong.append(f"`{tensor}` of bucket `{bucket}` is {told}")
        self.emission = max(emission, self.emission or 0.0)
        if exact is not None and exact.size == plain.size:
            self.quantization = max(_relative(plain, exact), self.quantization or 0.0)

    @property
    def problems(self) -> list[str]:
        """What is no rounding. Far from the float model is none where the engine is known to do what its graph says:
        that is quantisation, which a text judges.
        """
        return self.wrong if self.emission is not None else [*self.wrong, *self._far]

    def facts(self) -> dict[str, Any]:
        """The errors as `edgec verify` and the report show them; None where nothing was compared."""
        found = {"max_error": self.max_error, "relative_error": self.relative_error, "worst": self.worst}
        found |= {"emission": self.emission, "quantization": self.quantization, "far": self._far[:1]}
        return found | ({"unsplit": self.unsplit} if self.unsplit else {"emission_bound": self.bound})


def _numbers(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 in a row; what is the same infinity or no number in both is no difference."""
    x, y = (array.astype(np.float64).ravel() for array in (a, b))
    if x.size == y.size and not np.isfinite(y).all():
        alike = (x == y) | (np.isnan(x) & np.isnan(y))
        aside = alike & ~np.isfinite(y)
        x, y = np.where(aside, 0.0, x), np.where(aside, 0.0, y)
    return x, y


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| / ||b||; the norm of the difference where b is zero; infinite where sizes differ."""
    x, y = _numbers(a, b)
    if x.size != y.size:
        return float("inf")
    size = float(np.linalg.norm(y))
    return float(np.linalg.norm(x - y)) / (size or 1.0)


def _steps(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| in steps of the grid that b lies on; infinite where it has more than 8 bits, or none."""
    x, y = _numbers(a, b)
    levels = np.unique(y)
    if x.size != y.size or not 4 <= len(levels) <= 256:
        return float("inf")
    step = float(np.diff(levels).min())
    places = (levels - levels[0]) / step
    if places[-1] > 255 or np.abs(places - places.round()).max() > 0.01:
        return float("inf")
    return float(np.abs(x - y).max()) / step


def _furthest(a: np.ndarray, b: np.ndarray) -> float:
    x, y = _numbers(a, b)
    return float(np.abs(x - y).max(initial=0.0)) if x.size == y.size else np.inf


class _Beside:
    """A part's graph in its engine, and with the same feeds in the reference: its outputs go to `seen`."""

    def __init__(self, engine: GraphSession, reference: GraphSession, seen: dict[str, np.ndarray]) -> None:
        self._engine, self._reference, self._seen = engine, reference, seen

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The engine's outputs by name."""
        self._seen.clear()
        self._seen.update(self._reference.run(feeds))
        return self._engine.run(feeds)

    def close(self) -> None:
        """End both."""
        self._engine.close()
        self._reference.close()


def compare(manifest: Manifest, name: str, module: Module, ids: Sequence[int]) -> dict[str, Comparison]:
    """The comparison of every part of model `name`; `ids`: a text for language models."""
    entry = manifest.model(name)
    found = {part: Comparison() for part in manifest.parts_of(name)}
    if entry["kind"] != "decoder":
        _compare_graph(manifest, name, module, found)
    elif entry["engine"] == "chain":
        _compare_chain(manifest, name, module, ids, found)
    else:
        _compare_engine(manifest, name, module, ids, next(iter(found.values())))
    return found


def _compare_chain(
    manifest: Manifest, name: str, module: Module, ids: Sequence[int], found: Mapping[str, Comparison]
) -> None:
    seen: dict[str, dict[str, np.ndarray]] = {part: {} for part in found}
    model = ChainModel(manifest, name, _beside(found, seen))
    values = _float_graph_values(module, manifest, name)
    longest = 2 * max(row["tokens"] or PROBE for row in model.buckets.entries.values())
    reference = _decoder_values(module, ids[:longest], values)
    try:
        for bucket, row in model.buckets.entries.items():
            tokens = row["tokens"] or PROBE
            model.reset()
            for start in (0, tokens):
                if start + tokens > min(len(ids), row["context"] or model.context):
                    break
                _tap(model, found, bucket, start, reference, seen)
                model.call(ids[start : start + tokens], bucket)
    finally:
        model.close()


def _tap(
    model: ChainModel,
    found: Mapping[str, Comparison],
    bucket: str,
    start: int,
    reference: Mapping[str, np.ndarray],
    seen: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Compare what the next call of `model` makes for the positions from `start` on."""

    def tap(part: str, made: Mapping[str, np.ndarray], count: int) -> None:
        specs = {spec["name"]: spec for spec in model.outputs_of(part, bucket)}
        plain = {name: as_float(array, specs[name]) for name, array in seen[part].items() if name in specs}
        for tensor, array in made.items():
            rows = _by_position(tensor, array, model, count)
            known = tensor in reference and "packed" not in specs.get(tensor, {})  # those hold balanced keys
            exact = reference[tensor][start : start + count] if known else None
            if exact is not None:
                found[part].add(tensor, bucket, rows, exact)
            if tensor in plain:
                beside = _by_position(tensor, plain[tensor], model, count)
                integers = specs[tensor].get("quantization") is not None
                found[part].split(tensor, bucket, rows, beside, exact, integers)

    model.tap = tap


def _beside(found: Mapping[str, Comparison], seen: Mapping[str, dict[str, np.ndarray]]) -> Opener:
    """Opens a part's graph with its reference beside it, whose outputs of the last call are in `seen`."""

    def open_both(manifest: Manifest, part: str, bucket: str) -> GraphSession:
        engine = open_graph(manifest, part, bucket)
        try:
            reference = open_reference(manifest, part, bucket)
        except EdgecError as error:
            found[part].unsplit = error.diagnostics[0].message
            reference = None
        if reference is None:
            found[part].unsplit = found[part].unsplit or "its target has no reference beside the engine"
            return engine
        found[part].bound = target_of(manifest.part(part)).emission_bound(manifest.part(part))
        return _Beside(engine, reference, seen[part])

    return open_both


def _by_position(tensor: str, array: np.ndarray, model: ChainModel, count: int) -> np.ndarray:
    """[S, ...] of an output: K/V in its layout, everything else position by position."""
    axes = model.cache.axes.get(tensor.removesuffix("_out"))
    if axes is not None:
        return canonical(array, axes).swapaxes(0, 1)[:count]
    axis = next(i for i, size in enumerate(array.shape) if size != 1 or i == array.ndim - 2)
    return array.reshape(array.shape[axis], -1)[:count]


def _compare_engine(manifest: Manifest, name: str, module: Module, ids: Sequence[int], part: Comparison) -> None:
    probe = ids[: 2 * PROBE]
    values = {value.name or "": value for value in module.main.graph.outputs}
    reference = _decoder_values(module, probe, {"logits": values["logits"]})["logits"]
    engine = open_model(manifest, name)
    try:
        rows = [engine.forward(probe[start : start + PROBE]) for start in range(0, len(probe), PROBE)]
    finally:
        engine.close()
    made = np.concatenate(rows)
    part.add("logits", "whole", made, reference)
    _split_engine(manifest, name, module, probe, part, made, reference)


def _split_engine(
    manifest: Manifest, name: str, module: Module, probe: Sequence[int], part: Comparison,
    made: np.ndarray, exact: np.ndarray,
) -> None:  # fmt: skip
    """Tell emission from quantisation by the weights that lie in the bundle."""
    if manifest.model(name).get("moved"):
        part.unsplit = "a pass has moved what its weights hold: they do not fit the float model's graph"
        return
    entry = manifest.part(next(iter(manifest.parts_of(name))))
    target = target_of(entry)
    shipped = target.shipped_weights(manifest.bundle, entry)
    rows = manifest.model(name)["weights"]
    compressed = None if shipped is None else with_weights(module, apart(shipped, rows))
    if compressed is None:
        part.unsplit = "its weights cannot be read from the bundle as those of the float model's linears"
        return
    part.bound = target.emission_bound(entry)
    values = {value.name or "": value for value in compressed.main.graph.outputs}
    plain = _decoder_values(compressed, probe, {"logits": values["logits"]})["logits"]
    part.split("logits", "whole", made, plain, exact)


def _compare_graph(manifest: Manifest, name: str, module: Module, found: Mapping[str, Comparison]) -> None:
    values = _float_graph_values(module, manifest, name)
    for row in manifest.buckets(name) or [{"name": MAIN, "parts": list(found)}]:
        fed = graph_inputs(manifest, name, row)
        calls = _calls(module, fed)
        if not calls:
            for part in found.values():
                part.unsplit = "no sizes and numbers were found that the model runs with"
            return
        for feeds in calls:
            reference = _run_float(module, feeds, values)
            for part in found.values():
                part.rounding = _rounding(module, feeds, reference)
            seen: dict[str, dict[str, np.ndarray]] = {part: {} for part in found}
            arrays = {spec["name"]: feeds[spec["name"]] for spec in fed}
            tap = _graph_tap(manifest, row["name"], found, reference, seen)
            run_parts(manifest, name, arrays, row["name"], tap, _beside(found, seen))


def _graph_tap(
    manifest: Manifest, bucket: str, found: Mapping[str, Comparison],
    reference: Mapping[str, np.ndarray], seen: Mapping[str, Mapping[str, np.ndarray]],
) -> Tap:  # fmt: skip
    """Compare what a part of a plain graph makes."""

    def tap(part: str, made: Mapping[str, np.ndarray]) -> None:
        specs = {spec["name"]: spec for spec in manifest.parts[part]["graphs"][bucket]["outputs"]}
        for tensor, array in made.items():
            if isinstance(array, list):  # a sequence: its readers are compared
                continue
            exact = reference.get(tensor)
            if exact is not None:
                found[part].add(tensor, bucket, array, exact)
            if tensor in seen[part]:
                engine, plain = (as_float(one, specs[tensor]) for one in (array, seen[part][tensor]))
                found[part].split(tensor, bucket, engine, plain, exact)

    return tap


def _rounding(module: Module, feeds: dict[str, np.ndarray], made: Mapping[str, np.ndarray]) -> Callable[[str], float]:
    """How far rounding alone moves an output of the float model; found when it is first asked for."""
    outputs = {value.name or "" for value in module.main.graph.outputs}

    @functools.cache
    def moved() -> dict[str, float]:
        trial = Trial(ORDINARY, feeds, {name: array for name, array in made.items() if name in outputs})
        return Probes(module.main).rounding(trial)

    return lambda tensor: moved().get(tensor, 0.0) if tensor in outputs else 0.0


def _calls(module: Module, fed: Sequence[Mapping[str, Any]]) -> list[Feeds]:
    """Inputs to compare with, of each kind in `_KINDS` that the float graph runs with, each once.

    Sizes of open dimensions are those that the bundle's graphs state, else such as the float graph runs with.
    """
    probes = Probes(module.main)
    stated = _stated_sizes(module, fed)
    read = {spec["name"] for spec in fed}
    wanted = open_dimensions([value for value in module.main.graph.inputs if value.name in read])
    sizes = stated if stated.keys() >= set(wanted) else next(probes.sizes(), None)
    if sizes is None:
        return []
    found: list[Feeds] = []
    for kind in _KINDS:
        trial = probes.trial(sizes, kind=kind)
        if trial is not None and not any(_same(trial.feeds, feeds) for feeds in found):
            found.append(trial.feeds)
    return found


def _stated_sizes(module: Module, fed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The sizes that a bundle's graphs have for open dimensions of the float graph."""
    shapes = {spec["name"]: spec["shape"] for spec in fed}
    return {
        dim.value or f"{value.name}.{axis}": size
        for value in module.main.graph.inputs
        for axis, (dim, size) in enumerate(zip(value.shape or (), shapes.get(value.name, ()), strict=False))
        if not isinstance(dim, int) and isinstance(size, int)
    }


def _same(one: Feeds, other: Feeds) -> bool:
    return all(np.array_equal(array, other[name]) for name, array in one.items())


def _float_graph_values(module: Module, manifest: Manifest, name: str) -> dict[str, ir.Value]:
    """Tensor of the bundle's graphs -> the value of the float graph it stands for: its outputs, and transfers by node.

    Left out are tensors of nodes that a pass has added, and where a pass has moved what tensors hold, all but keys and
    what the model puts out.
    """
    graph = module.main.graph
    outputs = {value.name or "": value for value in graph.outputs}
    if manifest.model(name).get("moved"):
        return {name: value for name, value in outputs.items() if not _is_cached_value(name)}
    nodes = {node.name: node for node in graph}
    transfers = {t.tensor: t for row in manifest.buckets(name) for t in Schedule.of_bucket(row).transfers}
    between = {
        tensor: nodes[transfer.node].outputs[transfer.output]
        for tensor, transfer in transfers.items()
        if transfer.node in nodes and transfer.output < len(nodes[transfer.node].outputs)
    }
    return between | outputs


def _is_cached_value(name: str) -> bool:
    read = kv_names.parse(name)
    return read is not None and read.kind == kv_names.VALUE


def _decoder_values(module: Module, ids: Sequence[int], values: Mapping[str, ir.Value]) -> dict[str, np.ndarray]:
    """Name -> [S, ...] of what `values` of the float decoder hold for one text."""
    from ..oracle.oracle import causal_mask

    if module.arch is None:
        raise ValueError(f"module `{module.name}` is no decoder")
    empty = np.zeros((1, module.arch.kv_heads, 0, module.arch.head_dim), np.float32)
    names = [value.name or "" for value in module.main.graph.inputs]
    feeds: dict[str, np.ndarray] = {name: empty for name in names if kv_names.is_cache(name)}
    feeds["input_ids"] = np.asarray([ids], np.int32)
    feeds["position_ids"] = np.arange(len(ids), dtype=np.int32)[None]
    feeds["attention_mask"] = causal_mask(len(ids), 0)
    made = {name: array[0] for name, array in _run_float(module, feeds, values).items()}
    return {name: array.swapaxes(0, 1) if kv_names.is_cache(name) else array for name, array in made.items()}


def _run_float(
    module: Module, feeds: Mapping[str, np.ndarray], values: Mapping[str, ir.Value]
) -> dict[str, np.ndarray]:
    """What `values` of the float graph hold for `feeds`, by the names they are given under."""
    from ..oracle.oracle import run

    model = clone_model(module.main)
    graph = model.graph
    known = {value.name: value for node in graph for value in node.outputs}
    known |= {value.name: value for value in (*graph.inputs, *graph.initializers.values())}
    for value in values.values():
        if not (own := known[value.name]).is_graph_output():
            graph.outputs.append(own)
    made = run(model, feeds)
    return {name: made[value.name or ""] for name, value in values.items()}
