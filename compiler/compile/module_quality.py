"""Perplexity of the modules that a plan makes, without an engine: what a search asks before it compiles anything.

load -> steps on weights (solved ones come from the cache) -> module -> perplexity over a few windows
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import blamed_on
from .model_steps import load_model, run_steps
from .options import CompileOptions, Progress

if TYPE_CHECKING:
    from ..plan.plan import Deploy, Plan


def module_quality(
    plan: Plan, windows: int, progress: Progress = lambda _text: None, only: Collection[str] | None = None
) -> dict[str, tuple[float, float]]:
    """Model -> (perplexity, that of the float model), over the first `windows` windows of the plan's evaluation text.

    `only`: these models. Models that are no language models are left out; E0952 where the text is too short.
    """
    found = {}
    for deploy in plan.deploys if plan.evaluation is not None else ():
        wanted = only is None or deploy.model in only
        if wanted and plan.models[deploy.model].arch is not None:
            with blamed_on(deploy.span):
                found[deploy.model] = _quality(plan, deploy, windows, progress)
    return found


def _quality(plan: Plan, deploy: Deploy, windows: int, progress: Progress) -> tuple[float, float]:
    from ..oracle.text_perplexity import check_windows, module_perplexity, read_text, token_ids
    from ..pipeline.measured_steps import late_changes, split_steps
    from ..registry import cache_steps

    evaluation, decl = plan.evaluation, plan.models[deploy.model]
    assert evaluation is not None  # `module_quality` asks
    folder = decl.source.tokenizer_folder
    if folder is not None:  # before any weight is solved
        check_windows(token_ids(folder, read_text(evaluation.text)), windows, evaluation.span)
    options = CompileOptions(progress=progress)
    module = load_model(decl)
    steps = plan.steps(deploy)
    changed = [*split_steps(steps)[0], *cache_steps(deploy.kv, deploy.span), *late_changes(steps)]
    run_steps(module, changed, plan, deploy, options)
    progress(f"{deploy.model}: perplexity over {windows} windows")
    value = module_perplexity(module, evaluation.text, windows)
    return value, module_perplexity(load_model(decl), evaluation.text, windows, decl.source.files)
