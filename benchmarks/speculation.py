"""Speculation on the example pair: token-for-token equality with the target alone, tokens per round, flips.

The baseline is the target alone through the same k+1 bucket as the rounds. Flips: positions where greedy text through
the one-token bucket first departs from it, counted per prompt. Prompts are lines of the held-out text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import HELDOUT, ROOT, arguments, edgec, report, scratch, text_digest

PLAN = ROOT / "examples" / "speculative" / "plan.edge"


def prompts(count: int) -> list[str]:
    """Function headers of the held-out text, spread over it."""
    lines = [line.strip() for line in HELDOUT.read_text().splitlines() if line.strip().startswith("def ")]
    step = max(1, len(lines) // count)
    return lines[::step][:count]


def compare(bundle: Path, prompt: str, tokens: int) -> dict[str, Any]:
    from edgec.compiler.runtime.generate import run_bundle

    fast = run_bundle(bundle, prompt, tokens)
    alone = run_bundle(bundle, prompt, tokens, speculation=False)
    single = run_bundle(bundle, prompt, tokens, speculation=False, bucket_tokens=1)
    pairs = zip(alone["tokens"], single["tokens"], strict=False)
    return {
        "prompt": prompt[:36],
        "tokens": len(fast["tokens"]),
        "rounds": fast["rounds"],
        "tokens per round": len(fast["tokens"]) / fast["rounds"],
        "accepted": fast["accepted"] / max(1, fast["drafted"]),
        "equal": fast["tokens"] == alone["tokens"],
        "first flip in one-token bucket": next((i for i, (a, b) in enumerate(pairs) if a != b), None),
    }


def main() -> None:
    args = arguments(__doc__, prompts=10, tokens=64)
    with scratch() as folder:
        edgec("compile", PLAN, "-o", folder / "bundle", "--quiet")
        rows = [compare(folder / "bundle", prompt, args.tokens) for prompt in prompts(args.prompts)]
    whole = sum(row["tokens"] for row in rows) / sum(row["rounds"] for row in rows)
    flips = sum(row["first flip in one-token bucket"] is not None for row in rows)
    report(
        "Speculation, k = 3, draft in MNN, target on the HTP emulator",
        rows,
        args,
        text=text_digest(),
        all_equal=all(row["equal"] for row in rows),
        tokens_per_round=round(whole, 3),
        prompts_with_flips=flips,
    )


if __name__ == "__main__":
    main()
