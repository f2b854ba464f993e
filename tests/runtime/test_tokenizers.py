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


def test_the_post_processor_opens_a_text_and_no_key_does(make):
    """As in transformers 5, which takes `add_bos_token` out of a config that has a tokenizer.json beside it."""
    plain = make().encode("x = 1")
    assert plain == make().plain("x = 1")
    assert make(add_bos_token=True).encode("x = 1") == plain


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


TEMPLATES = [
    "{% for m in messages %}\n  {% if m.role == 'system' %}{% continue %}{% endif %}\n"
    "{{ bos_token }}{{ m.content | trim | tojson }}{{ eos_token }}\n{% endfor %}\n",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{{ strftime_now('%Y') }} {{ messages[0].content }}",
    "{% if tools is not none %}TOOLS{% endif %}{% if documents is defined and documents %}D{% endif %}{{ messages }}",
    "{{ sep_token }}{{ unk_token }}{{ image_token }}{{ messages[0].content | tojson(indent=2) }}",
    "{{ {'b': 1, 'a': [1, 2]} | tojson(sort_keys=true, separators=(',', ':')) }}{% if enable_thinking %}T{% endif %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_equals_transformers(make, template):
    """On what real templates use: loop controls, generation blocks, dates, tools, special tokens by name, tojson."""
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<|endoftext|>", "sep_token": "<|im_end|>", "image_token": "<|im_start|>"}
    tokenizer = make(template=template, **{**names, "bos_token": {"content": "<|endoftext|>"}})
    extra = {"image_token": names.pop("image_token")}
    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(FOLDER / "tokenizer.json"), eos_token="<|im_end|>", extra_special_tokens=extra, **names
    )
    said = ' <b> "quoted" é '
    messages = [{"role": "user", "content": said}]
    expected = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert tokenizer.render(said) == expected


def test_special_tokens_of_the_old_file(make, tmp_path):
    tokenizer = make(template="{{ bos_token }}|{{ sep_token }}", eos_token="<|im_end|>")
    (tokenizer._folder / "special_tokens_map.json").write_text(
        '{"bos_token": {"content": "<|endoftext|>", "lstrip": false}, "sep_token": "<|im_end|>"}'
    )
    assert tokenizer.render("x") == "<|endoftext|>|<|im_end|>"


def test_neither_cut_nor_padded(make):
    """Trainers leave both in tokenizer.json; transformers takes them out."""
    import json

    tokenizer = make()
    path = tokenizer._folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    text = "def f(x): return x"
    assert len(make_again(tokenizer).encode("x")) == 1
    assert make_again(tokenizer).encode(text) == tokenizer.encode(text)


def make_again(tokenizer):
    return Tokenizer(tokenizer._folder, {"bos": 0, "eos": [2]})


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
