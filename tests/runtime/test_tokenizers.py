"""Prompts in, text out: BOS, templates, and characters that several tokens make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.sources.tokenizer.tokenizer import TextStream, Tokenizer

FOLDER = Path(__file__).parents[2] / "examples" / "models" / "pycode-qwen3"
CHATML = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture
def make(tmp_path):
    """A tokenizer folder whose config says what is given beside its own."""

    def make(entry=None, template=None, **config):
        folder = tmp_path / "tokenizer"
        folder.mkdir(exist_ok=True)
        shutil.copy(FOLDER / "tokenizer.json", folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", **config}))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return Tokenizer(folder, {"bos": 0, "eos": [2], **(entry or {})})

    return make


def test_text_goes_and_comes_back(make):
    tokenizer = make()
    text = "def f(x):\n\treturn 'äöü €'\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([*tokenizer.encode("x"), 2]) == "x"


def test_bos_follows_the_config(make):
    plain = make().encode("x = 1")
    assert plain == make().plain("x = 1")
    assert make(add_bos_token=True).encode("x = 1") == [0, *plain]
    assert make(add_bos_token=True).encode("<|endoftext|>x = 1") == [0, *plain]  # there already
    assert make(add_bos_token=True, entry={"bos": None}).encode("x = 1") == plain
    assert make(add_bos_token=True).encode("") == [0]


@pytest.mark.parametrize("where", ["config", "file", "list"])
def test_chat(make, where):
    if where == "file":
        tokenizer = make(template=CHATML, chat_template="not this one")
    elif where == "config":
        tokenizer = make(chat_template=CHATML)
    else:
        rows = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
        tokenizer = make(chat_template=rows)
    ids = tokenizer.chat("hello")
    expected = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert ids == tokenizer.plain(expected)
    assert ids[0] == 1  # the special token, not its letters


def test_the_template_equals_transformers(make):
    """On what real templates use: loop controls, special tokens, tojson, trimmed blocks."""
    from transformers import PreTrainedTokenizerFast

    template = (
        "{% for m in messages %}\n  {% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "{{ bos_token }}{{ m.content | trim | tojson }}{{ eos_token }}\n{% endfor %}\n"
    )
    tokenizer = make(template=template, bos_token={"content": "<|endoftext|>"})
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    messages = [{"role": "user", "content": ' <b> "quoted" é '}]
    expected = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert tokenizer._render(messages) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only the system may speak') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for %}",
        "{{ messages[0].content + 1 }}",
    ],
)
def test_a_template_that_fails(make, tmp_path, golden_error, template):
    with pytest.raises(PlanError) as caught:
        make(template=template).chat("hello")
    assert caught.value.diagnostics[0].code == "E0921"
    if "only the system" in template:
        golden_error("E0921", caught.value, hide={str(tmp_path): "TMP"})


def test_a_stream_holds_back_unfinished_characters(make):
    tokenizer = make()
    text = "naïve € 漢字 done"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer)
    pieces = [stream.push([token]) for token in ids]
    assert "".join(pieces) + stream.rest() == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert "" in pieces  # some token ended inside a character


def test_what_never_becomes_a_character_is_told_at_the_end(make):
    tokenizer = make()
    half = tokenizer.encode("€")[:1]
    stream = TextStream(tokenizer)
    assert stream.push(half) == ""
    assert stream.rest() == tokenizer.decode(half) != ""
