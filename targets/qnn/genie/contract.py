"""What Genie assumes of a deployment without asking: where one of these does not hold, it loads and answers nonsense.

    genie_config.json  ~  the model's config, its tokenizer     numbers that Genie computes with
                       ~  the graphs in the binaries             tensors that it fills and reads by name, shape and type
    graphs             ~  each other, the chip                   buckets of one cache, in one memory

Each check yields one sentence. Some things Genie does notice; they are told here in words that name the bundle's parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import Any

from ....compiler.ir import kv_names
from ..htp.context_binary import ContextInfo, GraphSpec, TensorSpec
from .config import SCALINGS, stated_rope

MASK, COS, SIN, IDS, LOGITS = "attention_mask", "position_ids_cos", "position_ids_sin", "input_ids", "logits"
_DEEP = 20.0  # e^-20 is no weight in a softmax: how far below the open positions a masked one has to lie
_CLOSE = 1e-5  # of a frequency
_RANGES = {"uint8": (0, 255), "uint16": (0, 65535), "int8": (-128, 127), "int16": (-32768, 32767)}


@dataclass(frozen=True)
class Deployment:
    """A Genie deployment of one model on one chip, as its files say it."""

    config: Mapping[str, Any]
    folder: str  # in the bundle, where Genie is started
    files: Mapping[str, str]  # of the bundle: path -> sha256
    arch: Mapping[str, Any]  # the manifest's
    tokenizer: Mapping[str, Any]  # the manifest's
    chip: Mapping[str, Any]  # soc_model, vtcm_mb
    binaries: Mapping[str, ContextInfo]  # by path in the bundle: the model's own


def contract_problems(made: Deployment) -> list[str]:
    """One sentence for everything that Genie would take wrongly."""
    try:
        return [*_config(made), *_binaries(made), *_graphs(made)]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        return [f"genie_config.json is not as edgec writes it: {type(error).__name__}: {error}"]


def _config(made: Deployment) -> Iterator[str]:
    """The numbers of the config beside the model's own."""
    dialog, arch = made.config["dialog"], made.arch
    context, engine = dialog["context"], dialog["engine"]
    yield from _kinds(dialog["type"], engine)
    if engine["backend"]["QnnHtp"].get("kv-dim") != arch["head_dim"]:
        stated = engine["backend"]["QnnHtp"].get("kv-dim")
        yield f"`kv-dim` is {stated}, the model's heads have {arch['head_dim']} numbers"
    yield from _angles(engine["model"].get("positional-encoding"), arch["rope"], arch["head_dim"])
    if context["n-vocab"] != arch["vocab"]:
        yield f"`n-vocab` is {context['n-vocab']}, the model has {arch['vocab']} tokens"
    yield from _special_tokens(made, context)
    tokenizer = f"{made.tokenizer['directory']}/tokenizer.json"
    path = _resolved(made.folder, dialog["tokenizer"]["path"])
    if path not in made.files or made.files[path] != made.files.get(tokenizer):
        yield f"its tokenizer is `{path}`, the model's is `{tokenizer}`"


def _kinds(dialog: str, engine: Mapping[str, Any]) -> Iterator[str]:
    """What is run by what: another kind of dialog wants a draft, another kind of model or backend other files."""
    angles = engine["model"].get("positional-encoding", {"type": "rope"})
    for what, stated, own in (
        ("dialog", dialog, "basic"),
        ("backend", engine["backend"]["type"], "QnnHtp"),
        ("model", engine["model"]["type"], "binary"),
        ("positional encoding", angles.get("type"), "rope"),
    ):
        if stated != own:
            yield f"the {what} is of type `{stated}`, this model is for `{own}`"


def _angles(stated: Mapping[str, Any] | None, rope: Mapping[str, Any], dims: int) -> Iterator[str]:
    """Genie computes cos and sin itself, of what the config states."""
    if stated is None:
        yield "the config states no `positional-encoding`, so Genie takes a `rope-theta` of 10000"
        return
    if stated["rope-theta"] != rope["theta"]:
        yield f"`rope-theta` is {stated['rope-theta']:g}, the model's is {rope['theta']:g}"
    if stated["rope-dim"] != dims // 2:
        yield f"`rope-dim` is {stated['rope-dim']}, half of the model's heads of {dims} are {dims // 2}"
    kind = stated.get("rope-scaling", {}).get("rope-type", "default")
    if kind != rope["kind"]:
        yield f"the angles are scaled as `{kind}`, the model's as `{rope['kind']}`"
    elif kind in SCALINGS:
        made, own = stated_rope(stated).inverse_frequencies(dims), rope["inverse_frequencies"]
        alike = len(own) == len(made) and all(map(_close, own, made))
        if not alike and stated["rope-theta"] == rope["theta"]:
            yield "the frequencies that the config states are not the model's"
    if rope["attention_factor"] != 1.0:
        yield f"the model's cos and sin are times {rope['attention_factor']:g}, which Genie leaves out"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_CLOSE)


def _special_tokens(made: Deployment, context: Mapping[str, Any]) -> Iterator[str]:
    """Genie puts the BOS token in front of every prompt, unless it is -1, and stops at the EOS tokens."""
    facts, bos = made.tokenizer, context["bos-token"]
    wished = facts["bos"] if facts["add_bos"] else -1
    if bos != wished:
        said = "opens no prompt with one, which is -1" if wished == -1 else f"opens a prompt with {wished}"
        yield f"`bos-token` is {bos}, the model's tokenizer {said}"
    stated = context["eos-token"] if isinstance(context["eos-token"], list) else [context["eos-token"]]
    ends = list(facts["eos"]) or [-1]
    if sorted(stated) != sorted(ends):
        yield f"`eos-token` is {stated}, the model ends a text with {ends}"


def _resolved(folder: str, path: str) -> str:
    """A path in the config as one in the bundle; absolute ones stay."""
    parts: list[str] = []
    for part in PurePosixPath(folder, path).parts:
        if part == ".." and parts:
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _binaries(made: Deployment) -> Iterator[str]:
    """Which files the config names, and the chip that they are for."""
    named = [_resolved(made.folder, name) for name in made.config["dialog"]["engine"]["model"]["binary"]["ctx-bins"]]
    for file in dict.fromkeys(named):
        if file not in made.files:
            yield f"`ctx-bins` names `{file}`, which is not in the bundle"
        if named.count(file) > 1:
            yield f"`ctx-bins` names `{file}` {named.count(file)} times"
    for file in made.binaries:
        if file not in named:
            yield f"`ctx-bins` does not name `{file}`, which holds a part of the model"
    soc, vtcm = made.chip["soc_model"], made.chip["vtcm_mb"] << 20
    for file, info in made.binaries.items():
        if info.soc_model != soc:
            yield f"`{file}` is for SoC {info.soc_model}, the deployment for {soc}"
        for name, size in info.vtcm_bytes.items():
            if size is not None and size != vtcm:
                yield f"graph `{name}` takes {size >> 20} MB of VTCM, the others of this chip {vtcm >> 20} MB"


def _graphs(made: Deployment) -> Iterator[str]:
    graphs = {name: graph for info in made.binaries.values() for name, graph in info.graphs.items()}
    if sum(len(info.graphs) for info in made.binaries.values()) != len(graphs):
        yield "two graphs have one name"
    shards = len(made.binaries) > 1
    shapes: dict[tuple[int, int], str] = {}  # of graphs that read ids
    chains: dict[tuple[int, int], dict[str, GraphSpec]] = {}
    for name, graph in graphs.items():
        inputs = {spec.name: spec for spec in graph.inputs}
        if MASK not in inputs or (IDS not in inputs and not (shards and _between(inputs))):
            missing = IDS if IDS not in inputs else MASK
            yield f"graph `{name}` has no input `{missing}`"
            continue
        tokens = inputs[IDS].shape[-1] if IDS in inputs else inputs[MASK].shape[-2]
        context = inputs[MASK].shape[-1]
        if IDS in inputs and (tokens, context) in shapes:
            yield f"graphs `{shapes[tokens, context]}` and `{name}` both take {tokens} tokens of {context} positions"
        if IDS in inputs:
            shapes.setdefault((tokens, context), name)
        chains.setdefault((tokens, context), {})[name] = graph
        yield from (f"graph `{name}`: {what}" for what in _tensors(graph, tokens, context, made.arch, shards))
    for (tokens, _), chain in chains.items() if shards else ():
        yield from (f"shards of {tokens} tokens: {what}" for what in _chain(chain, made.arch))
    largest = max((context for _, context in chains), default=0)
    stated = made.config["dialog"]["context"]["size"]
    if stated != largest:
        yield f"`size` of the context is {stated}, the largest graph holds {largest} positions"
    yield from _same_in_all(graphs)


def _between(tensors: Iterable[str]) -> list[str]:
    """Names of tensors that go from shard to shard."""
    return [name for name in tensors if name not in (IDS, MASK, COS, SIN, LOGITS) and not kv_names.is_cache(name)]


def _chain(graphs: Mapping[str, GraphSpec], arch: Mapping[str, Any]) -> Iterator[str]:
    """The shards of one bucket, which Genie runs in the order of their names."""
    order = sorted(graphs)
    made: dict[str, TensorSpec] = {}
    for name in order:
        for spec in graphs[name].inputs:
            if spec.name not in _between([spec.name]):
                continue
            if spec.name not in made:
                yield f"`{name}` reads `{spec.name}`, which no graph makes whose name sorts before it"
            elif (made[spec.name].dtype, made[spec.name].shape) != (spec.dtype, spec.shape):
                yield f"`{name}` reads `{spec.name}` as {_described(spec)}, it is {_described(made[spec.name])}"
        made |= {spec.name: spec for spec in graphs[name].outputs}
    if IDS not in {spec.name for spec in graphs[order[0]].inputs}:
        yield f"`{order[0]}`, the first by its name, has no input `{IDS}`"
    if LOGITS not in {spec.name for spec in graphs[order[-1]].outputs}:
        yield f"`{order[-1]}`, the last by its name, has no output `{LOGITS}`"
    held = {spec.name for graph in graphs.values() for spec in (*graph.inputs, *graph.outputs)}
    for layer, kind, direction in product(range(arch["layers"]), kv_names.KINDS, (kv_names.IN, kv_names.OUT)):
        if (name := kv_names.format(kind, layer, direction)) not in held:
            yield f"the cache has no `{name}`"


def _tensors(
    graph: GraphSpec, tokens: int, context: int, arch: Mapping[str, Any], shard: bool = False
) -> Iterator[str]:
    """One graph beside what Genie fills and reads; `shard`: it is one of several that make the model."""
    inputs = {spec.name: spec for spec in graph.inputs}
    outputs = {spec.name: spec for spec in graph.outputs}
    half = arch["head_dim"] // 2
    if IDS in inputs:
        yield from _shaped(inputs[IDS], (1, tokens), "ids")
        if inputs[IDS].dtype != "int32":
            yield f"`{IDS}` is {inputs[IDS].dtype}, Genie writes int32"
    yield from _shaped(inputs[MASK], (1, 1, tokens, context), "a mask")
    yield from _mask_values(inputs[MASK])
    for name in (COS, SIN):
        if name not in inputs:
            yield f"it has no input `{name}`, so its angles are not Genie's"
            continue
        yield from _shaped(inputs[name], (1, 1, tokens, half), "angles")
        low, high = _ends(inputs[name])
        if low > -0.999 or high < 0.999:
            yield f"`{name}` holds {low:.3g} to {high:.3g}, a cosine -1 to 1"
    if LOGITS not in outputs and not shard:
        yield f"it has no output `{LOGITS}`"
    elif LOGITS in outputs:
        yield from _logits(outputs[LOGITS], tokens, arch["vocab"])
    yield from _cache(inputs, outputs, tokens, context, arch, shard)
    for name in () if shard else _between(inputs):
        yield f"Genie fills no input `{name}`"


def _shaped(spec: TensorSpec, shape: tuple[int, ...], what: str) -> Iterator[str]:
    if spec.shape != shape:
        yield f"`{spec.name}` is {list(spec.shape)}, {what} of this graph {list(shape)}"


def _logits(spec: TensorSpec, tokens: int, vocab: int) -> Iterator[str]:
    rows = math.prod(spec.shape) // vocab if vocab else 0
    if math.prod(spec.shape) != rows * vocab:
        yield f"`{LOGITS}` {list(spec.shape)} are no rows of {vocab} tokens"
    elif rows != tokens:
        yield f"`{LOGITS}` has {rows} rows for {tokens} tokens"
    if spec.dtype in _RANGES and "scale" not in (spec.quantization or {}):
        yield f"`{LOGITS}` is {spec.dtype} without a scale"


def _ends(spec: TensorSpec) -> tuple[float, float]:
    """The least and the largest number a tensor can hold."""
    found, encoding = _RANGES.get(spec.dtype), spec.quantization
    if found is None or not encoding or "scale" not in encoding:
        return -math.inf, math.inf
    low, high = (encoding["scale"] * (end + encoding["offset"]) for end in found)
    return low, high


def _mask_values(spec: TensorSpec) -> Iterator[str]:
    """In floats Genie writes 0 and -1000; in integers the largest number for an open position, the least for others."""
    low, high = _ends(spec)
    if spec.dtype == "float16" or spec.dtype == "float32":
        return
    if not spec.quantization:
        yield f"`{MASK}` is {spec.dtype} without a scale"
    elif abs(high) > 1e-3 * max(1.0, abs(low)):
        yield f"an open position of `{MASK}` counts {high:.3g}, not 0"
    elif low > -_DEEP:
        yield f"a masked position of `{MASK}` counts {low:.3g}, which is not below every score"


def _cache(
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    tokens: int,
    context: int,
    arch: Mapping[str, Any],
    shard: bool,
) -> Iterator[str]:
    heads, dims, past = arch["kv_heads"], arch["head_dim"], context - tokens
    shapes: dict[tuple[kv_names.Kind, kv_names.Direction], tuple[int, ...]] = {
        (kv_names.KEY, kv_names.IN): (heads, 1, dims, past),
        (kv_names.VALUE, kv_names.IN): (heads, 1, past, dims),
        (kv_names.KEY, kv_names.OUT): (heads, 1, dims, tokens),
        (kv_names.VALUE, kv_names.OUT): (heads, 1, tokens, dims),
    }
    for layer in range(arch["layers"]):
        for (kind, direction), shape in shapes.items():
            name = kv_names.format(kind, layer, direction)
            spec = (inputs if direction == kv_names.IN else outputs).get(name)
            if spec is None and not shard:
                yield f"the cache has no `{name}`"
            elif spec is None:  # another shard may hold this layer
                continue
            else:
                yield from _shaped(spec, shape, "the cache")
    extra = [name for name in inputs if (found := kv_names.parse(name)) is not None and found.layer >= arch["layers"]]
    if extra:
        yield f"the cache has `{extra[0]}`, the model {arch['layers']} layers"


def _same_in_all(graphs: Mapping[str, GraphSpec]) -> Iterator[str]:
    """What one graph adds to the cache another one reads: types and scales have to be the same everywhere."""
    seen: dict[str, tuple[str, TensorSpec]] = {}
    told: set[str] = set()
    for graph, spec in ((name, spec) for name, own in graphs.items() for spec in (*own.inputs, *own.outputs)):
        cached = kv_names.parse(spec.name)
        if cached is None and spec.name not in (MASK, COS, SIN):
            continue
        key = spec.name if cached is None else kv_names.STEMS[cached.kind].format(layer=cached.layer)
        first, other = seen.setdefault(key, (graph, spec))
        if key not in told and not _read_alike(spec, other):
            told.add(key)
            what = f"`{spec.name}` of graph `{graph}`" if spec.name != other.name else f"`{spec.name}` in `{graph}`"
            yield f"{what} is {_described(spec)}, `{other.name}` of `{first}` {_described(other)}"


def _read_alike(one: TensorSpec, other: TensorSpec) -> bool:
    if one.dtype != other.dtype:
        return False
    a, b = one.quantization or {}, other.quantization or {}
    return math.isclose(a.get("scale", 0.0), b.get("scale", 0.0), rel_tol=1e-6) and a.get("offset") == b.get("offset")


def _described(spec: TensorSpec) -> str:
    encoding = spec.quantization or {}
    scaled = f" of scale {encoding['scale']:.6g} and offset {encoding['offset']}" if "scale" in encoding else ""
    return f"{spec.dtype}{scaled}"
