"""`edgec run`: a bundle, a prompt and a number of tokens in; text, ids and what the rounds did out.

With speculation the target checks the k tokens of a chain or those of a tree a round. Without it the target decodes
alone through the same bucket (one new token and padding), so that the numbers, and greedily the tokens, can be
compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.file_hashes import check_files
from ..bundle.manifest import Manifest, load_manifest
from ..diagnostics.diagnostic import fail
from ..packed.packed_bundle import runnable
from ..sources.tokenizer.tokenizer import TextStream
from .chain import ChainModel
from .engines import open_model
from .expected_time import expected_time
from .language_model import feed, fits
from .on_device import for_device
from .sample import Sampling
from .speculate import Decoder, Stats
from .text_process import BundledTokenizer

if TYPE_CHECKING:
    from ..emit.engine_protocols import LanguageModel


class Runner:
    """A bundle opened for running; the engines start when they are first needed and end with `close`.

    `oracle`: parts whose engine is slow on this machine run in ONNX Runtime. `device`: whose files, of a bundle for
    several chips.
    """

    def __init__(self, bundle: Path, model: str | None = None, oracle: bool = False, device: str | None = None) -> None:
        self.manifest = for_device(runnable(load_manifest(bundle)), device)
        check_files(self.manifest)
        self.model = choose_model(self.manifest, model)
        entry = self.manifest.tokenizer(self.model)
        if entry is None:
            decoder = self.manifest.model(self.model)["kind"] == "decoder"
            help = _COMPILE_AGAIN if decoder else _INPUTS
            fail("E0918", f"model `{self.model}` has no tokenizer, so it takes no prompt", help=help)
        self.tokenizer = BundledTokenizer(self.manifest.bundle / entry["directory"], entry)
        self._open: dict[str, LanguageModel] = {}
        self._oracle = oracle
        self.pace: int | None = None  # calls of a draft beside one of the target, instead of as many as the clock gives

    def generate(
        self,
        prompt: Sequence[int],
        tokens: int,
        speculation: bool = True,
        sampling: Sampling | None = None,
        seed: int = 0,
        bucket_tokens: int | None = None,
        on_tokens: Callable[[list[int]], None] = lambda _ids: None,
        prefix: Path | None = None,
        overlap: bool = True,
    ) -> dict[str, Any]:
        """Continue the ids `prompt`. `bucket_tokens`: of the bucket the target decodes through, instead of the rounds'.

        `overlap`: whether the draft works beside the target where the bundle says so.

        `prefix`: a file with the K/V of a text, of which as much is used as the prompt begins with; where there is no
        such file, the prompt's own is saved to it.
        """
        pair = self.manifest.speculation
        if pair is not None and self.model != pair["target"]:
            pair = None
        k = pair["k"] if pair is not None and speculation else 0
        step = bucket_tokens or (None if pair is None else round_tokens(pair))
        draft = self.engine(pair["draft"]) if pair is not None and k else None
        asked = sampling or self.sampling(None, None)
        lookup = pair is not None and pair.get("source") == "prompt"
        decoder = Decoder(self.engine(self.model), draft, k, asked, self.tokenizer.eos, seed, lookup)
        if pair is not None and k:
            decoder.tree, decoder.slots = pair.get("tree", 0), self._slots(step)
            decoder.overlap = overlap and "overlap" in pair
            decoder.pace = self.pace
            decoder.outcomes = pair.get("overlap", {}).get("outcomes", decoder.outcomes)
        drafts = pair["draft"] if pair is not None and draft is not None else None
        reused = 0 if prefix is None else self._prefixed(prefix, prompt, drafts)
        made: list[int] = []
        with self._stepping(step):
            for new in decoder.generate(prompt, tokens):
                made += new
                on_tokens(new)
        ended = bool(made) and made[-1] in self.tokenizer.eos
        stats = decoder.stats
        return {
            "text": self.tokenizer.decode(made),
            "tokens": made,
            "prompt_tokens": len(prompt),
            **({} if prefix is None else {"prefix_tokens": reused}),
            "rounds": stats.rounds,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            **({"looked_up": stats.looked_up, "found": stats.found} if lookup and k else {}),
            **(_overlapped(stats) if decoder.overlap else {}),
            "stopped": "eos" if ended else "tokens" if len(made) >= tokens else "context",
            "lanes": self._lanes(),
        }

    def _slots(self, step: int | None) -> int:
        """Tokens that a round's call of the target has room for."""
        engine = self._open[self.model]
        own = engine.buckets.at_least(step) if isinstance(engine, ChainModel) and step else None
        return own or step or 0

    def _prefixed(self, path: Path, prompt: Sequence[int], draft: str | None) -> int:
        """Begin with what the file holds of the prompt, or save the prompt's own K/V; how many tokens were taken."""
        from .prefix import load, save

        engines = {name: self._open[name] for name in (self.model, draft) if name is not None}
        models = {name: engine for name, engine in engines.items() if isinstance(engine, ChainModel)}
        if self.model not in models:
            message = (
                f"`{self.model}` runs in an engine that keeps its K/V cache to itself: no prefix of it can be saved"
            )
            fail("E0926", message, help="leave out `--prefix`, or deploy the model `as ort` or `as qnn`")
        if path.exists():
            return load(path, self.manifest, models, prompt)
        text = prompt[:-1]
        for model in models.values() if text and fits(models[self.model], len(prompt)) else ():
            if max(text) < model.vocab and fits(model, len(text)):
                feed(model, text)
        full = {name: model for name, model in models.items() if model.length == len(text) > 0}
        if self.model in full:
            save(path, self.manifest, full, text)
        return 0

    def spans(self) -> list[dict[str, Any]]:
        """When each part of the last generation ran: lane, part, start and end in seconds of one clock."""
        engine = self._open.get(self.model)
        return [asdict(span) for span in engine.timeline.spans] if isinstance(engine, ChainModel) else []

    def _lanes(self) -> dict[str, Any]:
        """What each lane of the model took, and how much of it beside another; empty for a model of one lane."""
        engine = self._open.get(self.model)
        found = engine.timeline.lanes() if isinstance(engine, ChainModel) else {}
        return found if len(found) > 1 else {}

    def engine(self, name: str) -> LanguageModel:
        """The model's engine with an empty cache."""
        if name not in self._open:
            self._open[name] = open_model(self.manifest, name, self._oracle)
        self._open[name].reset()
        return self._open[name]

    def sampling(self, temperature: float | None, top_p: float | None) -> Sampling:
        """What was asked for; unsaid: greedy, or the model's own defaults where the plan says `accept = sample`."""
        pair = self.manifest.speculation
        defaults: dict[str, Any] = {}
        if temperature is None and pair is not None and pair["accept"] == "sample":
            defaults = {"temperature": 1.0, **self.manifest.data["sampling"].get(self.model, {})}
        return Sampling(
            temperature=defaults.get("temperature", 0.0) if temperature is None else temperature,
            top_p=defaults.get("top_p", 1.0) if top_p is None else top_p,
            top_k=defaults.get("top_k", 0),
        )

    def expected_time(self, bucket_tokens: int | None = None, speculation: bool = True) -> str | None:
        """What calls of the model, and of its draft, will take, where that is long: a sentence, else None."""
        pair = self.manifest.speculation
        drafts = pair is not None and self.model == pair["target"]
        step = bucket_tokens or (round_tokens(pair) if pair is not None and drafts else None)
        said = [expected_time(self.manifest, self.model, step)]
        if pair is not None and drafts and speculation:
            said.append(expected_time(self.manifest, pair["draft"]))
        return "; ".join(text for text in said if text is not None) or None

    def close(self) -> None:
        """Close every model the runner has opened; the next call opens them again."""
        for engine in self._open.values():
            engine.close()
        self._open = {}
        self.tokenizer.close()

    @contextlib.contextmanager
    def _stepping(self, step: int | None) -> Iterator[None]:
        """Let the target's calls go through the bucket of `step` tokens; engines without buckets have no such thing."""
        engine = self._open.get(self.model)
        if not isinstance(engine, ChainModel):
            yield
            return
        engine.step = step
        try:
            yield
        finally:
            engine.step = None


def run_bundle(
    bundle: Path | str,
    prompt: str,
    tokens: int,
    speculation: bool = True,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
    chat: bool = False,
    model: str | None = None,
    bucket_tokens: int | None = None,
    stream: Callable[[str], None] | None = None,
    oracle: bool = False,
    tell: Callable[[str], None] = lambda _sentence: None,
    timed: Callable[[list[dict[str, Any]]], None] = lambda _spans: None,
    device: str | None = None,
    prefix: Path | None = None,
    overlap: bool = True,
) -> dict[str, Any]:
    """Continue `prompt` by at most `tokens` tokens; `stream` gets the text as it is made, `timed` when parts ran.

    `oracle`: in ONNX Runtime where an engine is slow here; without it `tell` gets what a call will take, if it is long.
    `device`: whose files are run, of a bundle for several chips. `prefix`, `overlap`: as `Runner.generate`.
    """
    runner = Runner(Path(bundle), model, oracle, device)
    if not oracle and (expected := runner.expected_time(bucket_tokens, speculation)) is not None:
        tell(expected)
    say = stream or (lambda _text: None)
    with contextlib.closing(runner):
        sampling = runner.sampling(temperature, top_p)
        ids = runner.tokenizer.chat(prompt) if chat else runner.tokenizer.encode(prompt)
        text = TextStream(runner.tokenizer)
        result = runner.generate(
            ids, tokens, speculation, sampling, seed, bucket_tokens, lambda new: say(text.push(new)), prefix, overlap
        )
        say(text.rest())
        timed(runner.spans())
    return result


def round_tokens(pair: Mapping[str, Any]) -> int:
    """Tokens that the target reads in a round: the text's last one, and the chain or the tree."""
    return (pair.get("tree") or pair["k"]) + 1


def _overlapped(stats: Stats) -> dict[str, Any]:
    """What came of the draft's work beside the target: rounds that found their tree, calls waited for, seconds."""
    seconds = {"rounds": stats.seconds, "verify": stats.verifying, "draft": stats.drafting}
    return {
        "ready": stats.ready,
        "waited": stats.waited,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def choose_model(manifest: Manifest, name: str | None) -> str:
    """The model to run: the one asked for, the speculation's target, or the only one there is."""
    if name is not None:
        manifest.model(name)
        return name
    if manifest.speculation is not None:
        return manifest.speculation["target"]
    if len(manifest.models) > 1:
        listed = ", ".join(f"`{known}`" for known in manifest.models)
        fail(
            "E0914", f"bundle `{manifest.bundle}` holds several models: {listed}", help="choose one with `--model NAME`"
        )
    return next(iter(manifest.models))


_COMPILE_AGAIN = "put the model's tokenizer.json beside it and compile again"
_INPUTS = "run a plain graph with `--inputs FILE.npz`"
