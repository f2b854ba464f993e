"""Command-line arguments: argparse with the words we use for its mistakes.

A mistake of usage is exit code 2 with the usage of the command it was made in and, where one is near, what was meant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from ..diagnostics.nearest import nearest
from ..diagnostics.visible import shortened, visible
from ..diagnostics.wording import join_or


class Parser(argparse.ArgumentParser):
    """argparse whose errors name the command and the nearest word."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the mistake, and exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {shortened(visible(message))}\n")

    def commands(self) -> dict[str, Parser]:
        """The commands below this parser by name."""
        found = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return dict(found[0].choices) if found else {}

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a whole command line; a wrong command or option is told with the nearest right one."""
        commands = self.commands()
        if not arguments:
            self.print_help(sys.stderr)
            self.exit(2)
        word = next((one for one in arguments if not one.startswith("-")), None)
        if word is not None and word not in commands:
            near = nearest(word, commands)
            self.error(f"there is no command `{word}`" + (f"; did you mean `{near}`?" if near else ""))
        if word is None and arguments[0].partition("=")[0] not in self._option_string_actions:
            self.error(_unknown(arguments[0], self))
        found, unknown = self.parse_known_args(list(arguments))
        if unknown:
            own = commands[word] if word is not None else self
            own.take_more(found, unknown, commands)
        return found

    def take_more(self, found: argparse.Namespace, words: Sequence[str], commands: Mapping[str, Parser]) -> None:
        """Arguments that stand behind an option belong to the list before it, if there is one."""
        many = next((action for action in self.positionals() if action.nargs == "+"), None)
        wrong = next((word for word in words if word.startswith("-") or many is None), None)
        if many is None or wrong is not None:
            self.error(_unknown(wrong or words[0], self, commands))
        kind = many.type if callable(many.type) else str
        getattr(found, many.dest).extend(kind(word) for word in words)

    def options(self) -> Iterator[argparse.Action]:
        """Its options, without the commands below it."""
        return (action for action in self._actions if action.option_strings)

    def positionals(self) -> Iterator[argparse.Action]:
        """Its arguments without a name."""
        kinds = argparse._SubParsersAction
        return (action for action in self._actions if not action.option_strings and not isinstance(action, kinds))


def _unknown(word: str, parser: Parser, commands: Mapping[str, Parser] | None = None) -> str:
    if not word.startswith("-"):
        return f"`{word}` is one argument too many"
    name = word.partition("=")[0]
    near = nearest(name, [option for action in parser.options() for option in action.option_strings])
    having = [f"`edgec {other}`" for other, its in (commands or {}).items() if name in its._option_string_actions]
    if having:
        return f"there is no option `{name}`, {join_or(having, 'and')} {'have' if having[1:] else 'has'} it"
    return f"there is no option `{name}`" + (f"; did you mean `{near}`?" if near else "")
