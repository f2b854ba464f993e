"""How long one token takes on this machine, by lookup and by ONNX Runtime's own kernel; measured once for each shape.

    times(N, K, bits, block, tables) = (seconds of LutGemv, seconds of MatMulNBits with int8 activations)

Both run alone in a session of their own with the threads that `edgec run` gives it. A weight of many outputs is
measured with fewer and its time scaled: at that size time goes with the bytes. The times are kept in the cache under
the kernels, the engine's version and the processor.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.files.cache import read_note, write_note
from ...compiler.ir.bit_planes import to_panels, to_planes
from ...compiler.ir.module import initializer
from ...compiler.ir.onnx_runtime import onnxruntime, session
from ...compiler.ir.ops.dequantised_product import multiply_dequantised
from ...compiler.ir.ops.lut_gemv import LutGemv
from ...compiler.ir.opset import IR_VERSION, OPSET
from ...compiler.ir.weights import from_array
from ...compiler.kernels.build import library

_KIND = "lookup"
_WEIGHTS = 1 << 24  # largest weight that is measured as it is
_ROUNDS, _CALLS = 8, 5
_LEAST_SECONDS = 2e-3
_CLOSE, _MORE = 1.15, 3  # times closer than that are measured up to so often again
_PROMPT = 128  # tokens


def times(outputs: int, inputs: int, bits: int, block: int, tables: int) -> tuple[float, float] | None:
    """Seconds of both for one token; None where no kernel can be built."""
    built = library().path
    if built is None:
        return None
    key = _key(built, outputs, inputs, bits, block, tables)
    known = read_note(_KIND, key)
    if known is not None:
        lookup, other = json.loads(known)
        return lookup, other
    measured = min(outputs, max(64, _WEIGHTS // inputs // 64 * 64))
    factor = outputs / measured
    lookup, other = _measured_until_clear(measured, inputs, bits, block, tables, built)
    write_note(_KIND, key, json.dumps([lookup * factor, other * factor]))
    return lookup * factor, other * factor


def _measured_until_clear(
    outputs: int, inputs: int, bits: int, block: int, tables: int, built: Path
) -> tuple[float, float]:
    """Seconds of both; measured again, in new sessions, while they are so close that chance would choose."""
    best = measure(outputs, inputs, bits, block, tables, built)
    for _ in range(_MORE):
        if max(best) > _CLOSE * min(best):
            break
        again = measure(outputs, inputs, bits, block, tables, built)
        best = min(best[0], again[0]), min(best[1], again[1])
    return best


def prompt_times(outputs: int, inputs: int, bits: int, block: int, tables: int) -> tuple[float, float] | None:
    """Seconds of a prompt of 128 tokens by LutGemv, and by LutDequant and MatMul; None where no kernel can be built."""
    built = library().path
    if built is None:
        return None
    measured = min(outputs, max(64, _WEIGHTS // inputs // 64 * 64))
    key = _key(built, "prompt", measured, inputs, bits, block, tables)
    known = read_note(_KIND, key)
    if known is None:
        x = np.random.default_rng(0).standard_normal((_PROMPT, inputs)).astype(np.float32)
        made = (model(measured, inputs, bits, block, tables) for model in (lookup_model, dequantised_model))
        known = json.dumps(least([bound(model, x, 0, (str(built),)) for model in made]))
        write_note(_KIND, key, known)
    lookup, other = json.loads(known)
    return lookup, other


def measure(
    outputs: int, inputs: int, bits: int, block: int, tables: int, built: Path, tokens: int = 1, threads: int = 0
) -> tuple[float, float]:
    """Seconds of both on random weights."""
    x = np.random.default_rng(0).standard_normal((tokens, inputs)).astype(np.float32)
    runs = [
        bound(lookup_model(outputs, inputs, bits, block, tables), x, threads, (str(built),)),
        bound(packed_model(outputs, inputs, stored_bits(bits), block), x, threads),
    ]
    found = least(runs)
    return found[0], found[1]


def least(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each: the least of several rounds, in which they take turns."""
    best = [float("inf")] * len(runs)
    for _ in range(_ROUNDS):
        for which, run in enumerate(runs):
            run()
            calls, start = 0, time.perf_counter()
            while calls < _CALLS or time.perf_counter() - start < _LEAST_SECONDS:
                begun = time.perf_counter()
                run()
                best[which] = min(best[which], time.perf_counter() - begun)
                calls += 1
    return best


def stored_bits(bits: int) -> int:
    """The width in which ONNX Runtime's own kernel holds integers of `bits`."""
    return 2 if bits <= 2 else 4


def bound(model: ir.Model, x: np.ndarray, threads: int, libraries: Sequence[str] = ()) -> Callable[[], object]:
    """A call of `model`, which has one input, on `x`."""
    opened = session(ir.to_proto(model).SerializeToString(), optimise=True, libraries=libraries, threads=threads)
    binding = opened.io_binding()
    binding.bind_cpu_input("x", x)
    for made in opened.get_outputs():
        binding.bind_output(made.name)
    return lambda: opened.run_with_iobinding(binding)


def lookup_model(outputs: int, inputs: int, bits: int, block: int, tables: int, copies: int = 1) -> ir.Model:
    """`copies` linears of one input by lookup, each with random weights of its own."""
    model, x = _model(inputs)
    rng = np.random.default_rng(1)
    attributes = {"bits": bits, "block_size": block, "outputs": outputs, "tables": tables}
    for number in range(copies):
        held = {
            "planes": to_planes(rng.integers(0, 1 << bits, (outputs, inputs)).astype(np.uint8), bits),
            "scale": to_panels(rng.uniform(0.001, 0.01, (outputs, inputs // block)).astype(np.float16)),
            "zero": np.full((1, 1, 1), 1 << bits, np.uint8),
        }
        y = _output(model, number, outputs)
        model.graph.append(LutGemv().node(model, f"linear{number}", [x, *_held(model, number, held)], y, **attributes))
    return model


def dequantised_model(outputs: int, inputs: int, bits: int, block: int, tables: int = 8, copies: int = 1) -> ir.Model:
    """The same by `LutDequant` and a product of floats."""
    model = lookup_model(outputs, inputs, bits, block, tables, copies)
    for node in list(model.graph):
        multiply_dequantised(model, node)
    return model


def packed_model(outputs: int, inputs: int, bits: int, block: int, copies: int = 1) -> ir.Model:
    """The same by MatMulNBits with int8 activations."""
    model, x = _model(inputs)
    rng = np.random.default_rng(1)
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": 4}
    for number in range(copies):
        held = {
            "q": rng.integers(0, 256, (outputs, inputs // block, block * bits // 8)).astype(np.uint8),
            "scales": rng.uniform(0.001, 0.01, (outputs, inputs // block)).astype(np.float32),
        }
        y, given = _output(model, number, outputs), _held(model, number, held)
        node = ir.node("MatMulNBits", [x, *given], attributes, domain="com.microsoft", outputs=[y])
        model.graph.append(node)
    model.graph.opset_imports["com.microsoft"] = 1
    return model


def _held(model: ir.Model, number: int, arrays: dict[str, np.ndarray]) -> list[ir.Value]:
    named = {f"{name}{number}": array for name, array in arrays.items()}
    return [initializer(model.graph, name, from_array(name, array)) for name, array in named.items()]


def _model(inputs: int) -> tuple[ir.Model, ir.Value]:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(("tokens", inputs)))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET}, name="linears")
    return ir.Model(graph, ir_version=IR_VERSION), x


def _output(model: ir.Model, number: int, outputs: int) -> ir.Value:
    shape = ir.Shape(("tokens", outputs))
    y = ir.Value(name=f"y{number}", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    model.graph.outputs.append(y)
    return y


def _key(built: Path, *what: object) -> str:
    machine = [built.parent.name, onnxruntime.__version__, platform.machine(), _processor(), os.cpu_count(), *what]
    return hashlib.sha256(json.dumps(machine).encode()).hexdigest()


def _processor() -> str:
    """What the processor can do, as Linux lists it; elsewhere its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features"))), "")
