"""A profile from the file that a `shadow` line names, held against the model and the line."""

from __future__ import annotations

from pathlib import Path

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.pipeline.pass_interface import Scope
from .asked import Asked, Groups, input_of, model_digest
from .profile import Profile, read

_AGAIN = "make it anew with `edgec profile PLAN --output FILE`, or leave out `profile`"


def given(groups: Groups, asked: Asked, scope: Scope) -> Profile:
    """The profile in the file; E0433 for no profile, E0434 for another model's. A dry run compares names and shapes."""
    shown = f"`{asked.profile}`"
    folder = Path() if scope.origin is None else Path(scope.origin.file).parent
    try:
        held = read(folder / asked.profile)
    except OSError as error:
        fail("E0433", f"{shown} cannot be read: {error.strerror}", scope.origin, help=_AGAIN)
    except ValueError as error:
        fail("E0433", f"{shown} is no profile of `edgec profile`: {error}", scope.origin, help=_AGAIN)
    for name in ("coverage", "max_channels"):
        have, want = getattr(held, name), getattr(asked, name)
        if have != want:
            message = f"{shown} was made with `{name} = {100 * have:g}%`, the line asks for {100 * want:g}%"
            fail("E0433", message, scope.origin, help=f"write `{name} = {100 * have:g}%`, or {_AGAIN}")
    if held.mode != asked.mode:
        message = f"{shown} was made with `mode = {held.mode}`, the line asks for {asked.mode}"
        fail("E0433", message, scope.origin, help=f"write `mode = {held.mode}`, or {_AGAIN}")
    if held.rare != asked.rare:
        message = f"{shown} was made with {_rare(held.rare)}, the line asks for {_rare(asked.rare)}"
        fail("E0433", message, scope.origin, help=f"write {_rare(held.rare)}, or {_AGAIN}")
    _compare(held, groups, shown, scope)
    return held


def _rare(channels: int) -> str:
    return f"`rare = read, rare_channels = {channels}`" if channels else "`rare = clip`"


def _compare(held: Profile, groups: Groups, shown: str, scope: Scope) -> None:
    rows = {row.name: (row.input, row.outputs, row.inputs) for row in held.linears}
    wanted = {one.name: (input_of(group), *one.shape) for group in groups for one in group}
    why = next((f"`{name}` is not in it" for name in wanted if name not in rows), None)
    why = why or next((f"it has `{name}`, which the line does not select" for name in rows if name not in wanted), None)
    for name, (_, n, k) in wanted.items():
        if why is None and rows[name] != wanted[name]:
            why = f"its `{name}` has {rows[name][1]} outputs of {rows[name][2]} inputs, here it has {n} of {k}"
    if why is None and not scope.dry and held.model != model_digest(groups):
        why = "the weights are others"
    if why is not None:
        fail("E0434", f"{shown} is the profile of another model: {why}", scope.origin, help=_AGAIN)
