"""The first form that holds: each is checked as `edgec check` does, estimated, and compared with the memory there is.

forms x contexts -> plan text -> check (dry run of the targets) -> estimate -> `require` lines with room to spare
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..diagnostics.diagnostic import Diagnostic, PlanError, fail
from ..driver import check_plan, estimate_plan
from ..files.new_file import check_new
from ..plan.devices import Device, known_help, resolve_device
from .bounds import peak_memory, requirements
from .forms import Line, cpu_forms, decoder_forms, graph_forms
from .found_model import FoundModel, find_model
from .texts import read_texts
from .written_plan import Deployed, Skeleton, Texts, plan_name

if TYPE_CHECKING:
    from ..driver import Estimate
    from ..plan.plan import Plan

Progress = Callable[[str], None]
Found = TypeVar("Found")
_PROMPT = 128  # tokens of a prompt that the NPU reads at once
_CONTEXT, _LEAST = 2048, 256  # positions of the cache: what is tried first, and last
_ENOUGH = 3  # refusals for the same reason, by two targets
_ROUNDS = "W0310"  # the target rounds integers that were to be kept
_UNREPORTED = "W0601"  # no phone with this NPU is reported to run the format


@dataclass(frozen=True)
class Request:
    """What `edgec init` is asked. `memory`: bytes that the models may take on the device; `texts`: see `texts.py`.

    `force`: a file at `output` may be written over.
    """

    model: str
    output: Path
    device: str = "host"
    memory: int | None = None
    draft: str | None = None
    context: int | None = None
    texts: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, repr=False)
class FirstPlan:
    """A plan that holds: `text`, checked as `plan`; `tried`: what was refused before it, and why."""

    path: Path
    text: str
    plan: Plan
    estimate: Estimate
    tried: tuple[str, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()

    def __repr__(self) -> str:
        lines = [f"{one.model} on {one.device} as {one.target}" for one in self.plan.deploys]
        return f"<first plan {self.path}: {', '.join(lines)}>"


@dataclass
class _Trials:
    """What was tried: refusals in words, and the nearest that memory alone ruled out."""

    said: list[str] = field(default_factory=list)
    refused: list[PlanError] = field(default_factory=list)
    targets: set[tuple[str, ...]] = field(default_factory=set)  # of the forms that were refused
    least: tuple[float, str] | None = None


def first_plan(request: Request, progress: Progress = lambda _text: None) -> FirstPlan:
    """The best plan that holds for the request; all that is wrong with it at once, E0981 where no form holds.

    A form that no phone is reported to run is taken where no other holds.
    """
    device, model, draft, texts = _understood(request)
    trials, doubtful = _Trials(), None
    for context in _contexts(request, model, draft):
        for skeleton in _skeletons(request, device, model, draft, texts, context):
            found = _tried(request, skeleton, trials, progress)
            if found is None:
                continue
            if not any(one.code == _UNREPORTED for one in found.warnings):
                return found
            doubtful = doubtful or found
        if doubtful is not None:
            return doubtful
        if trials.least is None:  # a shorter cache saves memory, and nothing else
            break
    _none_holds(request, device, trials)


def _understood(request: Request) -> tuple[Device, FoundModel, FoundModel | None, Texts]:
    """What the request names; PlanError with every mistake in it, a file that may not be written over among them."""
    wrong: list[Diagnostic] = []

    def tried(read: Callable[[], Found]) -> Found | None:
        try:
            return read()
        except PlanError as error:
            wrong.extend(error.diagnostics)
            return None

    tried(lambda: check_new(request.output, request.force))
    device = tried(lambda: _device(request.device))
    model = tried(lambda: find_model(request.model))
    draft = None if request.draft is None else tried(lambda: find_model(str(request.draft)))
    texts = None
    if model is not None:
        tried(lambda: _pair(model, draft))
        texts = tried(lambda: read_texts(request.texts, request.evaluation, model))
    if wrong or device is None or model is None or texts is None:
        raise PlanError(*dict.fromkeys(wrong))
    return device, model, draft, texts


def _device(name: str) -> Device:
    found = resolve_device(name)
    if found is None:
        fail("E0103", f"unknown device `{name}`", help=known_help(name))
    return found


def _pair(model: FoundModel, draft: FoundModel | None) -> None:
    for one in (model, draft) if draft is not None else ():
        if one is not None and one.arch is None:
            message = f"`{one.path}` is a plain graph, and a draft proposes tokens to a language model"
            fail("E0980", message, help="leave `--draft` out, or name two language models with one tokenizer")


def _skeletons(
    request: Request,
    device: Device,
    model: FoundModel,
    draft: FoundModel | None,
    texts: Texts,
    context: Line | None,
) -> Iterator[Skeleton]:
    """Every form of the model, with every form of its draft."""
    why = f"the chip that was asked for: {device.marketing}" if not device.is_host else "this machine's CPU"
    solves, evaluated = bool(texts.calibration), bool(texts.evaluation) and request.memory is None
    buckets = _buckets(context, draft is not None)
    for form in graph_forms(device) if model.arch is None else decoder_forms(model, device, solves, buckets):
        first = Deployed("net" if model.arch is None else "target" if draft else "llm", model, form)
        others = [None] if draft is None else [Deployed("draft", draft, one) for one in cpu_forms(draft, solves)]
        for other in others:
            both = tuple(_with_memory(one, evaluated) for one in (first, other) if one is not None)
            name, folder = plan_name(model.path), request.output.parent
            yield Skeleton(name, device, why, context, both, texts, folder, draft is not None)


def _buckets(context: Line | None, pair: bool) -> Line:
    """Static shapes: a token and a piece of a prompt, as long as half the context has room for it."""
    positions = int(context.text.rpartition("=")[2]) if context is not None else 0
    prompt = min(_PROMPT, 1 << max(0, (positions // 2).bit_length() - 1))
    tokens = "auto" if pair else f"[1, {prompt}]" if prompt > 1 else "[1]"
    why = "those that rounds and prompts need" if pair else "one token, and a piece of a prompt"
    return Line(f"bucket (tokens = {tokens}, context = [ctx])", f"an NPU's graphs are static: {why}")


def _with_memory(one: Deployed, evaluated: bool) -> Deployed:
    """`memory = auto` of MNN compares modes on the evaluation text, and takes more memory where the small one costs."""
    from dataclasses import replace

    return one if evaluated or not one.form.options else replace(one, form=replace(one.form, options=""))


def _contexts(request: Request, model: FoundModel, draft: FoundModel | None) -> Iterator[Line | None]:
    if model.arch is None:
        yield None
        return
    longest = min(one.arch.max_positions for one in (model, draft) if one is not None and one.arch is not None)
    if request.context is not None:
        yield Line(f"let ctx = {request.context}", f"positions of the K/V cache, as asked; the model knows {longest:,}")
        return
    context = min(_CONTEXT, longest)
    while context >= min(_LEAST, longest):
        why = f"positions of the K/V cache: a question and its answer; the model knows {longest:,}"
        yield Line(f"let ctx = {context}", f"{why} (`edgec compile -D ctx={max(2, context // 2)}` takes less memory)")
        context //= 2


def _tried(request: Request, skeleton: Skeleton, trials: _Trials, progress: Progress) -> FirstPlan | None:
    """The plan of this form, if it holds."""
    what = ", ".join(
        f"{one.name} on {one.form.place} as {one.form.target}"
        + (f" in {one.form.bits} bits" if one.form.bits else " as stored" if one.form.kept else "")
        for one in skeleton.models
    )
    what += "" if skeleton.context is None else f", {skeleton.context.text.removeprefix('let ')}"
    progress(f"trying {what}")
    checked = _checked(request.output, skeleton, what, trials, fast=True)
    if checked is None:
        return None
    if request.memory is not None and not _fits(checked, what, request.memory, trials):
        return None
    checked = _checked(request.output, skeleton, what, trials, fast=False)
    if checked is None:
        return None
    made = estimate_plan(checked)
    text = skeleton.text(requirements(checked, made, skeleton, request.memory))
    plan, diagnostics, sources = check_plan(request.output, (), text)
    if plan is None:
        raise PlanError(*(one for one in diagnostics if one.severity == "error"), sources=sources)
    warnings = tuple(one for one in diagnostics if one.severity == "warning")
    found = FirstPlan(request.output, text, plan, made, tuple(trials.said), warnings)
    trials.said += [f"{what}: {one.message}" for one in warnings if one.code == _UNREPORTED][:1]
    return found


def _fits(plan: Plan, what: str, memory: int, trials: _Trials) -> bool:
    """Whether the models fit the memory; one whose parts cannot be made is for the check to refuse."""
    try:
        need = peak_memory(plan, estimate_plan(plan))
    except PlanError:
        return True
    if need <= memory:
        return True
    trials.said.append(f"{what}: it needs {need / 1e6:,.1f} MB")
    if trials.least is None or need < trials.least[0]:
        trials.least = (need, what)
    return False


def _checked(path: Path, skeleton: Skeleton, what: str, trials: _Trials, fast: bool) -> Plan | None:
    plan, diagnostics, sources = check_plan(path, (), skeleton.text(), fast)
    kept = not fast and any(one.form.kept for one in skeleton.models)
    errors = [one for one in diagnostics if one.severity == "error"]
    rounded = [one for one in diagnostics if one.code == _ROUNDS] if kept else []
    if plan is not None and not rounded:
        return plan
    first = (errors or rounded)[0]
    trials.said.append(f"{what}: {first.message}")
    if errors:
        trials.refused.append(PlanError(*errors, sources=sources))
        trials.targets.add(tuple(one.form.target for one in skeleton.models))
        if len(trials.refused) >= _ENOUGH and len(trials.targets) > 1 and _the_same(trials):
            raise trials.refused[0]
    return None


def _the_same(trials: _Trials) -> bool:
    """Whether every form was refused for one reason, which is then no matter of forms."""
    return len({one.diagnostics[0].message for one in trials.refused}) == 1 and len(trials.refused) == len(trials.said)


def _none_holds(request: Request, device: Device, trials: _Trials) -> NoReturn:
    if trials.least is not None and request.memory is not None:
        need, what = trials.least
        message = (
            f"no form of `{request.model}` fits {request.memory / 1e6:,.0f} MB on `{device.name}`: "
            f"the smallest, {what}, needs {need / 1e6:,.1f} MB"
        )
        help = f"give `--memory {-int(-need // 1e6)}MB`, a shorter `--context`, or a smaller model"
        fail("E0981", message, help=help)
    if trials.refused and _the_same(trials):
        raise trials.refused[0]
    why = "\n    ".join(dict.fromkeys(trials.said))
    message = f"no form of `{request.model}` holds on `{device.name}`:\n    {why}"
    fail("E0981", message, help="write the plan by hand (docs/language.md), or try `--device host`")
