"""Genie, Qualcomm's own runtime for language models: its configuration for a bundle, and a run of it on this machine.

Genie reads the same context binary by its tensor names. On a phone it loads the shared binary; here it loads the
unshared twins, in a worker process, and has to generate what our runner generates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....compiler.emit.child_process import Child
from ....compiler.ir import kv_names
from ....compiler.ir.rope import RopeSpec
from ....compiler.sources.tokenizer.tokenizer_file import opens_with

if TYPE_CHECKING:
    from ....compiler.emit.target import EmitJob
    from ....compiler.ir.decoder_arch import DecoderArch
    from ..htp.compile import Compiled

CONFIG = "genie_config.json"
WORKER = "edgec.targets.qnn.genie.driver"
# kinds of scaled angles that Genie was seen to compute as we do: its word for each parameter, and ours
SCALINGS: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low-freq-factor": "low_frequency_factor",
        "high-freq-factor": "high_frequency_factor",
        "original-max-position-embeddings": "original_positions",
    },
}
_NEEDED = {"input_ids", "attention_mask", "position_ids_cos", "position_ids_sin"}


def write_config(job: EmitJob, contexts: Sequence[Compiled]) -> str | None:
    """Write `genie_config.json` beside the binary; why not, where Genie could not run this model.

    `contexts`: in the order they run in, of one chip, or each a file for several.

    Paths in it are relative to its folder: Genie is started there.
    """
    arch = job.module.arch
    graphs = [graph for compiled in contexts for graph in compiled.info.graphs.values()]
    if arch is None:
        return "it is no decoder"
    inputs = {spec.name for graph in graphs for spec in graph.inputs}
    outputs = {spec.name for graph in graphs for spec in graph.outputs}
    elsewhere = {name for name in inputs - outputs - _NEEDED if not kv_names.is_cache(name)}
    if elsewhere or not (inputs >= _NEEDED and "logits" in outputs):
        return "a part of it runs on the CPU, which Genie has no place for"
    if arch.rope.kind not in SCALINGS:
        return f"Genie computes the angles itself, and its {arch.rope.kind} scaling was never compared with ours"
    context = max(spec.shape[-1] for g in graphs for spec in g.inputs if spec.name == "attention_mask")
    folder = contexts[0].binary.parent
    up = "../" * len(folder.relative_to(job.directory).parts)
    binaries = [compiled.binary.name for compiled in contexts]
    if job.tokenizer_source is None or job.tokenizer_folder is None:
        return "it has no tokenizer"
    opens = opens_with(job.tokenizer_source, arch.bos)
    made = config(arch, context, f"{up}{job.tokenizer_folder}/tokenizer.json", binaries, opens)
    (folder / CONFIG).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return None


def config(
    arch: DecoderArch, context: int, tokenizer: str, binaries: Sequence[str], add_bos: bool = True
) -> dict[str, Any]:
    """A greedy dialog over these binaries; `add_bos`: a prompt begins with the BOS token, which Genie then puts there.

    -1 stands for a token that there is none of.
    """
    tokens = {
        "bos-token": arch.bos if add_bos and arch.bos is not None else -1,
        "eos-token": list(arch.eos) or -1,
    }
    backend = {
        "version": 1,
        "type": "QnnHtp",
        "QnnHtp": {
            "version": 1,
            "use-mmap": False,
            "spill-fill-bufsize": 0,
            "mmap-budget": 0,
            "poll": False,
            "cpu-mask": "0xe0",
            "kv-dim": arch.head_dim,
            "allow-async-init": False,
        },
    }
    model = {
        "version": 1,
        "type": "binary",
        "binary": {"version": 1, "ctx-bins": list(binaries)},
        "positional-encoding": angles(arch.rope, arch.head_dim),
    }
    return {
        "dialog": {
            "version": 1,
            "type": "basic",
            "context": {"version": 1, "size": context, "n-vocab": arch.vocab, **tokens},
            "sampler": {"version": 1, "seed": 42, "temp": 1.0, "top-k": 1, "top-p": 1.0},
            "tokenizer": {"version": 1, "path": tokenizer},
            "engine": {"version": 1, "n-threads": 3, "backend": backend, "model": model},
        }
    }


def angles(rope: RopeSpec, head_dim: int) -> dict[str, Any]:
    """How Genie is told to compute cos and sin."""
    stated = {"type": "rope", "rope-dim": head_dim // 2, "rope-theta": rope.theta}
    scaling = {key: getattr(rope, name) for key, name in SCALINGS[rope.kind].items()}
    return stated | ({"rope-scaling": {"rope-type": rope.kind, **scaling}} if scaling else {})


def stated_rope(encoding: Mapping[str, Any]) -> RopeSpec:
    """The rotary embedding that a `positional-encoding` of a config describes: the inverse of `angles`."""
    scaling = encoding.get("rope-scaling", {})
    kind = scaling.get("rope-type", "default")
    values = {name: scaling[key] for key, name in SCALINGS[kind].items()}
    return RopeSpec(encoding["rope-theta"], kind, **values)


def generate(config: Mapping[str, Any], ids: Sequence[int], count: int) -> list[int]:
    """What Genie generates after `ids` on this machine; it puts the BOS token in front itself."""
    with Child(WORKER, what="Genie", timeout=600) as child:
        return child.call("generate", config=json.dumps(config), ids=list(ids), count=count)
