"""The child process around MNN's converter.

Only the extension module is called: the console scripts and `MNN.tools` install a telemetry package at run time.
"""

from __future__ import annotations

from ....compiler.emit.child_process import limit_memory, serve


def convert(arguments: list[str]) -> None:
    """Run the converter. It returns True whatever happened; the caller looks at the file."""
    import _tools  # pyright: ignore[reportMissingImports] - an extension module of the MNN wheel

    _tools.mnnconvert(["mnnconvert", *arguments])


if __name__ == "__main__":
    serve({"convert": convert, "limit": limit_memory})
