"""A decoder as an MNN-LLM bundle.

    config.json        how to run: files, backend, threads, memory mode, sampler
    llm_config.json    what it is: sizes, chat template, where the embedding lies
    llm.mnn            the graph (`lower.py`)
    llm.mnn.weight     every linear's integers and scales, byte for byte ours (`file/weight_blobs.py`)
    embeddings_bf16.bin   the embedding, unless it lies in the weight file (`embedding.py`)
    tokenizer.mtok     the tokenizer (`mtok.py`)

The module's float linears are stored as float16 (float32 where a value would overflow). Weights stream in blocks of
rows; models small enough for the oracle are run once in both engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, PlanError, fail
from ....compiler.files.atomic_swap import begin_sync
from ....compiler.files.noted_digest import hash_beside
from ....compiler.ir.annotations import ORDER
from ....compiler.ir.linears import Linear
from ....compiler.ir.module import constant
from ....compiler.ir.ordered_data import Place
from ....compiler.ir.weights import Weight
from ....compiler.sources.tokenizer.text_config import TextConfig, read_text_config
from ....compiler.sources.tokenizer.tokenizer_file import read_tokenizer
from ..check import no_tokenizer
from ..file.embedding import write_embedding
from ..file.order import order_by_kind
from ..file.read_back import check_linears
from ..file.weight_blobs import Blob
from ..run.bundle_config import MODEL as MODEL_FACTS
from ..run.bundle_config import MODEL_KEYS, RUN, RUN_KEYS, read_config
from ..run.engine import MnnLanguageModel
from ..tokenizer.agreement import check as check_tokenizer
from ..tokenizer.equivalents import reads_blanks_behind_tokens
from ..tokenizer.mtok import write_mtok
from .lower import DecoderLowering

if TYPE_CHECKING:
    from ....compiler.ir.module import Module

MODEL, WEIGHTS, TOKENIZER = "llm.mnn", "llm.mnn.weight", "tokenizer.mtok"
_SMALL = 1 << 24  # weights of a model that is run once as it is written: the oracle holds it whole
_BOUND = 0.02  # of the largest logit; float linears of float32 checkpoints are rounded to float16


@dataclass
class Bundle:
    """What was written: where and how each linear is stored, and notes for the user."""

    blobs: dict[str, Blob]
    linears: dict[str, Linear]  # what each blob was made from
    embedding: str
    notes: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)  # of each op's bytes in the weight file, where they are ordered


def emit_llm(module: Module, folder: Path, memory: str, threads: int) -> Bundle:
    """Write the bundle of `module` into `folder` and read it back."""
    arch = module.arch
    if arch is None or module.tokenizer_folder is None:
        raise ValueError(f"module `{module.name}` is no decoder with a tokenizer")
    if set(module.graphs) != {"main"}:
        fail(
            "E0704",
            f"MNN's LLM engine takes any number of tokens, and `{module.name}` is in buckets",
            help="leave `bucket` out of the pipeline of this deploy",
        )
    tokenizer = module.tokenizer_folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise PlanError(no_tokenizer(module.tokenizer_folder))
    folder.mkdir(parents=True, exist_ok=True)
    text = read_text_config(module.tokenizer_folder)
    bos, eos = (text.special.get(name, "") for name in ("bos_token", "eos_token"))
    write_mtok(tokenizer, folder / TOKENIZER, arch.eos, text.template or "", bos, eos)
    check_tokenizer(folder / TOKENIZER, tokenizer)
    with (folder / WEIGHTS).open("wb") as file:
        lowering = DecoderLowering(module, file)
        lowering.run()
    places: list[Place] = []
    if ORDER.get(module.main) is not None:
        lowering.blobs, places = order_by_kind(lowering.net, lowering.blobs, folder / WEIGHTS)
    with (folder / WEIGHTS).open("ab") as file:
        if lowering.embedding is None:
            fail("E0703", f"the graph of `{module.name}` looks no embedding up")
        place, rows, storage = write_embedding(lowering.embedding, file, lowering.blobs, lowering.linears, folder)
    hash_beside(folder / WEIGHTS)
    begin_sync(folder / WEIGHTS)
    lowering.net.write(folder / MODEL, ["logits"])
    checked = dict(lowering.linears)
    if rows is not None:
        lowering.blobs["embed_tokens"], checked["embed_tokens"] = rows, lowering.embedding
    check_linears(folder / MODEL, lowering.blobs, checked)
    _write_json(folder / RUN, _run_config(memory, threads, module.context))
    _write_json(folder / MODEL_FACTS, _model_config(module, text) | place)
    for name, keys in ((RUN, RUN_KEYS), (MODEL_FACTS, MODEL_KEYS)):
        read_config(folder / name, keys)  # what `edgec run` would not take is not written either
    if sum(weight.size for weight in _weights(module)) <= _SMALL:
        compare(module, folder)
    wide = [name for name, blob in lowering.blobs.items() if blob.bits == 32]
    notes = [f"`{name}` is stored as float32: float16 would overflow" for name in wide]
    if reads_blanks_behind_tokens(read_tokenizer(tokenizer)):
        notes.append("MNN reads text right behind a special token with a blank before it; `edgec run` does not")
    return Bundle(lowering.blobs, checked, storage, notes, places)


def compare(module: Module, folder: Path) -> None:
    """Run the bundle in MNN's exact mode beside the oracle: uneven pieces, a cache that is rolled back."""
    from ....compiler.oracle.oracle import DecoderOracle

    oracle = DecoderOracle(module)
    ids = np.random.default_rng(0).integers(0, oracle.vocab, min(24, module.context)).tolist()
    model = MnnLanguageModel(folder, oracle.vocab, module.context, f"MNN running `{module.name}`", {"memory": "normal"})
    worst, scale = 0.0, 0.0
    try:
        for start, stop, keep in ((0, 16, 12), (12, 13, 13), (13, len(ids), 0)):
            if not ids[start:stop]:  # a context of a few tokens
                continue
            expected, got = oracle.forward(ids[start:stop]), model.forward(ids[start:stop])
            error = np.abs(got - expected).max(initial=0.0)
            worst, scale = max(worst, float(error)), max(scale, float(np.abs(expected).max(initial=0.0)))
            if not np.isfinite(error) or worst > _BOUND * scale:
                fail(
                    "E0711",
                    f"MNN's logits of `{module.name}` are off by {error:.2g} where the module's reach {scale:.2g}",
                    help="deploy the model `as ort`",
                    kind=EngineError,
                )
            oracle.rollback(min(keep, oracle.length))
            model.rollback(min(keep, model.length))
    finally:
        model.close()


def _weights(module: Module) -> Iterator[Weight]:
    for value in module.main.graph.initializers.values():
        weight = constant(value)
        if weight is not None:
            yield weight


def _run_config(memory: str, threads: int, context: int) -> dict[str, Any]:
    return {
        "llm_model": MODEL,
        "llm_weight": WEIGHTS,
        "tokenizer_file": TOKENIZER,
        "backend_type": "cpu",
        "thread_num": threads,
        "precision": "low",  # float16 where the CPU computes in it, float32 elsewhere
        "memory": memory,
        "max_all_tokens": context,
        "sampler_type": "greedy",
    }


def _model_config(module: Module, text: TextConfig) -> dict[str, Any]:
    arch = module.arch
    if arch is None:
        raise ValueError(f"module `{module.name}` is no decoder")
    config: dict[str, Any] = {
        "model_type": arch.family,
        "hidden_size": arch.hidden,
        "layer_nums": arch.layers,
        "max_position_embeddings": arch.max_positions,
        "key_value_shape": [],
        "attention_mask": "float",
        "attention_type": "full",
        "is_mrope": False,
    }
    if text.template:
        names = {"bos": "bos_token", "eos": "eos_token"}
        tokens = {ours: text.special.get(name, "") for ours, name in names.items()}
        config["jinja"] = {"chat_template": text.template, **tokens}
    return config


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
