"""A plan that compiles in a second, and graphs of actions that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler.actions.action import Action, Graph

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
PLAN = """plan small
let block = 32
model draft {{ source = hf("{models}/pycode-qwen3") context = 64 }}
device host
pipeline p {{ quantize (weights = int4, block = block) }}
deploy draft on cpu through p as mnn {{ accept = [W0307] reason = "a test" }}
"""


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plan in a folder of its own, with a cache of its own."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "p.edge"
    path.write_text(PLAN.format(models=MODELS))
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def idle(name: str, needs: tuple[str, ...] = (), memory: float = 1.0, seconds: float = 1.0) -> Action:
    """An action that nobody can run, known by its name."""
    return Action("emit", name, {"name": name}, needs, {}, memory, seconds)


@pytest.fixture
def diamond() -> Callable[[float], Graph]:
    """One action, two that need it, one that needs both."""

    def made(memory: float = 1.0) -> Graph:
        graph = Graph()
        first = graph.add(idle("first", memory=memory))
        left, right = (graph.add(idle(name, (first,), memory)) for name in ("left", "right"))
        graph.add(idle("last", (left, right), memory))
        return graph

    return made
