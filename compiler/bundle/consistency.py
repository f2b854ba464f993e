"""Whether a manifest's values fit each other: everything a runner would size a loop, a buffer or a shape by.

The schema says what each value may be alone. A manifest comes from whoever made the bundle, so before anything of it is
used each count is compared with what states it a second time: layers with the K/V tensors of the graphs, context and
tokens with their shapes, the vocabulary with the logits, files with `files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..ir import kv_names
from .schedule import Schedule

_AXES = {"kv_heads", "position", "head_dim"}
_OWN = ("manifest.json", "manifest.sha256", "actions.html")  # of a bundle, beside what `files` lists


def contradictions(data: Mapping[str, Any]) -> list[str]:
    """One sentence for each value that another one contradicts; `data` follows the schema."""
    return [*_packed(data), *_parts(data), *_tokenizers(data), *_speculation(data), *_models(data)]


def unlisted(data: Mapping[str, Any]) -> list[str]:
    """One sentence for each file that a part or a tokenizer is in and `files` does not vouch for."""
    packed = (data.get("packed") or {}).get("files", {})
    listed = {*data["files"], *packed}
    found = [
        f"`{name}` is packed in `{entry['file']}`, which `files` does not list"
        for name, entry in packed.items()
        if entry["file"] not in data["files"]
    ]
    if packed and data["packed"]["reader"] not in data["files"]:
        found.append(f"`{data['packed']['reader']}` restores packed files, and `files` does not list it")
    for name, part in data["parts"].items():
        forms = [part, *part.get("chips", {}).values()]
        named = [file for one in forms for file in (one["file"], *_graph_files(one))]
        found += [
            f"part `{name}` is in `{file}`, which `files` does not list"
            for file in dict.fromkeys(named)
            if file not in listed
        ]
    for name, entry in data["tokenizers"].items():
        if f"{entry['directory']}/tokenizer.json" not in data["files"]:
            found.append(f"tokenizer `{name}` is in `{entry['directory']}`, of which `files` lists no tokenizer.json")
    return found


def _graph_files(part: Mapping[str, Any]) -> list[str]:
    return [graph.get("file", part["file"]) for graph in part["graphs"].values()]


def _packed(data: Mapping[str, Any]) -> Iterator[str]:
    packed = data.get("packed") or {"files": {}}
    sources = [entry["file"] for entry in packed["files"].values()]
    if len(set(sources)) < len(sources):
        yield "two files are packed in one"
    taken = {*data.get("files", {}), *sources, *_OWN}
    for name in packed["files"]:
        if name in taken or any(other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in taken):
            yield f"`{name}` is to be restored where something else is"


def _parts(data: Mapping[str, Any]) -> Iterator[str]:
    for name, part in data["parts"].items():
        if part["model"] not in data["models"]:
            yield f"part `{name}` belongs to a model `{part['model']}` that is not there"
        yield from _chips(name, part, {device["name"] for device in data["devices"]})
        for key, graph in part["graphs"].items():
            for side in ("inputs", "outputs"):
                names = [spec["name"] for spec in graph[side]]
                if len(set(names)) < len(names):
                    yield f"graph `{key}` of part `{name}` names one of its {side} twice"


def _signature(name: str, model: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[str]:
    """What a plain graph says it gives is made in every bucket, or is an input as it stands."""
    sides = {side: [spec["name"] for spec in model.get(side, ())] for side in ("inputs", "outputs")}
    for side, names in sides.items():
        if len(set(names)) < len(names):
            yield f"model `{name}` names one of its {side} twice"
    for key in {key for part in parts.values() for key in part["graphs"]} if sides["outputs"] else ():
        graphs = [part["graphs"][key] for part in parts.values() if key in part["graphs"]]
        made = {spec["name"] for graph in graphs for spec in graph["outputs"]} | set(sides["inputs"])
        if lacking := [one for one in sides["outputs"] if one not in made]:
            yield f"no part of model `{name}` makes its output `{lacking[0]}` in `{key}`"


def _chips(name: str, part: Mapping[str, Any], built: set[str]) -> Iterator[str]:
    """A part with files for each chip has them for every device of the bundle, of the same buckets."""
    chips = part.get("chips")
    if chips is None:
        return
    if set(chips) != built:
        yield f"part `{name}` has files for {sorted(chips)}, the bundle is for {sorted(built)}"
    for chip, own in chips.items():
        if set(own["graphs"]) != set(part["graphs"]):
            yield f"part `{name}` has other graphs on `{chip}` than by itself"


def _tokenizers(data: Mapping[str, Any]) -> Iterator[str]:
    for name, model in data["models"].items():
        if (tokenizer := model.get("tokenizer")) is not None and tokenizer not in data["tokenizers"]:
            yield f"model `{name}` names the tokenizer `{tokenizer}`, which is not there"


def _speculation(data: Mapping[str, Any]) -> Iterator[str]:
    pair = data["speculation"]
    if pair is None:
        return
    for role in ("draft", "target"):
        model = data["models"].get(pair[role])
        if model is None:
            yield f"the {role} of the speculation, `{pair[role]}`, is not there"
        elif model["kind"] != "decoder":
            yield f"the {role} of the speculation, `{pair[role]}`, is no language model"
    yield from _rounds(pair, data["models"].get(pair["target"]))
    if pair["draft"] == pair["target"]:
        yield f"the speculation has `{pair['draft']}` as draft and as target"


def _rounds(pair: Mapping[str, Any], target: Mapping[str, Any] | None) -> Iterator[str]:
    """A tree holds its longest path and goes through one call of a chain of parts."""
    tree = pair.get("tree", 0)
    if tree and tree < pair["k"]:
        yield f"a tree of {tree} tokens has no room for paths of {pair['k']}"
    if tree and target is not None:
        sizes = [bucket["tokens"] for bucket in target.get("buckets", [])]
        if target["engine"] != "chain":
            yield f"`{pair['target']}` cannot verify a tree in the engine `{target['engine']}`"
        elif None not in sizes and max(sizes, default=0) <= tree:
            yield f"a tree of {tree} tokens and the one before it fit no bucket of `{pair['target']}`"
    lanes = pair.get("overlap", {}).get("lanes")
    if lanes is not None and set(lanes) != {pair["draft"], pair["target"]}:
        yield "the lanes of the speculation are not those of its draft and target"


def _models(data: Mapping[str, Any]) -> Iterator[str]:
    for name, model in data["models"].items():
        parts = {key: part for key, part in data["parts"].items() if part["model"] == name}
        if not parts:
            yield f"model `{name}` has no part"
            continue
        yield from _signature(name, model, parts)
        chained = model["engine"] == "chain"
        decoder = model["kind"] == "decoder"
        if decoder and model.get("arch") is None:
            yield f"model `{name}` is a decoder without `arch`"
            continue
        if decoder and (why := _rope(model["arch"])) is not None:
            yield f"model `{name}`: {why}"
        if decoder and chained and not model.get("kv"):
            yield f"model `{name}` is a chain of decoder parts without `kv`"
            continue
        buckets = model.get("buckets", [])
        if decoder and chained and not buckets:
            yield f"model `{name}` is a chain of decoder parts without buckets"
        yield from _layout(name, model, data)
        yield from _buckets(name, model, parts, buckets)
        if not decoder and not buckets:
            yield from (
                f"part `{key}` of `{name}` has no graph `main`"
                for key, part in parts.items()
                if "main" not in part["graphs"]
            )


def _layout(name: str, model: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    """The index of weights lies within its file, on pages, and its kinds do not overlap."""
    layout = model.get("layout")
    if layout is None:
        return
    packed = (data.get("packed") or {}).get("files", {})
    listed = packed.get(layout["file"]) or data["files"].get(layout["file"])
    if listed is None:
        yield f"`files` does not list `{layout['file']}`, which the weights of `{name}` are laid out in"
        return
    end = 0
    for kind in layout["kinds"]:
        rows = [(row["offset"], row["bytes"]) for row in kind["tensors"]]
        inside = all(kind["offset"] <= at and at + size <= kind["offset"] + kind["bytes"] for at, size in rows)
        if kind["offset"] < end or not inside or any(at % layout["page"] for at, _ in rows):
            yield f"the layout of `{name}` has `{kind['kind']}` where something else is"
        end = kind["offset"] + kind["bytes"]
    if end > listed["size"]:
        yield f"the layout of `{name}` reaches beyond `{layout['file']}`"


def _rope(arch: Mapping[str, Any]) -> str | None:
    frequencies = len(arch["rope"]["inverse_frequencies"])
    if 2 * frequencies > arch["head_dim"]:
        return f"{frequencies} rotary frequencies do not fit heads of {arch['head_dim']}"
    if arch["heads"] % arch["kv_heads"]:
        return f"{arch['heads']} heads do not divide into {arch['kv_heads']} of K/V"
    return None


def _buckets(
    name: str, model: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], buckets: list[Mapping[str, Any]]
) -> Iterator[str]:
    if len({bucket["name"] for bucket in buckets}) < len(buckets):
        yield f"two buckets of `{name}` have one name"
    for bucket in buckets:
        missing = [part for part in bucket["parts"] if bucket["name"] not in parts.get(part, {}).get("graphs", {})]
        if missing:
            yield f"bucket `{bucket['name']}` of `{name}` needs a graph of part `{missing[0]}` that is not there"
            continue
        wrong = list(Schedule.of_bucket(bucket).problems())
        if model["kind"] == "decoder" and model["engine"] == "chain":
            wrong += _decoder_bucket(model, bucket, {part: parts[part] for part in bucket["parts"]})
        yield from (f"bucket `{bucket['name']}` of `{name}` cannot run: {problem}" for problem in wrong)


def _decoder_bucket(
    model: Mapping[str, Any], bucket: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """What the tensors of a bucket's graphs say against the model's sizes."""
    arch, tokens, context = model["arch"], bucket["tokens"], bucket["context"]
    if (tokens is None) != (context is None):
        yield "one of `tokens` and `context` is a number, the other is not"
        return
    if tokens is not None and not tokens < context <= arch["context"]:
        yield f"{tokens} tokens and {context} positions do not fit a context of {arch['context']}"
        return
    graphs = [part["graphs"][bucket["name"]] for part in parts.values()]
    inputs = {spec["name"]: spec for graph in graphs for spec in graph["inputs"]}
    outputs = {spec["name"]: spec for graph in graphs for spec in graph["outputs"]}
    if "input_ids" not in inputs:
        yield "no part reads `input_ids`"
    yield from _logits(outputs.get("logits"), arch, tokens)
    kinds = {stem.removesuffix("_in"): part for part in parts.values() for stem in _cache_inputs(part, bucket["name"])}
    names = model["kv"].get("names", kv_names.STEMS)
    if len(kinds) != 2 * arch["layers"]:  # before a loop over layers: their number may be anything
        yield f"its graphs read {len(kinds)} K/V tensors, {arch['layers']} layers have {2 * arch['layers']}"
        return
    for layer in range(arch["layers"]):
        for kind in kv_names.KINDS:
            stem = names[kind].replace("{layer}", str(layer))
            if stem not in kinds or f"{stem}_out" not in outputs:
                yield f"no part reads `{stem}_in`, or none makes `{stem}_out`"
                return
            kv = kinds[stem].get("kv", model["kv"])
            yield from _cache(
                f"{stem}_in", inputs[f"{stem}_in"], kv["layout"][kind], arch, (context or 0) - (tokens or 0),
                kv.get("row_bytes") or arch["head_dim"],
            )  # fmt: skip


def _cache_inputs(part: Mapping[str, Any], bucket: str) -> list[str]:
    """K/V inputs of a graph: those it, or another part, makes anew under `_out`."""
    return [spec["name"] for spec in part["graphs"][bucket]["inputs"] if kv_names.is_cache(spec["name"])]


def _logits(spec: Mapping[str, Any] | None, arch: Mapping[str, Any], tokens: int | None) -> Iterator[str]:
    if spec is None:
        yield "no part makes `logits`"
        return
    sizes = [size for size in spec["shape"] if isinstance(size, int)]
    count = 1
    for size in sizes:
        count *= size
    if len(sizes) == len(spec["shape"]) and count != (tokens or 1) * arch["vocab"]:
        yield f"`logits` of shape {spec['shape']} are not {tokens} rows of a vocabulary of {arch['vocab']}"


def _cache(
    name: str, spec: Mapping[str, Any], axes: list[str], arch: Mapping[str, Any], capacity: int, width: int
) -> Iterator[str]:
    if set(axes) - {"batch"} != _AXES or len(axes) != len(spec["shape"]):
        yield f"`{name}` of shape {spec['shape']} has the axes {axes}"
        return
    sizes = {"batch": 1, "kv_heads": arch["kv_heads"], "head_dim": width, "position": capacity}
    for axis, size in zip(axes, spec["shape"], strict=True):
        if isinstance(size, int) and size != sizes[axis] and not (axis == "position" and capacity == 0):
            yield f"`{name}` has {size} values along {axis}, the manifest says {sizes[axis]}"
