"""`edgec.open`: a finished bundle to run and to verify on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.file_hashes import check_files
from ..bundle.manifest import load_manifest
from ..diagnostics.wording import count
from ..packed.packed_bundle import is_packed, runnable, unpack_bundle
from ..report.notebook import framed

if TYPE_CHECKING:
    import numpy as np

    from ..runtime.generate import Runner


@dataclass(frozen=True)
class Generation:
    """A continued text.

    text           what follows the prompt, without special tokens
    tokens         its ids, an end-of-text token included
    prompt_tokens  ids of the prompt
    rounds         calls of the model after the prompt
    drafted        tokens the draft proposed, and how many of them were `accepted`; 0 without speculation
    stopped        why it ended: "eos", "tokens" (as many as asked for) or "context" (the K/V cache is full)
    lanes          what each lane of the model took, of a model with more than one
    prefix_tokens  ids of the prompt whose K/V came from the file `prefix`
    looked_up      drafted tokens that were found in the text, and how many of them were accepted (`found`)
    ready          rounds whose drafts were there when the round before ended, where draft and target overlap
    seconds        of all rounds, and of them the target's (`verify`) and the draft's, where they overlap
    """

    text: str
    tokens: list[int] = field(repr=False)
    prompt_tokens: int
    rounds: int
    drafted: int
    accepted: int
    stopped: str
    lanes: dict[str, Any] = field(default_factory=dict, repr=False)
    prefix_tokens: int = 0
    looked_up: int = 0
    found: int = 0
    ready: int = 0
    seconds: dict[str, float] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Verification:
    """What `verify` found. True as a condition if nothing is wrong.

    problems    a sentence for each thing that does not hold
    parts       part -> its device, graphs and largest error against the float model, split into `emission` (the
                engine's share) and `quantization`
    perplexity  model -> perplexity on `text`; `baseline`: the float model's
    """

    problems: list[str]
    parts: dict[str, dict[str, Any]]
    perplexity: dict[str, float]
    baseline: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        found = count(len(self.problems), "problem") if self.problems else "ok"
        return f"<verified {count(len(self.parts), 'part')}: {found}>"


class Bundle:
    """A bundle whose manifest was read. Engines start when they are first needed, and end with `close`.

    Also a context manager: `with edgec.open("build/chat") as bundle: …`.
    """

    def __init__(self, path: str | Path) -> None:
        self._manifest = load_manifest(Path(path))
        self._runners: dict[tuple[str | None, bool, str | None], Runner] = {}

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self._manifest.bundle

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON values; docs/bundle.md explains each key."""
        return self._manifest.data

    @property
    def models(self) -> list[str]:
        """Names of the models, as the plan calls them."""
        return list(self._manifest.models)

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest itself left out."""
        return sum(row["size"] for row in self._manifest.files.values())

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        return self.path / "report.html"

    def generate(
        self,
        prompt: str | Sequence[int],
        tokens: int = 64,
        *,
        model: str | None = None,
        chat: bool = False,
        speculation: bool = True,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stream: Callable[[str], None] | None = None,
        oracle: bool = False,
        device: str | None = None,
        prefix: str | Path | None = None,
        overlap: bool = True,
    ) -> Generation:
        """Continue `prompt`, a text or token ids, by at most `tokens` tokens.

        model        which one, if the bundle has several; by default the target of speculation
        chat         put the text into the model's chat template
        speculation  let the draft propose tokens, if the plan has a `speculate` line
        temperature  0 takes the most likely token; by default 0, or the model's own with `accept = sample`
        stream       called with each piece of text as it is complete
        oracle       run NPU parts in ONNX Runtime instead of the emulator, which takes a hundred times as long
        device       the chip whose files are run, of a bundle for several; by default the first
        prefix       a file with the K/V cache of a text: used as far as the prompt begins with it, saved if absent
        overlap      let the draft work beside the target, if the plan says so

        The hashes of all files are compared with the manifest before the first call.
        """
        from ..sources.tokenizer.tokenizer import TextStream

        runner = self._runner(model, oracle, device)
        ids = prompt
        if isinstance(prompt, str):
            ids = runner.tokenizer.chat(prompt) if chat else runner.tokenizer.encode(prompt)
        say, text = stream or (lambda _text: None), TextStream(runner.tokenizer)
        sampling = runner.sampling(temperature, top_p)
        made = runner.generate(
            [int(one) for one in ids],
            tokens,
            speculation,
            sampling,
            seed,
            None,
            lambda new: say(text.push(new)),
            None if prefix is None else Path(prefix),
            overlap,
        )
        say(text.rest())
        return Generation(**made)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        model: str | None = None,
        bucket: str | None = None,
        oracle: bool = False,
        device: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name of a model that is a plain graph, for arrays by input name, in the types of the ONNX graph.

        E0923 for an input that is missing, unknown, of another shape, or holds what the graph's type or the engine's
        does not.
        `bucket` names one of several static shapes; by default the first. `oracle`, `device`: as for
        `generate`.
        """
        from ..runtime.engines import open_graph, open_oracle
        from ..runtime.generate import choose_model
        from ..runtime.on_device import for_device
        from ..runtime.plain_graph import run_given

        manifest = for_device(runnable(self._manifest), device)
        check_files(manifest)
        opener = open_oracle if oracle else open_graph
        return run_given(manifest, choose_model(manifest, model), dict(inputs), bucket, opener)[1]

    def verify(
        self,
        text: str | Path | None = None,
        *,
        windows: int = 32,
        sources: Mapping[str, str | Path] | None = None,
        device: str | None = None,
        jobs: int = 1,
        memory: int | None = None,
    ) -> Verification:
        """Compare the files with the manifest, each part with its entry, and its numbers with the float model.

        text     a text file: perplexity is measured on its first `windows` windows of 256 tokens
        sources  model -> folder or file of its float model, where that is no longer at the path in the plan
        device   the chip whose files are run, of a bundle for several; those of the others are read
        jobs     parts that are looked into at a time, each in a process within `memory` bytes; what was found of one
                 is kept while its files stay as they are
        """
        from ..driver import by_actions, verify_bundle

        given = {name: str(path) for name, path in (sources or {}).items()}
        found = verify_bundle(self.path, text, windows, given, device, by_actions(jobs, memory))
        return Verification(found["problems"], found["parts"], found["perplexity"], found["baseline"])

    @property
    def packed(self) -> bool:
        """Whether weight files are packed; `generate`, `run` and `verify` restore them in the cache."""
        return is_packed(self._manifest)

    def close(self) -> None:
        """End the engines; the next call starts them again."""
        for runner in self._runners.values():
            runner.close()
        self._runners = {}

    def _runner(self, model: str | None, oracle: bool = False, device: str | None = None) -> Runner:
        from ..runtime.generate import Runner

        key = (model, oracle, device)
        if key not in self._runners:
            self._runners[key] = Runner(self.path, model, oracle, device)
        return self._runners[key]

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<bundle {self.path}: {', '.join(self.models)}, {self.size / 1e6:.2f} MB>"

    def _repr_html_(self) -> str:
        return framed(self.report)


def unpack(path: str | Path, output: str | Path | None = None) -> Bundle:
    """Make the dense bundle of a packed one, in `output` or in its own place, whole or not at all, and open it.

    PlanError: E0909 if nothing is packed, E0905 or E0908 for a damaged file; nothing is changed then.
    """
    return Bundle(unpack_bundle(Path(path), None if output is None else Path(output)).bundle)


def open(path: str | Path) -> Bundle:
    """Open the bundle in the folder `path`. PlanError (E0901 to E0907) if there is none, or its manifest is wrong."""
    return Bundle(path)
