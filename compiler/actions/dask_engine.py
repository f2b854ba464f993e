"""Actions on a Dask scheduler: it decides what runs where, its workers' `resources` how much at a time.

    submit every action with those it needs ─▶ a worker does it in a process of its own ─▶ its result is in the store

Workers share the cache's folder, or a store (`--store`). Before anything is sent, every worker is asked for its edgec,
its engines and whether it sees the cache. Results are known by their keys: after whatever failure, a compile that is
started again goes on where it was.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from ..compile.options import CompileOptions
from ..diagnostics.diagnostic import EdgecError, EngineError, fail
from ..emit.fork_server import ForkServer, can_fork
from ..files import cache
from ..registry import find_target
from . import records
from .action import Action, Graph
from .executor import Cancelled, Outcome, Row, Watch
from .facts import own_code
from .local import started
from .preloaded import IMPORTS
from .records import Result
from .store import open_store

WORKER = "edgec.compiler.commands.action_worker"
RESOURCE = "memory"
_CONNECT = 10  # seconds
_POLL, _EVERY, _IDLE = 0.05, 5, 120  # seconds between looks at results and at workers; that none may be at work
_START = "start one with `dask scheduler` and `dask worker tcp://HOST:8786 --resources memory=16e9`"
_AGAIN = "start the compile again: what has run is kept"
# the package that an action of a target needs on its worker
_ENGINES = {"qnn": "onnxruntime-qnn", "mnn": "MNN", "ort": "onnxruntime"}


def run_on_dask(
    graph: Graph,
    address: str,
    options: CompileOptions,
    tell: Callable[[str, Row, int, int], None],
    name: str,
    watch: Watch | None = None,
) -> Outcome:
    """Run what of the graph has not run. Failures are in the outcome; EngineError where the scheduler is no use."""
    watch = watch or Watch()
    try:
        import distributed
        from distributed.client import FutureCancelledError
    except ImportError:
        fail("E0974", "`--on dask://…` needs Dask, which is not installed", help="`pip install 'edgec[farm]'`")
    left = {key: action for key, action in graph if not _has_run(key, options.store)}
    for key, action in graph:
        if key not in left:
            watch.outcome.rows.append(Row(action, 0.0, state="cached"))
            watch.finished.add(key)
    if not left:
        return watch.outcome
    with _client(distributed, address) as client:
        _same_versions(client, address)
        settings = _settings(left.values(), options)
        try:
            resources = _workers(client, address, left, options, settings)
            _Run(graph, left, settings, options.keep_going, tell, name, watch, resources).work(client, distributed)
        except (OSError, FutureCancelledError, TimeoutError) as error:
            fail("E0975", f"the scheduler at {address} was lost: {error}", help=_AGAIN, kind=EngineError)
    return watch.outcome


def remote(description: str, settings: Mapping[str, Any], *_needs: object) -> tuple[str, Any]:
    """On a worker: do an action in a process of its own. (`ok`, result) or (`failed`, error): Dask shall not retry."""
    folder = settings["cache"]
    env = {"EDGEC_CACHE": folder} if folder else {}
    try:
        with started(WORKER, "the process of an action", _server(folder, settings["imports"]), env) as child:
            return "ok", child.call("run", description=description, store=settings["store"])
    except EdgecError as error:
        return "failed", error


@functools.cache
def _server(folder: str | None, imports: tuple[str, ...]) -> ForkServer | None:
    """On a worker: what its actions are forked from, as long as it lives; `folder`: of the cache they share."""
    return ForkServer(WORKER, imports, {"EDGEC_CACHE": folder} if folder else {}) if can_fork() else None


def served(settings: Mapping[str, Any]) -> None:
    """On a worker: return when what its actions are forked from has imported everything."""
    with started(WORKER, "a first process", _server(settings["cache"], settings["imports"])):
        return


def probe(token: str | None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """On a worker: what it has. `token`: a file of the cache that it has to see, too.

    With the `settings` of actions, what these are forked from begins to import, to be ready when the first one comes.
    """
    if settings is not None:
        _server(settings["cache"], settings["imports"])
    versions = {name: _version(name) for name in (*_ENGINES.values(), "edgec")}
    return {"versions": versions, "code": own_code(), "sees": token is None or os.path.exists(token)}


def worker_problem(found: object, needed: Mapping[str, str | None], own: str) -> tuple[str, str, str] | None:
    """Code, sentence and help for a worker whose `probe` gave `found`; `needed`: versions by package, as they are here.

    None: it can do the work.
    """
    if not isinstance(found, dict):
        return "E0977", f"cannot import edgec: {found}", "install the same edgec in the worker's environment"
    for package, version in needed.items():
        there = found["versions"].get(package)
        if there is None:
            return "E0977", f"lacks `{package}`", f"install {package}=={version} in the worker's environment"
        if there != version:
            return "E0976", f"has {package} {there}, and here it is {version}", f"install {package}=={version} there"
    if found["code"] != own:
        return "E0976", "has another state of edgec", "install the same edgec in the worker's environment"
    if not found["sees"]:
        help = "give workers the folder `EDGEC_CACHE` names here (NFS), or `--store URL` that all of them reach"
        return "E0977", "does not see this machine's cache", help
    return None


def _client(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=_CONNECT, name="edgec")
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        fail("E0975", f"no Dask scheduler answers at {address}: {reason}", help=_START, kind=EngineError)


def _same_versions(client: Any, address: str) -> None:
    """E0976 if the scheduler speaks another version of Dask's protocol than this process."""
    try:
        held = client.get_versions(check=False)
        there = held["scheduler"]["packages"]["distributed"]
    except Exception as error:  # another version may answer in any way
        message = f"the scheduler at {address} does not say its version: {type(error).__name__}"
        fail("E0976", message, help="install the same Dask on both sides (constraints.txt)", kind=EngineError)
    here = _version("distributed")
    if there != here:
        message = f"the scheduler at {address} runs Dask {there}, and here it is {here}"
        fail("E0976", message, help=f"`pip install distributed=={there}` here, or {here} there", kind=EngineError)


def _settings(actions: Iterable[Action], options: CompileOptions) -> dict[str, Any]:
    """What workers are told beside the actions: the cache they share or the store, and what they will import."""
    folder = None if options.store is not None else str(cache.cache_root().resolve())
    targets = {str(one.request["target"]) for one in actions if "target" in one.request}
    return {"cache": folder, "store": options.store, "imports": worker_imports(targets)}


def worker_imports(targets: Iterable[str]) -> tuple[str, ...]:
    """What actions for these targets import."""
    return (*IMPORTS, *(name for target in sorted(targets) for name in find_target(target).imports))


def _workers(
    client: Any, address: str, left: Mapping[str, Action], options: CompileOptions, settings: Mapping[str, Any]
) -> bool:
    """Ask every worker what it has; whether all of them declare how much memory they give."""
    info = client.scheduler_info(n_workers=-1)["workers"]
    end = time.monotonic() + _CONNECT
    while not info and time.monotonic() < end:
        time.sleep(0.2)
        info = client.scheduler_info(n_workers=-1)["workers"]
    if not info:
        fail("E0975", f"the scheduler at {address} has no workers", help=_START, kind=EngineError)
    cache.make_root()
    cache.hold_root()
    token = None if options.store is not None else str((cache.cache_root() / ".lock").resolve())
    answers = client.run(probe, token, settings, on_error="return")
    engines = {name for action in left.values() for name in [_engine(action)] if name is not None}
    needed = {name: _version(name) for name in sorted(engines)}
    for worker, found in answers.items():
        problem = worker_problem(found, needed, own_code())
        if problem is not None:
            code, what, help = problem
            fail(code, f"the worker {worker} {what}", help=help, kind=EngineError)
    given = [row.get("resources", {}).get(RESOURCE) for row in info.values()]
    if None in given:
        options.progress("a worker declares no `memory` resource: its threads alone say how much runs there at a time")
        return False
    most = max(float(one) for one in given if one is not None)
    worst = max(left.values(), key=lambda action: records.corrected(action)[0])
    need = records.corrected(worst)[0]
    if need > most:
        message = f"`{worst.label}` is estimated to take {need / 1e9:.1f} GB, and no worker gives more than"
        help = f"start a worker with `--resources memory={need:.2g}`, or cut the model into more parts (`shard = …`)"
        fail("E0979", f"{message} {most / 1e9:.1f} GB", help=help, kind=EngineError)
    return True


class _Run:
    def __init__(
        self,
        graph: Graph,
        left: Mapping[str, Action],
        settings: Mapping[str, Any],
        keep_going: bool,
        tell: Callable[[str, Row, int, int], None],
        name: str,
        watch: Watch,
        resources: bool,
    ) -> None:
        self.graph, self.left, self.settings, self.tell = graph, left, settings, tell
        self.keep_going = keep_going
        self.name, self.watch, self.resources = name, watch, resources
        self.outcome, self.done = watch.outcome, len(graph) - len(left)
        self.outcome.began = time.perf_counter()
        self._busy = self._asked = time.monotonic()

    def work(self, client: Any, distributed: Any) -> None:
        futures, run = {}, secrets.token_hex(4)
        rows = {}
        for key, action in self.left.items():
            memory = {RESOURCE: records.corrected(action)[0]} if self.resources else None
            needs = [futures[need] for need in action.needs if need in futures]
            futures[key] = client.submit(
                remote,
                action.described(),
                self.settings,
                *needs,
                key=f"edgec-{key}-{run}",
                resources=memory,
                pure=False,
            )
            rows[key] = Row(action, 0.0, why=records.why(self.name, action))
            self.tell("start", rows[key], self.done, len(self.graph))
        self.watch.finished.begin()
        keys = {future.key: key for key, future in futures.items()}
        ending = distributed.as_completed(futures.values())
        while not ending.is_empty():
            for future in ending.next_batch(block=False):
                self._end(rows[keys[future.key]], keys[future.key], future)
            stopped = self.watch.cancelled.wait(_POLL)
            if stopped or (self.outcome.failed and not self.keep_going):
                client.cancel(list(futures.values()))
                if stopped:
                    raise Cancelled
                return
            self._look(client)

    def _look(self, client: Any) -> None:
        """E0975 if no worker has been at work for long: what is left waits for one that was lost, with its memory."""
        now = time.monotonic()
        if now - self._asked < _EVERY:
            return
        self._asked = now
        if client.status == "running" and any(client.processing().values()):
            self._busy = now
        elif now - self._busy > _IDLE:
            message = f"no worker has been at work for {_IDLE} s, and {len(self.graph) - self.done} actions are left"
            fail("E0975", message, help=f"{_START}; then {_AGAIN}", kind=EngineError)

    def _end(self, row: Row, key: str, future: Any) -> None:
        row.end = time.perf_counter() - self.outcome.began
        self.outcome.rows.append(row)
        failed = [need for need in row.action.needs if need in self.outcome.failed]
        if future.status == "cancelled":
            fail("E0975", "the scheduler was lost, and with it what it had to do", help=_AGAIN, kind=EngineError)
        if future.status == "error":
            error = future.exception()
            made: tuple[str, Any] = ("failed", _died(row.action, error))
        else:
            made = future.result()
        if made[0] == "ok":
            result = cast("Result", made[1])
            row.peak, row.start = result.peak, max(0.0, row.end - result.seconds)
            records.remember_facts(self.name, row.action)
            self.watch.finished.add(key)
            self.done += 1
        else:
            row.state = "failed"
            if not failed:  # what needs a failed action fails of it: that one is told
                self.outcome.failed[key] = made[1]
        self.tell("end", row, self.done, len(self.graph))


def _died(action: Action, error: BaseException) -> EngineError:
    from ..diagnostics.diagnostic import Diagnostic

    text = f"no worker brought `{action.label}` to an end: {type(error).__name__}: {str(error)[:200]}"
    return EngineError(Diagnostic("E0975", text, help=_AGAIN))


def _has_run(key: str, store: str | None) -> bool:
    if records.known(key) is not None:
        return True
    if store is None or not open_store(store).pull_result(key):
        return False
    found = records.noted(key)  # an output that was damaged is gone from the store, its result is not
    return found is not None and open_store(store).holds(key, found.outputs)


def _engine(action: Action) -> str | None:
    """The package that runs an action."""
    return _ENGINES.get(str(action.request.get("target")))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
