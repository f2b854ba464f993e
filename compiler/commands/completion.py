"""`edgec help` and `edgec completion bash | zsh | fish`, made from the parser itself: they know every option."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics.explain import codes
from ..diagnostics.nearest import nearest
from ..plan.devices import devices
from ..registry import pass_names
from .arguments import Parser

_PLANS, _DIRECTORIES = "*.edge *.plan", "directories"


def run_help(arguments: argparse.Namespace) -> int:
    """Print the help of edgec or of one command."""
    parser: Parser = arguments.parser
    name, known = arguments.command, parser.commands()
    if name is not None and name not in known:
        near = nearest(name, known)
        parser.error(f"there is no command `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    (known[name] if name else parser).print_help()
    return 0


def run_completion(arguments: argparse.Namespace) -> int:
    """Print the script for one shell."""
    names = {"devices": list(devices()), "passes": pass_names(), "explain": list(codes())}
    print(completion(arguments.shell, arguments.parser, names), end="")
    return 0


def completion(shell: str, parser: Parser, words: Mapping[str, Sequence[str]]) -> str:
    """A script that completes `edgec` in bash, zsh or fish.

    `words` are what the argument of a command may be; plans complete to files, bundles to directories.
    """
    words = {"help": list(parser.commands()), **words}
    rows = [
        (name, command, " ".join(words[name]) if name in words else _values(command))
        for name, command in parser.commands().items()
    ]
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](rows)


_Rows = Sequence[tuple[str, Parser, str]]


def _values(command: Parser) -> str:
    """What the first argument of a command completes to: words, or a kind of file."""
    for action in command.positionals():
        if action.choices:
            return " ".join(map(str, action.choices))
        return {"plan": _PLANS, "plans": _PLANS, "bundle": _DIRECTORIES}.get(action.dest, "files")
    return ""


def _long(command: Parser) -> list[argparse.Action]:
    return [action for action in command.options() if any(one.startswith("--") for one in action.option_strings)]


def _name(action: argparse.Action) -> str:
    return next(one for one in action.option_strings if one.startswith("--"))


def _bash(rows: _Rows) -> str:
    cases = []
    for name, command, values in rows:
        options = " ".join(map(_name, _long(command)))
        files = {
            _PLANS: 'COMPREPLY+=($(compgen -f -X "!*.@(edge|plan)" -- "$word") $(compgen -d -- "$word"))',
            _DIRECTORIES: 'COMPREPLY+=($(compgen -d -- "$word"))',
            "files": 'COMPREPLY+=($(compgen -f -- "$word"))',
        }
        rest = files.get(values, f'COMPREPLY+=($(compgen -W "{values}" -- "$word"))')
        cases.append(f'    {name}) COMPREPLY=($(compgen -W "{options}" -- "$word")); {rest} ;;')
    names = " ".join(name for name, _, _ in rows)
    return "\n".join(
        [
            '# bash completion of edgec: eval "$(edgec completion bash)"',
            "_edgec() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}"',
            "  shopt -s extglob",
            "  if [ $COMP_CWORD -eq 1 ]; then",
            f'    COMPREPLY=($(compgen -W "{names} --help --version" -- "$word")); return',
            "  fi",
            '  case "${COMP_WORDS[1]}" in',
            *cases,
            "  esac",
            "}",
            "complete -o filenames -F _edgec edgec",
            "",
        ]
    )


def _zsh(rows: _Rows) -> str:
    def quoted(text: str) -> str:
        return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", "\\:")

    described = " ".join(f"'{name}:{quoted(command.description or '')}'" for name, command, _ in rows)
    cases = []
    for name, command, values in rows:
        options = [f"'{_name(action)}[{quoted(action.help or '')}]{_zsh_value(action)}'" for action in _long(command)]
        files = {_PLANS: '_files -g "*.(edge|plan)"', _DIRECTORIES: "_files -/", "files": "_files"}
        rest = f"'*: :{files.get(values, f'({values})')}'" if values else ""
        cases.append(f"    {name}) _arguments {' '.join([*options, rest])} ;;")
    return "\n".join(
        [
            "#compdef edgec",
            '# zsh completion of edgec: eval "$(edgec completion zsh)"',
            "_edgec() {",
            f"  local -a commands=({described})",
            "  if (( CURRENT == 2 )); then _describe command commands; return; fi",
            "  shift words; (( CURRENT-- ))",
            '  case "$words[1]" in',
            *cases,
            "  esac",
            "}",
            "compdef _edgec edgec",
            "",
        ]
    )


def _zsh_value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f":{action.metavar or action.dest}:" + ("_files" if _is_path(action) else "")


def _is_path(action: argparse.Action) -> bool:
    return action.metavar in ("DIR", "FILE", "NPZ") or getattr(action.type, "__name__", "") == "Path"


def _fish(rows: _Rows) -> str:
    def quoted(text: Any) -> str:
        return "'" + str(text or "").replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = ["# fish completion of edgec: edgec completion fish | source", "complete -c edgec -f"]
    for name, command, values in rows:
        lines.append(f"complete -c edgec -n __fish_use_subcommand -a {name} -d {quoted(command.description)}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for action in _long(command):
            takes = "" if action.nargs == 0 else " -r -F" if _is_path(action) else " -x"
            lines.append(f"complete -c edgec {seen} -l {_name(action)[2:]}{takes} -d {quoted(action.help)}")
        files = {
            _PLANS: "-a '(__fish_complete_suffix .edge .plan)'",
            _DIRECTORIES: "-a '(__fish_complete_directories)'",
            "files": "-F",
        }
        if values:
            lines.append(f"complete -c edgec {seen} {files.get(values, f'-a {quoted(values)}')}")
    return "\n".join([*lines, ""])
