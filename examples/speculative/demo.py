"""Run the demo bundle: speculation, then the target alone through the same bucket, and compare.

python demo.py BUNDLE PROMPT [TOKENS]
"""

from __future__ import annotations

import sys

import edgec


def main() -> int:
    """Print the text, tokens per round, acceptance, and whether both runs agree."""
    path, prompt = sys.argv[1], sys.argv[2]
    tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 48
    print("speculating: the draft in MNN on the CPU, the target's graphs on the HTP emulator\n")
    print(prompt, end="")
    with edgec.open(path) as bundle:
        fast = bundle.generate(prompt, tokens, stream=lambda text: print(text, end="", flush=True))
        alone = bundle.generate(prompt, tokens, speculation=False)
    made = len(fast.tokens)
    print(f"\n\n{made} tokens in {fast.rounds} rounds: {made / fast.rounds:.2f} tokens per round")
    print(f"accepted {fast.accepted} of {fast.drafted} drafted tokens ({fast.accepted / fast.drafted:.0%})")
    same = alone.tokens == fast.tokens
    print("the target alone gives " + ("the same tokens" if same else f"OTHER TOKENS: {alone.text!r}"))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
