"""MNN's own tokenizer on the emitted file gives the ids of `tokenizers`, or the component it cannot carry is named."""

from __future__ import annotations

import copy
import json
import string
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.targets.mnn.tokenizer import mtok
from edgec.targets.mnn.tokenizer.agreement import CORPUS, TokenizerProbe, check
from edgec.targets.mnn.tokenizer.equivalents import reads_blanks_behind_tokens, with_equivalents
from tokenizers import Tokenizer

from .conftest import MODELS

SOURCE = MODELS / "pycode-qwen3" / "tokenizer.json"
HELD_OUT = MODELS.parent / "text" / "heldout.txt"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def spec(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(json.loads(SOURCE.read_text())), **changes}


def split(pattern: str, behaviour: str = "Isolated") -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behaviour, "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def template(token: str, index: int, behind: bool = False) -> dict[str, Any]:
    pieces = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": pieces[::-1] if behind else pieces,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def llama2() -> dict[str, Any]:
    """BPE over characters with byte fallback, spaces as U+2581."""
    vocab: dict[str, int] = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [f"<0x{i:02X}>" for i in range(256)] + list("\u2581" + string.ascii_letters + string.digits + ".,'!?"):
        vocab[piece] = len(vocab)
    pairs = ["t h", "th e", "\u2581 the", "i n", "\u2581 a", "\u2581 \u2581", "H e", "l l", "He ll", "Hell o", "1 2"]
    for pair in pairs:
        vocab[pair.replace(" ", "")] = len(vocab)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": vocab,
        "merges": [pair.split(" ") for pair in pairs],
    }
    steps = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return spec(
        model=model,
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": steps},
        added_tokens=[
            {**PLAIN, "id": i, "content": c, "special": True} for i, c in enumerate(["<unk>", "<s>", "</s>"])
        ],
        post_processor=template("<s>", 1),
    )


ADDED = [
    {**PLAIN, "id": 2048, "content": "<think>"},
    {**PLAIN, "id": 2049, "content": "<\u00e9 tool>", "lstrip": True, "rstrip": True},
    {**PLAIN, "id": 2050, "content": "<|im_start|>x", "special": True},  # longer than another that it begins with
]
CARRIED = {
    "as trained": spec(),
    "qwen": spec(normalizer={"type": "NFC"}, pre_tokenizer=split(QWEN)),
    "llama3": spec(
        pre_tokenizer=split(LLAMA3),
        post_processor={
            "type": "Sequence",
            "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                template("<|endoftext|>", 0),
            ],
        },
    ),
    "llama2": llama2(),
    "added": spec(added_tokens=[*spec()["added_tokens"], *ADDED]),
}


def write(folder: Path, tokenizer: dict[str, Any], **more: Any) -> tuple[Path, Path]:
    source, out = folder / "tokenizer.json", folder / "tokenizer.mtok"
    source.write_text(json.dumps(tokenizer))
    mtok.write_mtok(source, out, **more)
    return source, out


@pytest.mark.parametrize("name", CARRIED)
def test_ids_and_text_agree(name, tmp_path):
    source, out = write(tmp_path, CARRIED[name], stops=[2])
    check(out, source)
    reference = Tokenizer.from_file(str(source))
    texts = [text for text in CORPUS if text] + HELD_OUT.read_text()[:20000].split("\n\n")
    with TokenizerProbe(out) as probe:
        assert probe.encode(texts) == [encoding.ids for encoding in reference.encode_batch(texts)]
        for text in texts[:20]:
            ids = reference.encode(text, add_special_tokens=False).ids
            assert probe.decode(ids).removeprefix(" " if name == "llama2" else "") == reference.decode(ids)


def test_added_tokens_that_are_not_special_are_seen_in_the_text(tmp_path):
    _, out = write(tmp_path, CARRIED["added"])
    with TokenizerProbe(out) as probe:
        assert probe.decode([2048, 67, 2049]) == "<think>a<\u00e9 tool>"
        assert probe.decode([0, 67, 2050]) == "a"


def test_compositions_bring_text_to_nfc():
    text = "e\u0301 \u212b n\u0303 \u1e9b\u0307 a\u0323\u0302 \u03b1\u0314\u0301 \u0958 plain 日本語 \u200d"
    for pattern, made in mtok.compositions():
        text = text.replace(pattern, made)
    assert text == unicodedata.normalize("NFC", text)
    assert all(unicodedata.normalize("NFC", a) == b for a, b in mtok.compositions())


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
ON_A_STRING = {"type": "Split", "pattern": {"String": "e."}, "behavior": "Isolated", "invert": False}
TRUNCATED = {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}}
METASPACE = {"type": "Metaspace", "replacement": "\N{LOWER ONE EIGHTH BLOCK}", "prepend_scheme": "always"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES],
            }
        },
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTES],
            }
        },
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [ON_A_STRING, BYTES]}},
        {"pre_tokenizer": split("[ae]", "Contiguous")},
        {"model": {**spec()["model"], "unk_token": "<unk>"}},
        TRUNCATED,
    ],
)
def test_components_with_an_equivalent(changes, tmp_path):
    """Each carried in another form, with the ids of `tokenizers` on the corpus."""
    source, out = write(tmp_path, spec(**changes))
    check(out, source)


def test_what_metaspace_does_behind_added_tokens():
    first = {"pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}}
    assert reads_blanks_behind_tokens(first)
    assert not reads_blanks_behind_tokens({"pre_tokenizer": METASPACE})
    made = with_equivalents({"pre_tokenizer": METASPACE})["pre_tokenizer"]
    assert [one["type"] for one in made["pretokenizers"]] == ["Metaspace", "Split"]


REFUSED = {
    "it is `Unigram`": {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}},
    "`dropout`": {"model": {**spec()["model"], "dropout": 0.1}},
    "without `byte_fallback`": {"model": {**spec()["model"], "unk_token": "<unk>"}, "pre_tokenizer": None},
    "normalizer of this tokenizer.json: `NFKC`": {"normalizer": {"type": "NFKC"}},
    "`Replace` of a regular expression": {
        "normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}
    },
    "`add_prefix_space`": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
    "pre-tokenizer of this tokenizer.json: `Whitespace`": {"pre_tokenizer": {"type": "Whitespace"}},
    "behaviour `MergedWithNext`": {"pre_tokenizer": split(r"\s", "MergedWithNext")},
    "decoder of this tokenizer.json: `CTC`": {"decoder": {"type": "CTC"}},
    "decoder of this tokenizer.json: there is none": {"decoder": None},
    "`single_word`": {"added_tokens": [{**PLAIN, "id": 2048, "content": "x", "single_word": True}]},
    "behind the text": {"post_processor": template("<|im_end|>", 2, behind=True)},
    "post-processor of this tokenizer.json: `BertProcessing`": {
        "post_processor": {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}
    },
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_cannot_carry_is_named(why, tmp_path):
    with pytest.raises(PlanError) as caught:
        write(tmp_path, spec(**REFUSED[why]))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0720"
    assert why in diagnostic.message


def test_the_refusal_as_it_reads(tmp_path, golden_error):
    with pytest.raises(PlanError) as caught:
        write(tmp_path, spec(pre_tokenizer={"type": "Whitespace"}))
    golden_error("E0720", caught.value)


def test_a_pattern_that_mnn_reads_differently_is_found(tmp_path, golden_error):
    source, out = write(tmp_path, spec(pre_tokenizer=split(r"\s+", "Removed")))  # U+0085 is no \s to MNN
    with pytest.raises(EngineError) as caught:
        check(out, source)
    golden_error("E0721", caught.value)
