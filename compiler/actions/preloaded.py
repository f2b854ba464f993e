"""The process that those of actions are forked from, with what they need imported.

Nothing here takes long to import: the server starts before edgec imports arrays and graphs, and imports them beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..emit.fork_server import workers
from ..registry import find_target

if TYPE_CHECKING:
    from ..emit.fork_server import ForkServer as ForkServer
    from ..plan.plan import Plan

# what actions need beside their worker and their targets
IMPORTS = ("edgec.dsl.checker", "edgec.compiler.partition.parts", "edgec.compiler.compile.emit_parts")


def preloaded(worker: str, plans: Iterable[Plan]) -> AbstractContextManager[ForkServer | None]:
    """For the block, where processes of `worker` for actions of these plans are forked from."""
    targets = dict.fromkeys(find_target(deploy.target) for plan in plans for deploy in plan.deploys)
    return workers(worker, (*IMPORTS, *(name for target in targets for name in target.imports)))
