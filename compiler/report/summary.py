"""The top of the report: what was compiled for what, whether it holds, and the figures one asks for first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.wording import join_or
from .markup import code, escape, prose, section, size, table, written
from .plots import stack
from .weights import by_kind, bytes_per_token, kind_of, mean_bits

if TYPE_CHECKING:
    from ..compile.requirements import Measured
    from ..plan.devices import Device
    from ..plan.plan import Plan


def header(plan: Plan, measured: Measured, manifest: Mapping[str, Any], total: int) -> str:
    """Plan, device and verdict, then a card for the bundle and one for each model."""
    rows = measured.requires
    broken = sum(not row["holds"] for row in rows)
    verdict = ""
    if broken:
        verdict = f"<p class='verdict bad'>✗ rejected: {broken} of {len(rows)} requirements do not hold</p>"
    elif rows:
        said = f"all {len(rows)} requirements hold" if len(rows) > 1 else "what is required holds"
        verdict = f"<p class='verdict good'>✓ {said}</p>"
    device = plan.devices[0]
    chip = join_or([_chip(one) for one in plan.devices], "and")
    cards = [_bundle(plan, manifest, total)]
    cards += [_model(name, entry, measured, manifest, device) for name, entry in manifest["models"].items()]
    return (
        f"<header><p class=eyebrow>edgec report</p><h1>{escape(plan.name)}</h1>"
        f"<p class=lead>compiled for {escape(chip)}</p>{verdict}<div class=cards>{''.join(cards)}</div></header>"
    )


def _chip(device: Device) -> str:
    return device.marketing + (f" ({device.sm}, HTP {device.arch})" if device.arch else "")


def _card(title: str, lead: str, figures: Sequence[tuple[str, str, str]]) -> str:
    rows = "".join(
        f"<div><dt>{escape(what)}</dt><dd><b>{escape(value)}</b>{f' <small>{note}</small>' if note else ''}</dd></div>"
        for what, value, note in figures
    )
    return f"<article><h2>{title}</h2><p class=quiet>{lead}</p><dl>{rows}</dl></article>"


def _bundle(plan: Plan, manifest: Mapping[str, Any], total: int) -> str:
    sources = {
        name: sum(file["size"] for file in given["files"].values()) for name, given in manifest["inputs"].items()
    }
    parts = len(manifest["parts"])
    floats = sum(2.0 * _weights(plan, name, entry) for name, entry in manifest["models"].items())
    figures = [("size on disk", size(total), "")]
    if floats:
        figures.append(("its weights as float16", size(floats), f"{floats / total:.2f} times the bundle"))
    figures.append(("the models' own files", size(sum(sources.values())), ""))
    figures.append(("parts", str(parts), f"in {len(manifest['models'])} model{'s' * (len(manifest['models']) > 1)}"))
    if (pair := manifest["speculation"]) is not None:
        how = "greedily" if pair["accept"] == "greedy" else "by sampling"
        drafts = f"{code(pair['draft'])} for {code(pair['target'])}, accepted {how}"
        form = f"{pair['tree']} tokens, a tree" if "tree" in pair else f"{pair['k']} tokens"
        figures.append(("drafted a round", form, drafts + (", beside its rounds" if "overlap" in pair else "")))
    for name, entry in manifest["models"].items():
        if (active := entry.get("active")) is not None:
            note = f"{code(name)} in the channels that a token keeps, of {size(active['bytes_per_token'])}"
            if active["whole"]:
                cost = 100 * (active["perplexity"] / active["whole"] - 1)
                note += f"; perplexity {active['perplexity']:.2f} instead of {active['whole']:.2f}, {cost:.1f} % more"
            figures.append(("read a token", size(active["active_bytes_per_token"]), note))
        if (layout := entry.get("layout")) is not None:
            note = f"{code(name)}, kinds of weights beside each other in pages of {layout['page']} bytes"
            figures.append(("order of weights", layout["order"], note))
    return _card("Bundle", escape(f"from {plan.path.name}"), figures)


def _weights(plan: Plan, name: str, entry: Mapping[str, Any]) -> int:
    """How many weights the source has: a head that a pass untied from its embedding is not counted again."""
    counts = {kind: count for kind, (count, _) in by_kind(entry).items()}
    arch = plan.models[name].arch
    if arch is not None and arch.tied and len(counts) > 1:
        counts.pop(kind_of("lm_head"), None)
    return sum(counts.values())


def _model(name: str, entry: Mapping[str, Any], measured: Measured, manifest: Mapping[str, Any], device: Device) -> str:
    deploy, arch = entry["deploy"], entry.get("arch")
    figures = [("size", size(entry["bytes"]), "")]
    if entry["weights"]:
        count = sum(number for number, _ in by_kind(entry).values())
        figures.append(("bits per weight", f"{mean_bits(entry):.2f}", f"over {count / 1e6:,.1f} M weights"))
    value, base = measured.perplexity.get(name), measured.baseline.get(name)
    if value and base:
        judged = f", {prose(str(measured.judged[name]))}" if name in measured.judged else ""
        figures.append(("perplexity", f"{value:.4f}", f"{value / base:.4f} of the float model's {base:.4f}{judged}"))
    elif arch is not None:
        figures.append(("perplexity", "not measured", "the plan has no <code>evaluation</code>"))
    if held := manifest["memory"][name]["kv"]:
        context = f"for {arch['context']:,} tokens" if arch is not None else ""
        figures.append(("K/V cache", size(max(held.values())), context))
    if arch is not None and device.bandwidth_gbs and entry["weights"]:
        read = bytes_per_token(entry)
        note = f"{size(read)} of weights a token at {device.bandwidth_gbs:g} GB/s: a bound, nothing measured"
        figures.append(("memory lets through", f"{device.bandwidth_gbs * 1e9 / read:,.0f} tok/s", note))
    what = f"{arch['family']}, {arch['layers']} layers" if arch is not None else "an ONNX graph"
    role = "" if entry["role"] == "model" else f"{entry['role']}, "
    lead = f"{role}{what}, <b>{escape(deploy['target'])}</b> on the {escape(deploy['device'].upper())}"
    return _card(code(name), lead, figures)


def requirements(measured: Measured) -> str:
    """Each `require` line with its verdict, its figures and how near the bound it is."""
    rows = []
    for row in measured.requires:
        verdict = "<span class=good>✓ holds</span>" if row["holds"] else "<span class=bad>✗ does not hold</span>"
        bound = row["bound"] * (row["baseline"] if row["relative"] else 1.0)
        share = row["measured"] / bound if bound else 0.0
        kind = "good" if row["holds"] else "bad"
        meter = f"<span class='bar meter {kind}'><i style='--w:{100 * min(share, 1.0):.1f}%'></i></span>"
        figure = f"{meter} <small>{100 * share:.1f} % of the bound</small>"
        rows.append(
            f"<li>{verdict} {code(row['line'])}<span class=quiet>measured {escape(row['text'])}</span>{figure}</li>"
        )
    return section("Requirements", f"<ul class=requires>{''.join(rows)}</ul>" if rows else "")


def sizes(manifest: Mapping[str, Any], directory: Path, total: int) -> str:
    """What the bundle's bytes are: kinds of weights of each model, and its largest files."""
    several = len(manifest["models"]) > 1
    kinds: list[tuple[str, float]] = []
    for name, entry in manifest["models"].items():
        before = f"{name}: " if several else ""
        own = [(f"{before}{kind}", stored) for kind, (_, stored) in by_kind(entry).items()]
        kinds += own
        rest = entry["bytes"] - sum(stored for _, stored in own)
        kinds.append((f"{before}norms, graphs, copies", max(rest, 0.0)))
    kinds.append(("tokenizer and the rest", max(total - sum(value for _, value in kinds), 0.0)))
    kinds = [(name, value) for name, value in kinds if value >= 0.001 * total]
    blocks = ["<h3>By kind of weight</h3>", _shares("bytes by kind of weight", kinds)]
    files = sorted(_files(directory), key=lambda file: -file[1])
    readers: dict[str, list[str]] = {}
    for name, part in manifest["parts"].items():
        for file in {part["file"], *(graph.get("file", part["file"]) for graph in part["graphs"].values())}:
            readers.setdefault(file, []).append(name)
    shown = [(f"{name} ({', '.join(readers[name][:2])})" if name in readers else name, count) for name, count in files]
    large = [(name, count) for name, count in shown if count >= 0.01 * total][:6]
    left = total - sum(count for _, count in large)
    if left >= 0.001 * total:
        large.append((f"{len(shown) - len(large)} more files", left))
    blocks += ["<h3>By file</h3>", _shares("bytes by file", large)]
    return section("Sizes", *blocks)


def _files(directory: Path) -> list[tuple[str, float]]:
    found = [path for path in directory.rglob("*") if path.is_file() and path.parent != directory]
    return [(path.relative_to(directory).as_posix(), float(path.stat().st_size)) for path in sorted(found)]


def _shares(title: str, shares: Sequence[tuple[str, float]]) -> str:
    return stack(title, shares, [size(value) for _, value in shares])


def settings(plan: Plan) -> str:
    """The values of the lets, those from `-D` marked."""
    rows = [
        [code(name), code(written(value)), "from <code>-D</code>" if name in plan.overridden else ""]
        for name, value in plan.defines.items()
    ]
    return table("values of the plan's lets", ["let", "value", ""], rows)
