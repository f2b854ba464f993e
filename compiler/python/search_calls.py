"""`edgec.init`, `edgec.sweep`, `edgec.tune`: the commands of the same names, called from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .calls import Defines, written_defines

if TYPE_CHECKING:
    from ..first_plan.choose import FirstPlan
    from ..search.sweep import Sweep
    from ..search.tune import Tuned


def init(
    model: str | Path,
    output: str | Path = "plan.edge",
    *,
    device: str = "host",
    memory: int | None = None,
    draft: str | Path | None = None,
    context: int | None = None,
    texts: Sequence[str | Path] = (),
    evaluation: Sequence[str | Path] = (),
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> FirstPlan:
    """Write a first plan for a model and a device that holds, with the reason for each line.

    model       a Hugging Face folder, a .gguf or an .onnx file
    output      the plan to write; an older file is left alone without `force`
    device      as `edgec devices` lists them
    memory      bytes that the models may take on the device
    draft       a smaller model with the same tokenizer, which proposes tokens
    context     positions of the K/V cache
    texts       what weights are solved on; of several the last is kept back to measure perplexity on
    evaluation  what perplexity is measured on

    PlanError: E0980 for no model, E0981 where no form of it holds, E0982 for a file that is there already.
    """
    from ..files.new_file import write_new
    from ..first_plan.choose import Request, first_plan

    path = Path(output)
    request = Request(
        model=str(model),
        output=path,
        device=device,
        memory=memory,
        draft=None if draft is None else str(draft),
        context=context,
        texts=tuple(map(str, texts)),
        evaluation=tuple(map(str, evaluation)),
        force=force,
    )
    made = first_plan(request, progress or (lambda _text: None))
    write_new(path, made.text, force)
    return made


def sweep(
    plan: str | Path,
    defines: Defines,
    *,
    output: str | Path | None = None,
    keep_going: bool = False,
    most: int = 256,
    jobs: int = 1,
    memory: int | None = None,
    on: str | None = None,
    store: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Sweep:
    """Compile a plan with every combination of the values in the lists of `defines`.

    plan        the path of a plan
    defines     name of a `let` -> a list of values to sweep over, or one value for every point
    output      a folder to keep the bundles in, one for each point; without it they are measured and removed
    keep_going  make the other points where one fails
    most        refuse more points than these
    jobs        actions that run at a time, each in a process of its own, within `memory` bytes; 1: no graph of actions
    on, store   a scheduler that runs them, and what its workers share

    The `Sweep` has `points`, each with its `values`, `figures`, `state` and `error`, and the `front` of them; notebooks
    show its page. PlanError: E0113, E0207 for a name or a value that does not fit, E0983 for nothing to sweep over,
    E0984 for too many points.
    """
    from ..driver import by_actions
    from ..search.sweep import sweep as run

    keep = None if output is None else Path(output)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    options = by_actions(jobs, memory, on, store, keep_going, progress or (lambda _text: None))
    return run(Path(plan), written_defines(defines), options, keep, most)


def tune(
    plan: str | Path,
    output: str | Path | None = None,
    *,
    defines: Defines | None = None,
    goal: str | None = None,
    seconds: float = 600.0,
    runs: int | None = None,
    trials: int = 400,
    jobs: int = 1,
    memory: int | None = None,
    on: str | None = None,
    store: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Choose the values of a plan's `tune(…)` lets so that every `require` line holds and the goal is best.

    plan     the path of a plan
    output   the plan to write, by default PLAN with `.tuned` before `.edge`; never over another without `force`
    defines  values of lets that are not to be searched
    goal     what is to be best, such as `decode.rate`, in the place of the plan's own
    seconds  the time budget; what begins before it ends is finished
    runs     compile at most so many points; by default a quarter of the space, 3 to 24
    trials   look at no more proposals than these
    jobs     actions of a compile that run at a time, within `memory` bytes; `on`, `store`: as for `compile`

    The `Tuned` has `winner`, `text`, `candidates` (the best first), `front`, `engine_runs`. PlanError: E0985 without
    Optuna, E0986 for nothing to tune or no goal. RequirementError: E0987 where no point meets every line.
    """
    from ..driver import by_actions
    from ..files.new_file import check_new, write_new
    from ..search.tune import Wanted, tune_plan, tuned_path

    path = Path(plan)
    into = tuned_path(path) if output is None else Path(output)
    check_new(into, force)
    wanted = Wanted(goal, seconds, runs, trials)
    options = by_actions(jobs, memory, on, store, progress=progress or (lambda _text: None))
    found = tune_plan(path, written_defines(defines), into, wanted, options)
    write_new(into, found.text, force)
    return found
