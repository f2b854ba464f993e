"""`tokenizer.json` as MNN's `.mtok`.

    text    "430 4" · counts of special, stop and prefix ids · the ids
    binary  normaliser · pre-tokeniser · BPE model (vocabulary sorted by bytes, merges sorted by their pair of ids)
            · decoder · added tokens · chat template, EOS · flags · BOS

MNN has its own form of each component; what it cannot express is an error that names the component. Four points
where its engine differs from `tokenizers` are met here:

* Its NFC works on single code points and turns zero-width joiners into spaces, so NFC is written as a sequence of
  plain replacements (pairs that compose, and singletons). Several marks on one letter out of canonical order, and
  conjoining Hangul jamo, stay as they are.
* Special tokens that stand in the vocabulary would be matched first come, first served, before all other added
  tokens. They are left out of the vocabulary, so that all added tokens are matched together, leftmost and longest.
* Added tokens outside the vocabulary decode to nothing. Those that are not special enter it, spelled in the byte
  alphabet where the decoder reads one.
* A table of ids must have no holes: they are filled with empty strings, which no text reaches.

Components that the format has in another form are written as that (`equivalents`): `Digits` as a split on numbers, the
splitting half of `Metaspace` too. `truncation` and `padding` are no part of reading a text, as in `transformers`.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ....compiler.diagnostics.diagnostic import fail
from ....compiler.sources.tokenizer.tokenizer_file import read_tokenizer
from .equivalents import MARK, byte_alphabet, covers_all_bytes, prepends, with_equivalents

_BEHAVIOURS = {"Isolated": 0, "Removed": 1, "MergedWithPrevious": 2}
_AS_ORT = "deploy the model `as ort`, whose runner reads any tokenizer.json"
_ITEM = Mapping[str, Any]
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_LAST_CODE_POINT = 0x30000  # no canonical composition lies above


def write_mtok(
    tokenizer: Path,
    out: Path,
    stops: Sequence[int] = (),
    chat_template: str = "",
    bos: str = "",
    eos: str = "",
) -> None:
    """Write `out` from the `tokenizer.json` at `tokenizer`; `stops` are the ids that end a generation."""
    spec = with_equivalents(read_tokenizer(tokenizer))
    _refuse_features(spec)
    added = spec.get("added_tokens") or []
    if spec["model"].get("byte_fallback"):  # MNN reads a special `<0x20>` as the blank that it decodes to
        added = [token for token in added if not _BYTE.fullmatch(token["content"])]
    special = [token["id"] for token in added if token.get("special")]
    with out.open("wb") as file:
        prefix = _prefix(spec.get("post_processor"))
        file.write(b"430 4\n%d %d %d\n" % (len(special), len(stops), len(prefix)))
        file.write(" ".join(str(token) for token in [*special, *stops, *prefix]).encode() + b"\n")
        _normalizer(file, spec.get("normalizer"))
        _pre_tokenizer(file, spec.get("pre_tokenizer"))
        _model(file, spec["model"], added, _reads_bytes(spec.get("decoder")))
        _decoder(file, spec.get("decoder"))
        _added(file, added)
        template = chat_template.encode()
        file.write(struct.pack("<I", len(template)) + template + _string(eos))
        file.write(b"\x00" + _string(bos))  # no flags: `clean_up_tokenization_spaces` is not part of tokenizer.json


def _refuse(component: str, what: str, help: str | None = None) -> NoReturn:
    help = help or _AS_ORT
    fail("E0720", f"MNN's tokenizer cannot carry the {component} of this tokenizer.json: {what}", help=help)


def _refuse_features(spec: _ITEM) -> None:
    model = spec["model"]
    if model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        _refuse("model", f"it is `{model.get('type')}`, only `BPE` is known to be right")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            _refuse("model", f"it sets `{key}`")
    if model.get("unk_token") and not model.get("byte_fallback") and not covers_all_bytes(spec):
        what = f"it maps unknown characters to `{model['unk_token']}` without `byte_fallback`"
        _refuse("model", what, help=_AS_ORT)
    plain = (spec.get("normalizer") or {}).get("type", "NFC") == "NFC"
    for token in spec.get("added_tokens") or []:
        if token.get("single_word"):
            _refuse("added tokens", f"`{token['content']}` sets `single_word`")
        if token.get("normalized") and not plain:
            _refuse("added tokens", f"`{token['content']}` is matched in normalised text (`normalized`)")


def _normalizer(file: BinaryIO, item: _ITEM | None) -> None:
    kind = None if item is None else item["type"]
    if item is None:
        file.write(b"\x00")
    elif kind == "NFC":
        _sequence(
            file,
            4,
            [{"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in compositions()],
            _normalizer,
        )
    elif kind == "Prepend":
        file.write(b"\x02" + _string(item["prepend"]))
    elif kind == "Replace":
        file.write(b"\x03" + _string(_plain_pattern("normalizer", item)) + _string(item["content"]))
    elif kind == "Sequence":
        _sequence(file, 4, item["normalizers"], _normalizer)
    else:
        _refuse("normalizer", f"`{kind}`")


def _pre_tokenizer(file: BinaryIO, item: _ITEM | None) -> None:
    kind = None if item is None else item["type"]
    if item is None:
        file.write(b"\x00")
    elif kind == "ByteLevel":
        if item.get("add_prefix_space"):
            _refuse("pre-tokenizer", "`ByteLevel` with `add_prefix_space`")
        file.write(struct.pack("<BB", 1, bool(item.get("use_regex", True))))
    elif kind == "Split":
        behaviour = item["behavior"]
        if behaviour not in _BEHAVIOURS:
            _refuse("pre-tokenizer", f"`Split` with behaviour `{behaviour}`")
        if "Regex" not in item["pattern"]:
            _refuse("pre-tokenizer", "`Split` on a plain string")
        file.write(b"\x04" + _string(item["pattern"]["Regex"]))
        file.write(struct.pack("<BB", bool(item.get("invert")), _BEHAVIOURS[behaviour]))
    elif kind == "Metaspace":
        file.write(b"\x03" + _string(item.get("replacement", MARK)) + bytes([prepends(item)]))
    elif kind == "Sequence":
        _sequence(file, 6, item["pretokenizers"], _pre_tokenizer)
    else:
        _refuse("pre-tokenizer", f"`{kind}`")


def _decoder(file: BinaryIO, item: _ITEM | None) -> None:
    kind = None if item is None else item["type"]
    simple = {"ByteLevel": 0, "ByteFallback": 1, "Fuse": 4}
    if item is None:
        _refuse("decoder", "there is none")
    if kind in simple:
        file.write(bytes([simple[kind]]))
    elif kind == "Replace":
        file.write(b"\x05" + _string(_plain_pattern("decoder", item)) + _string(item["content"]))
    elif kind == "Metaspace":
        file.write(b"\x02" + _string(item.get("replacement", MARK)) + bytes([prepends(item)]))
    elif kind == "Strip":
        file.write(b"\x06" + _string(item["content"]) + struct.pack("<II", item["start"], item["stop"]))
    elif kind == "Sequence":
        _sequence(file, 7, item["decoders"], _decoder)
    else:
        _refuse("decoder", f"`{kind}`")


def _model(file: BinaryIO, model: _ITEM, added: Sequence[_ITEM], reads_bytes: bool) -> None:
    ids: dict[str, int] = dict(model["vocab"])
    entries = dict(ids)
    for token in added:
        entries.pop(token["content"], None)
        if not token.get("special"):
            entries[_in_bytes(token["content"]) if reads_bytes else token["content"]] = token["id"]
    rows = [(token.encode(), index) for token, index in entries.items()]
    used = {index for _, index in rows}
    rows += [(b"", index) for index in range(max(used) + 1) if index not in used]
    merges = sorted(_merges(model, ids))
    file.write(struct.pack("<BIBBI", 0, len(rows), bool(model.get("byte_fallback")), 0, len(merges)))
    for token, index in sorted(rows):
        file.write(struct.pack("<H", len(token)) + token + struct.pack("<I", index))
    for left, right, rank in merges:
        file.write(struct.pack("<III", left, right, rank))


def _merges(model: _ITEM, ids: Mapping[str, int]) -> Iterable[tuple[int, int, int]]:
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield ids[left], ids[right], rank


def _added(file: BinaryIO, added: Sequence[_ITEM]) -> None:
    file.write(struct.pack("<I", len(added)))
    for token in added:
        flags = [bool(token.get(key)) for key in ("special", "lstrip", "rstrip")]
        file.write(struct.pack("<IBBB", token["id"], *flags) + _string(token["content"]))


def _prefix(item: _ITEM | None) -> list[int]:
    """The special tokens a prompt opens with; MNN 3.6 knows no others."""
    steps = _template(item)
    if steps.count(None) != 1 or steps[-1] is not None:
        _refuse("post-processor", "it puts special tokens behind the text")
    return [token for token in steps if token is not None]


def _template(item: _ITEM | None) -> list[int | None]:
    kind = None if item is None else item["type"]
    if item is None or kind == "ByteLevel":  # ByteLevel trims offsets; ids stay
        return [None]
    if kind == "Sequence":
        parts = [_template(child) for child in item["processors"]]
        real = [part for part in parts if part != [None]]
        if len(real) > 1:
            _refuse("post-processor", "a sequence of several templates")
        return real[0] if real else [None]
    if kind != "TemplateProcessing":
        _refuse("post-processor", f"`{kind}`")
    steps: list[int | None] = []
    for piece in item["single"]:
        if "Sequence" in piece:
            steps.append(None)
        else:
            steps += item["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return steps


def _sequence(file: BinaryIO, tag: int, items: Sequence[_ITEM], write: Callable[[BinaryIO, _ITEM], None]) -> None:
    file.write(struct.pack("<BI", tag, len(items)))
    for item in items:
        write(file, item)


def _reads_bytes(decoder: _ITEM | None) -> bool:
    """Whether the decoder maps the byte alphabet back to bytes."""
    if decoder is None:
        return False
    if decoder["type"] == "Sequence":
        return any(_reads_bytes(child) for child in decoder["decoders"])
    return decoder["type"] == "ByteLevel"


def _plain_pattern(component: str, item: _ITEM) -> str:
    if "String" not in item["pattern"]:
        _refuse(component, "`Replace` of a regular expression")
    return item["pattern"]["String"]


def _string(text: str) -> bytes:
    data = text.encode()
    if len(data) > 0xFFFF:
        _refuse("strings", f"one is {len(data)} bytes long, at most 65535 fit")
    return struct.pack("<H", len(data)) + data


def _in_bytes(text: str) -> str:
    """`text` spelled in GPT-2's byte alphabet: one printable character per byte."""
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in text.encode())


def compositions() -> list[tuple[str, str]]:
    """Replacements that bring text to NFC: singletons first, then pairs, a pair's parts before the pair."""
    singles: list[tuple[str, str]] = []
    pairs: list[tuple[int, str, str]] = []
    for point in range(0xA0, _LAST_CODE_POINT):
        parts = unicodedata.decomposition(chr(point)).split()
        if not parts or parts[0].startswith("<"):
            continue
        normal = unicodedata.normalize("NFC", chr(point))
        if normal != chr(point):
            singles.append((chr(point), normal))
        else:
            pairs.append((_depth(chr(point)), "".join(chr(int(part, 16)) for part in parts), chr(point)))
    return singles + [(pattern, made) for _, pattern, made in sorted(pairs)]


def _depth(char: str) -> int:
    parts = unicodedata.decomposition(char).split()
    return 1 + _depth(chr(int(parts[0], 16))) if parts and not parts[0].startswith("<") else 0
