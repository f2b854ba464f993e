"""How a model may be made small for a device, the best first: each form is a pipeline with its deploy line.

    stored integers        a checkpoint that is quantised already ships as it is
    NPU, with a text       int4 in two-level scales, 16-bit activations: what phones are reported to run
    NPU, without           8 or 4 bits in blocks, fp16 activations; on chips that no phone is reported to run them on,
                           16-bit floats where these are not too large
    CPU                    int4 by gptq with a text, int8 without; MNN, else ONNX Runtime
    a plain graph          floats: what costs no accuracy and needs no text

Nothing here knows what an engine refuses: each form is checked, and the first that holds is taken.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..plan.devices import Device
from .found_model import FoundModel

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch

_TABLES = '["lm_head", "embed_tokens"]'
_LOADED = 2_000_000_000  # bytes that a device loads as one


@dataclass(frozen=True)
class Line:
    """One line of a plan and why it is there."""

    text: str
    why: str


@dataclass(frozen=True)
class Form:
    """A pipeline and a deploy line. `rounds`: a warning that the target rounds its integers rules it out."""

    place: str
    target: str
    steps: tuple[Line, ...]
    why: str  # of the deploy line
    options: str = ""
    kept: bool = False
    calibrated: bool = False
    bits: int = 0  # of most weights, 0: as stored


def decoder_forms(model: FoundModel, device: Device, text: bool, buckets: Line) -> Iterator[Form]:
    """Forms of a language model for the device, those for its NPU before those for the CPU."""
    if device.has_npu:
        yield from npu_forms(model, text, buckets)
    yield from cpu_forms(model, text)


def npu_forms(model: FoundModel, text: bool, buckets: Line) -> Iterator[Form]:
    """Forms for the NPU; all end with static shapes. What no phone is reported to run has a larger form behind it."""
    why = "the NPU: it decodes about as fast as the CPU, reads prompts many times faster, and leaves the CPU free"
    small_table = (
        Line(
            'quantize (weights = int8, block = 32)  on "embed_tokens"',
            "8 bits cost the embedding nothing to speak of; floats would take four times the room",
        ),
        Line('place (device = cpu)  on "embed_tokens"', "looked up on the CPU: HTP has no lookup in integers"),
    )
    head = Line(
        'quantize (weights = int8, block = channel)  on "lm_head"',
        "the head decides between tokens: 8 bits; left in floats it would run in 16",
    )
    if text:
        solved = Line(
            f"quantize (weights = int4, block = 32, method = gptq, activations = uint16)  except {_TABLES}",
            "4 bits by gptq on your text, with 16-bit activations: stored with two-level scales, which phones are "
            "reported to run",
        )
        for own in ((head,), ()):
            for table in (small_table, ()):
                steps = (*table[:1], *own, solved, *table[1:], buckets)
                yield Form("npu", "qnn", steps, why, calibrated=True, bits=4)
        return
    blocks_head = Line('quantize (weights = int8, block = 32)  on "lm_head"', head.why)
    for bits, steps in (
        (8, (_eight_bits('except "embed_tokens"'),)),
        (4, (blocks_head, _four_bits(f"except {_TABLES}"))),
    ):
        for table in (small_table, ()):
            yield Form("npu", "qnn", (*table[:1], *steps, *table[1:], buckets), why, bits=bits)
    if model.arch is not None and _half_floats(model.arch) <= _LOADED:
        floats = f"{why}; in 16-bit floats, which phones are reported to run: with `--text FILE` it would be 4 bits"
        for table in (small_table, ()):
            yield Form("npu", "qnn", (*table, buckets), floats)


def _half_floats(arch: DecoderArch) -> int:
    """About how many bytes the linears of a decoder take in half floats."""
    heads = (2 * arch.heads + 2 * arch.kv_heads) * arch.head_dim
    return 2 * (arch.layers * arch.hidden * (heads + 3 * arch.intermediate) + arch.vocab * arch.hidden)


def cpu_forms(model: FoundModel, text: bool) -> Iterator[Form]:
    """Forms for the CPU, each for MNN and then for ONNX Runtime, which takes every family."""
    tables = Line(
        f"quantize (weights = int8, block = 32)  on {_TABLES}",
        "embedding and head lose most from few bits: 8 of them",
    )
    for target, why, options in (
        ("mnn", "the CPU, by MNN's engine for language models", "memory = auto" if text else ""),
        ("ort", "the CPU, by ONNX Runtime: MNN does not take this model", ""),
    ):
        kept = Line("quantize (method = keep)", "the integers that the checkpoint stores, bit for bit")
        if model.stored:
            yield Form("cpu", target, (kept,), why, options, kept=True)
        if text:
            solved = Line(
                f"quantize (weights = int4, block = 32, method = gptq)  except {_TABLES}",
                "4 bits by gptq on your text: an eighth of float32, a few per cent of perplexity",
            )
            yield Form("cpu", target, (tables, solved), why, options, calibrated=True, bits=4)
            continue
        yield Form("cpu", target, (_eight_bits(""),), why, options, bits=8)
        yield Form("cpu", target, (tables, _four_bits(f"except {_TABLES}")), why, options, bits=4)


def graph_forms(device: Device) -> Iterator[Form]:
    """Forms of a plain graph, in floats."""
    if device.has_npu:
        yield Form("npu", "qnn", (), "the NPU, in fp16: phones are reported to run it, and it needs no text")
    yield Form("cpu", "mnn", (), "the CPU, by MNN, in floats")
    yield Form("cpu", "ort", (), "the CPU, by ONNX Runtime, which runs any graph")


def _eight_bits(scope: str) -> Line:
    return Line(
        f"quantize (weights = int8, block = 32)  {scope}".rstrip(),
        "8 bits, rounded: a quarter of float32 at hardly any cost; 4 bits want a text (`edgec init --text FILE`)",
    )


def _four_bits(scope: str) -> Line:
    method = "mse" if importlib.util.find_spec("torch") else "rtn"
    said = "the scales of least squared error" if method == "mse" else "rounded, as torch is not installed"
    return Line(
        f"quantize (weights = int4, block = 32, method = {method})  {scope}".rstrip(),
        f"4 bits, {said}: all that fits; with a text (`edgec init --text FILE`) gptq loses far less",
    )
