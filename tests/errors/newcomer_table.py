"""Ninety mistakes of a first day: what is typed in which plan, the code that answers, words of the way out.

Each row changes one place of a right plan. `says` are words of the message or its help; `then` is what the same place
holds once the advice was followed, and then nothing is wrong.
"""

from __future__ import annotations

from typing import NamedTuple

MODELS = "../../../examples/models"
CPU = f"""plan chat
let size = 32
device host
model chat {{ source = hf("{MODELS}/pycode-qwen3")  context = 256 }}
calibration {{ text = "../../../examples/text/calibration.txt"  samples = 4  length = 64 }}
evaluation {{ text = "../../../examples/text/modules.txt"  windows = 2 }}
pipeline small {{
  quantize (weights = int4, block = size)  except ["lm_head", "embed_tokens"]
}}
deploy chat on cpu through small as mnn
require {{
  bundle.size     <= 12 MB
  chat.perplexity <= 1.05 * baseline
}}
"""
NPU = f"""plan chat
device snapdragon_8_gen_3
model chat {{ source = hf("{MODELS}/pycode-qwen3")  context = 256 }}
model draft {{ source = hf("{MODELS}/pycode-qwen2")  context = 256 }}
pipeline npu {{
  quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"]
  bucket   (tokens = [1, 4, 64], context = [256])
}}
deploy chat on npu through npu as qnn
deploy draft on cpu as mnn
speculate draft -> chat {{ k = 3 }}
"""


class Mistake(NamedTuple):
    """`typed` in the place of `right` in `plan`; `then` is what the advice makes of it (default: `right`)."""

    plan: str
    right: str
    typed: str
    code: str
    says: tuple[str, ...]
    then: str | None = None


NPU_LINE = 'quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"]'
BUCKET = "bucket   (tokens = [1, 4, 64], context = [256])"
SOURCE = f'hf("{MODELS}/pycode-qwen3")'
KEYS = "(weights = int4, block = size)"


def cpu(right: str, typed: str, code: str, *says: str, then: str | None = None) -> Mistake:
    """A mistake in the plan for the CPU."""
    return Mistake(CPU, right, typed, code, says, then)


def npu(right: str, typed: str, code: str, *says: str, then: str | None = None) -> Mistake:
    """A mistake in the plan for the NPU."""
    return Mistake(NPU, right, typed, code, says, then)


MISTAKES = {
    # words
    "quantise": cpu("quantize", "quantise", "E0102", "`quantize`"),
    "weight": cpu("weights = int4", "weight = int4", "E0108", "`weights = int4`"),
    "INT4": cpu("int4", "INT4", "E0204", "`weights = int4`"),
    "w4a16": cpu("int4", "w4a16", "E0204", "weights = int4`"),
    "q4_0": cpu("int4", "q4_0", "E0204", "int4", "block = 32"),
    "weights = 4": cpu("int4", "4", "E0201", "`int4`"),
    "quoted type": cpu("int4", '"int4"', "E0201", "drop the quotes"),
    "int8 activations": npu("int4, block = 32", "int4, block = 32, activations = int8", "E0204", "uint8"),
    "context: 512": cpu("context = 256", "context: 256", "E0001", "key = value"),
    "commas between settings": cpu('3")  context', '3"), context', "E0001", "without commas"),
    "single quotes": cpu('"lm_head"', "'lm_head'", "E0002", "double quotes"),
    "a brace forgotten": cpu('"embed_tokens"]\n}', '"embed_tokens"]\n', "E0006", "missing `}`"),
    "semicolons": cpu("device host", "device host;", "E0002", "no `;`"),
    "True": cpu(
        "int4, block", "int4, symmetric = True, block", "E0107", "`true`", then="int4, symmetric = true, block"
    ),
    "a string not closed": cpu('text/modules.txt"', "text/modules.txt", "E0003", 'missing `"`'),
    "a path's typo": cpu("pycode-qwen3", "pycode-qwne3", "E0301", "pycode-qwen3"),
    "a Hub id": cpu(SOURCE, 'hf("Qwen/Qwen3-0.6B")', "E0301", "hf download Qwen/Qwen3-0.6B --local-dir"),
    "a chip before HTP": npu("snapdragon_8_gen_3", "sm8250", "E0103", "`edgec devices`"),
    "hyphens": npu("snapdragon_8_gen_3", "snapdragon-8-gen-3", "E0001", "`snapdragon_8_gen_3`"),
    "auto with rtn": cpu(
        "int4, block = size",
        "auto, method = rtn, budget = 5 bits",
        "E0206",
        "gptq",
        then="auto, method = gptq, budget = 5 bits",
    ),
    "block 33": cpu("block = size", "block = 33", "E0204", "32", then="block = 32"),
    "a pass behind its place": npu(f"{NPU_LINE}\n  {BUCKET}", f"{BUCKET}\n  {NPU_LINE}", "E0400", "before `bucket`"),
    "12 without a unit": cpu("12 MB", "12", "E0202", "12 MB"),
    "105 %": cpu("1.05 * baseline", "105 %", "E0201", "1.05 * baseline"),
    "5 %": cpu("1.05 * baseline", "5 %", "E0201", "baseline"),
    "=": cpu("<= 12 MB", "= 12 MB", "E0001", "`<=`"),
    "a range": npu("[1, 4, 64]", "1..64", "E0001", "[1, 64]", then="[1, 4, 64]"),
    "//": cpu("device host", "device host  // mine", "E0001", "`#`", then="device host  # mine"),
    "device = host": cpu("device host", "device = host", "E0001", "`device host`"),
    "device: host": cpu("device host", "device: host", "E0001", "no `:`"),
    "names of the checkpoint": cpu(
        '"lm_head", ', '"lm_head", "model.layers.*", ', "E0307", "`layers.*`", then='"lm_head", "layers.0.*", '
    ),
    "a context too long": cpu("context = 256", "context = 100000", "E0338", "2048"),
    "a block that does not divide": cpu("block = size", "block = 48", "E0204", "32", then="block = 32"),
    "no deploy": cpu("deploy chat on cpu through small as mnn", "", "E0215", "deploy chat on cpu"),
    "an unknown pipeline": cpu("through small", "through main", "E0106", "pipelines are: small"),
    "an unknown device": npu("snapdragon_8_gen_3", "pixel_9", "E0103", "edgec devices"),
    "braces for parentheses": cpu(KEYS, "{ weights = int4, block = size }", "E0001", "`quantize (key = value)`"),
    "bare arguments": cpu(
        f"quantize {KEYS}",
        "quantize weights = int4",
        "E0001",
        "`quantize (weights = int4)`",
        then="quantize (weights = int4)",
    ),
    "tok/s": cpu("bundle.size     <= 12 MB", "chat.speed >= 20 tok/s", "E0116", "decode.rate"),
    "a bucket beyond the context": npu("context = [256]", "context = [512]", "E0408", "256"),
    "kv = int8": npu("as qnn", "as qnn { kv = int8 }", "E0204", "uint8", then="as qnn { kv = fp16 }"),
    "AWQ": cpu("int4, block", "int4, method = AWQ, block", "E0204", "`awq`", then="int4, method = awq, block"),
    "calib": cpu("calibration {", "calib {", "E0101", "calibration"),
    "no calibration": npu("weights = int4, block = 32", "weights = int4, method = gptq", "E0454", "calibration {"),
    "group_size": cpu("block = size", "group_size = 32", "E0108", "`block = 32`"),
    "bits = 4": cpu("weights = int4", "bits = 4", "E0206", "weights = int4"),
    "no hf()": cpu(SOURCE, f'"{MODELS}/pycode-qwen3"', "E0201", 'hf("'),
    "a context missing": cpu("  context = 256", "", "E0205", "context = "),
    "one plan, two devices": cpu("device host", "device host\ndevice snapdragon_8_gen_3", "E0109", "include"),
    "this machine beside a phone": cpu("device host", "device [host, snapdragon_8_gen_3]", "E0218", "include"),
    "two speculations": npu("{ k = 3 }", "{ k = 3 }\nspeculate draft -> chat { k = 2 }", "E0109", "speculate"),
    "as onnx": cpu("as mnn", "as onnx", "E0104", "`ort`", then="as ort"),
    "as genie": npu("as qnn", "as genie", "E0104", "qnn"),
    "the npu as mnn": npu("on npu through npu as qnn", "on npu through npu as mnn", "E0213", "qnn"),
    "a gpu": cpu("on cpu", "on gpu", "E0115", "`cpu`"),
    "the host's npu": npu("device snapdragon_8_gen_3", "device host", "E0214", "name a chip"),
    "8 Elit": npu("snapdragon_8_gen_3", "snapdragon_8_elit", "E0103", "snapdragon_8_elite", then="snapdragon_8_elite"),
    "k without its bucket": npu("{ k = 3", "{ k = 4", "E0210", "tokens = [1, 4, 5, 64]"),
    "draft is target": npu("draft -> chat", "chat -> chat", "E0208", "smaller model"),
    "a draft not deployed": npu("deploy draft on cpu as mnn\n", "", "E0209", "deploy draft on cpu"),
    "no buckets": npu("\n  bucket   (tokens = [1, 4, 64], context = [256])", "", "E0605", "bucket (tokens ="),
    "a folder that is no model": cpu(SOURCE, 'hf("../../../examples/text")', "E0330", "config.json"),
    "onnx of a folder": cpu(SOURCE, f'onnx("{MODELS}/pycode-qwen3")', "E0302", "`hf`"),
    "hf of a file": cpu(SOURCE, f'hf("{MODELS}/pycode-qwen3/config.json")', "E0302", "folder"),
    "gguf of a folder": cpu(SOURCE, f'gguf("{MODELS}/pycode-qwen3")', "E0302", "`hf`"),
    "no such text": cpu("text/modules.txt", "text/modul.txt", "E0301", "modules.txt"),
    "no match": cpu("text/modules.txt", "text/*.md5", "E0306", "*.md5"),
    "a folder of texts": cpu(
        "examples/text/modules.txt", "examples/text", "E0302", "*.txt", then="examples/text/mod*.txt"
    ),
    "an include that is absent": cpu(
        "device host", 'device host\ninclude "base.edge"', "E0301", "relative to the file"
    ),
    "an include of itself": cpu("device host", 'device host\ninclude "plan.edge"', "E0303", "leave out"),
    "a let twice": cpu("let size = 32", "let size = 32\nlet size = 64", "E0109", "another name"),
    "a let that is absent": cpu("block = size", "block = siz", "E0204", "let named `size`"),
    "a let in a circle": cpu("let size = 32", "let size = big\nlet big = size", "E0111", "a value"),
    "a pipeline twice": cpu("deploy chat", "pipeline small { }\ndeploy chat", "E0109", "another name"),
    "deployed twice": cpu("as mnn", "as mnn\ndeploy chat on cpu through small as ort", "E0120", "second model"),
    "a key twice": cpu("block = size", "block = 32, block = 64", "E0110", "block"),
    "8s": npu("tokens = [1, 4, 64]", "tokens = [1, 4s, 64]", "E0201", "integer"),
    "embed_token": cpu('"embed_tokens"', '"embed_token"', "E0307", "embed_tokens"),
    "a budget without bits": cpu(
        "int4, block = size", "auto, budget = 4.25", "E0202", "4.25 bits", then="auto, budget = 4.25 bits"
    ),
    "a budget too small": cpu(
        "int4, block = size", "auto, budget = 1 bits", "E0203", "2 bits", then="auto, budget = 5 bits"
    ),
    "positional": cpu(KEYS, "(int4, 32)", "E0001", "weights = int4"),
    "no parentheses": cpu(f"quantize {KEYS}", "quantize", "E0206", "weights = int4"),
    "a syntax error in a used file": cpu("device host", 'device host\nuse "../files/broken.py"', "E0304", "broken.py"),
    "a Windows path": cpu(SOURCE, r'hf("C:\models\qwen")', "E0007", "C:/models/qwen"),
    "YAML": Mistake(CPU, CPU, "plan: chat\ndevice: host\n", "E0001", ("YAML",)),
    "JSON": Mistake(CPU, CPU, '{"plan": "chat"}\n', "E0001", ("JSON",)),
    "nothing": Mistake(CPU, CPU, "", "E0212", ("plan chat",)),
    "a typographic dash": npu("draft -> chat", "draft → chat", "E0002", "`->`"),
    "no effect": cpu("block = size", "block = size, bits = [3, 4]", "E0206", "auto"),
    "a time without unit": cpu(
        "block = size",
        "block = size, method = reconstruct, time = 20",
        "E0202",
        "20",
        then="block = size, method = reconstruct, time = 20 min",
    ),
}
