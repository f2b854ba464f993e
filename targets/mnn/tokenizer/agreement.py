"""Does MNN's own tokenizer, given the emitted `.mtok`, answer as `tokenizers` does?

MNN reads a tokenizer only as part of an LLM, so a model of one linear (hidden 8, vocabulary 8) is put around it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import Child
from ....compiler.files.scratch import scratch_folder
from ....compiler.ir.weights import from_array
from ....compiler.sources.tokenizer.tokenizer_file import open_tokenizer, read_tokenizer
from ..file import op_parameters as tables
from ..file import weight_blobs as blobs
from ..file.writer import Net
from .equivalents import reads_blanks_behind_tokens

_WIDTH = 8

# one line per property of the format: spaces, digits, case, quotes, code, scripts, marks, emoji, joiners, controls
CORPUS = (
    "",
    " ",
    "  \n\n\t x  \r\n  y   ",
    "Hello, world! It's John's; we'RE they'll I'd don't CAN'T",
    "def f(x: int = 0x1F, *args) -> None:\n    return {'a': [1, 22, 333, 4444], \"b\": x ** 2}  # done\n",
    "1 12 123 1234 12345 3.14159 1e-9 0b1010 ½ ² ٣ Ⅷ",
    "naïve café Ångström résumé — “quotes” … ‘x’ £5 €6",
    "e\u0301 o\u0308 n\u0303 A\u030a \u212b \u1e69",
    "Привет, мир. Γειά σου. שלום עולם. مرحبا بالعالم",
    "日本語のテキスト。中文字符，测试。한국어 문장 ภาษาไทย हिन्दी",
    "😀👍🏽 👨‍👩‍👧‍👦 🇩🇪 ☃️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u200b\u200d\ufeff",
    "control \x01\x1f\x7f\x85 nbsp\u00a0x\u2003y\u3000z",
    "path/to/file.py::test_name[param-1] https://example.org/?q=a%20b&c=d#e",
    "aaaaaaaaaaaaaaaaaaaaaaaa________________--------------------!!!!!!!!????",
)


class TokenizerProbe:
    """MNN's tokenizer on one `.mtok`."""

    def __init__(self, mtok: Path) -> None:
        self._kept = ExitStack()
        folder = self._kept.enter_context(scratch_folder("mnn"))
        _tiny_model(folder)
        shutil.copy(mtok, folder / "tokenizer.mtok")
        self._child = Child("edgec.targets.mnn.run.llm_worker", what="MNN reading the tokenizer", timeout=300)
        self._child.call("load", config=str(folder / "config.json"), settings={})

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return self._child.call("encode", texts=list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        return self._child.call("decode", ids=list(ids))

    def close(self) -> None:
        """End the process and remove its folder."""
        self._child.close()
        self._kept.close()

    def __enter__(self) -> TokenizerProbe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check(mtok: Path, source: Path) -> None:
    """Fail unless MNN's ids of the corpus, with each added token among it, are those of `tokenizers`."""
    reference = open_tokenizer(source)
    added = [token.content for token in reference.get_added_tokens_decoder().values()]
    texts = [text for text in CORPUS if text]
    if not reads_blanks_behind_tokens(read_tokenizer(source)):
        texts += [f"a {token}b {token} {token}\n" for token in added[:64]]
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    with TokenizerProbe(mtok) as probe:
        got = probe.encode(texts)
    for text, ours, theirs in zip(texts, expected, got, strict=True):
        if ours != theirs:
            fail(
                "E0721",
                f"MNN's tokenizer splits {text!r} into {theirs[:12]} … where `tokenizers` gives {ours[:12]} …",
                help="the tokenizer uses a pattern that MNN reads differently; deploy this model with another target",
                kind=EngineError,
            )


def _tiny_model(folder: Path) -> None:
    with (folder / "llm.mnn.weight").open("wb") as file:
        blob = blobs.write_float(file, from_array("w", np.eye(_WIDTH, dtype=np.float32)))
    net = Net()
    hidden = net.input("input_ids", [-1, 1, _WIDTH], "DT_FLOAT")
    net.input("attention_mask", [1, 1, -1, -1], "DT_FLOAT")
    net.input("position_ids", [1, -1], "DT_INT32")
    net.input("logits_index", [1], "DT_INT32")
    x = net.one("Reshape", [hidden], "rows", *tables.reshape([-1, _WIDTH, 1, 1]))
    x = net.one("ConvertTensor", [x], "packed", *tables.layout("NCHW", "NC4HW4"))
    x = net.one("Convolution", [x], "head", *tables.convolution(blob, _WIDTH, _WIDTH), layout="NHWC")
    x = net.one("ConvertTensor", [x], "plain", *tables.layout("NC4HW4", "NCHW"))
    net.one("Reshape", [x], "logits", *tables.reshape([1, -1, _WIDTH]))
    net.write(folder / "llm.mnn", ["logits"])
    (folder / "embeddings_bf16.bin").write_bytes(bytes(2 * _WIDTH * _WIDTH))
    config = {"tokenizer_file": "tokenizer.mtok", "backend_type": "cpu", "thread_num": 1}
    (folder / "config.json").write_text(json.dumps(config))
    layout = {"hidden_size": _WIDTH, "layer_nums": 0, "attention_mask": "float", "attention_type": "full"}
    (folder / "llm_config.json").write_text(json.dumps(layout))
