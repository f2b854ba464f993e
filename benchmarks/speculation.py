"""Forms of speculation on the example pair: equal to the target alone, tokens a round, drafts that were ready, time.

The target alone decodes through the same bucket as the rounds. `--oracle` runs the NPU's graphs in ONNX Runtime, where
a round takes milliseconds; without it they run in the emulator, which takes as long as a large model would on a phone,
so that the draft has time beside it. `round`, `verify`, `draft`: seconds by this machine's clock, of a round; with
overlap a round takes less than the sum. `simulated`: a round on the device by the manifest's schedule, in units of the
longer of both lanes, with the calls of the draft that the target waited for here. `--pace N` replaces the clock: the
draft makes N calls beside each of the target's (8 to 10 are what the schedule's times come to for `as mnn`), so that
what is counted is the same on every machine; `per verify`: tokens in the time of one call of the target. `--draft`:
another target for the draft. Prompts are lines of the held-out text. `--compare N`: of how many prompts the target also
decodes alone, which in the emulator takes longer than all else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import HELDOUT, ROOT, edgec, parser, report, scratch, text_digest

PLAN = ROOT / "examples" / "speculative" / "plan.edge"
FORMS = {
    "chain": "k = 3",
    "tree 8": "k = 3 tree = 8",
    "tree 15": "k = 4 tree = 15",
    "chain, overlap": "k = 3 overlap = true",
    "tree 8, overlap": "k = 3 tree = 8 overlap = true",
    "tree 15, overlap": "k = 4 tree = 15 overlap = true",
    "chain, prompt": "k = 3 source = prompt",
    "tree 8, prompt": "k = 3 tree = 8 source = prompt",
    "tree 15, prompt": "k = 4 tree = 15 source = prompt",
}


def prompts(count: int) -> list[str]:
    """Function headers of the held-out text, spread over it."""
    lines = [line.strip() for line in HELDOUT.read_text().splitlines() if line.strip().startswith("def ")]
    step = max(1, len(lines) // count)
    return lines[::step][:count]


def plan_of(form: str, folder: Path, draft: str = "mnn { memory = normal }") -> Path:
    """The example's plan with another `speculate` line, a bucket for trees, and the draft's target."""
    text = PLAN.read_text().replace("../", f"{PLAN.parent.parent}/")
    text = re.sub(r"tokens = \[1, 4, 64\]", "tokens = [1, 4, 16, 64]", text)
    text = re.sub(r"(speculate draft -> target \{).*?\}", rf"\1 {form} }}", text)
    text = re.sub(r"require \{.*?\n\}", "", text, flags=re.DOTALL)
    text = text.replace("as mnn { memory = normal }", f"as {draft}")
    path = folder / "plan.edge"
    path.write_text(text)
    return path


def measure(form: str, folder: Path, args: Any, alone: dict[tuple[int, str], list[int]]) -> dict[str, Any]:
    """All prompts through one form; `alone`: what the target made of a prompt by itself, by tokens of its bucket."""
    from edgec.compiler.runtime.generate import Runner
    from edgec.compiler.runtime.sample import Sampling

    edgec("compile", plan_of(FORMS[form], folder, args.draft), "-o", folder / form, "--quiet")
    runner = Runner(folder / form, oracle=args.oracle)
    runner.pace = args.pace
    pair = runner.manifest.speculation
    assert pair is not None
    sampling = Sampling(args.temperature)
    total: dict[str, float] = dict.fromkeys(("tokens", "rounds", "ready", "waited", "drafted", "accepted"), 0)
    lanes: dict[str, float] = {}
    equal = []
    for number, prompt in enumerate(prompts(args.prompts)):
        ids = runner.tokenizer.encode(prompt)
        made = runner.generate(ids, args.tokens, sampling=sampling)
        for key in ("rounds", "ready", "waited", "drafted", "accepted"):
            total[key] += made.get(key, 0)
        total["tokens"] += len(made["tokens"])
        for key, value in made.get("seconds", {}).items():
            lanes[key] = lanes.get(key, 0.0) + value
        if sampling.greedy and number < args.compare:
            key = pair["schedule"]["slots"], prompt
            if key not in alone:
                alone[key] = runner.generate(ids, args.tokens, speculation=False)["tokens"]
            equal.append(made["tokens"] == alone[key])
    runner.close()
    rounds = total["rounds"]
    row: dict[str, Any] = {
        "form": form,
        "tokens per round": round(total["tokens"] / rounds, 3),
        "accepted": round(total["accepted"] / max(1, total["drafted"]), 3),
        "equal": f"{sum(equal)} of {len(equal)}" if equal else None,
        "ready": round(total["ready"] / rounds, 3) if lanes else None,
        "waited": round(total["waited"] / rounds, 2) if lanes else None,
    }
    names = {"round": "rounds", "verify": "verify", "draft": "draft"}
    row |= {name: round(lanes[key] / rounds, 4) if lanes else None for name, key in names.items()}
    if args.pace and lanes:
        whole = rounds + total["waited"] / args.pace
        row |= {"round, paced": round(whole / rounds, 3), "per verify": round(total["tokens"] / whole, 3)}
    times, k = pair["schedule"].get("microseconds"), pair["schedule"]["calls"]
    return row | {"simulated": simulated(times, k, total["waited"] / rounds) if times and lanes else None}


def simulated(times: dict[str, float], k: int, waited: float) -> float:
    """A round by the schedule's times, in units of the longer lane, that waits for so many calls of the draft."""
    longer = max(times["draft"], times["verify"])
    return round((longer + waited * times["draft"] / k) / longer, 3)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, default=10, help="default 10")
    options.add_argument("--tokens", type=int, default=64, help="default 64")
    options.add_argument("--temperature", type=float, default=0.0, help="default 0, which is greedy")
    options.add_argument("--oracle", action="store_true", help="the NPU's graphs in ONNX Runtime")
    options.add_argument("--compare", type=int, metavar="N", help="default: all with --oracle, 1 in the emulator")
    options.add_argument("--pace", type=int, metavar="N", help="calls of the draft beside one of the target")
    options.add_argument("--draft", default="mnn { memory = normal }", metavar="TARGET", help="default: %(default)s")
    options.add_argument("--only", default="", metavar="PATTERN", help="forms whose names match")
    args = options.parse_args()
    if args.compare is None:
        args.compare = args.prompts if args.oracle else 1
    rows, alone = [], dict[tuple[int, str], list[int]]()
    with scratch() as folder:
        for form in FORMS:
            if re.search(args.only, form):
                rows.append(measure(form, folder, args, alone))
                print(rows[-1], flush=True)
    where = "ONNX Runtime" if args.oracle else "the HTP emulator"
    report(f"Speculation, draft as {args.draft.split()[0]}, target in {where}", rows, args, text=text_digest())


if __name__ == "__main__":
    main()
