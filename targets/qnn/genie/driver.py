"""libGenie by ctypes, in a worker process of its own: one dialog, one query of token ids."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

from ....compiler.emit.child_process import serve

_TOKENS = c.CFUNCTYPE(None, c.POINTER(c.c_uint32), c.c_uint32, c.c_int, c.c_void_p)
_COMPLETE = 0  # the sentence code of a query that comes in one piece


def generate(config: str, ids: list[int], count: int) -> list[int]:
    """Create a dialog from `config`, ask for `count` tokens after `ids`, return them."""
    import onnxruntime_qnn

    library = c.CDLL(str(Path(onnxruntime_qnn.LIB_DIR_FULL_PATH) / "libGenie.so"))
    handle, dialog = c.c_void_p(), c.c_void_p()
    _demand(library.GenieDialogConfig_createFromJson(config.encode(), c.byref(handle)), "read the configuration")
    _demand(library.GenieDialog_create(handle, c.byref(dialog)), "create the dialog")
    _demand(library.GenieDialog_setMaxNumTokens(dialog, c.c_uint32(count)), "set the number of tokens")
    made: list[int] = []

    @_TOKENS
    def collect(tokens: c._Pointer[c.c_uint32], number: int, _code: int, _user: object) -> None:
        made.extend(tokens[i] for i in range(number))

    prompt = (c.c_uint32 * len(ids))(*ids)
    code = library.GenieDialog_tokenQuery(dialog, prompt, c.c_uint32(len(ids)), c.c_int(_COMPLETE), collect, None)
    _demand(code, "answer", allowed=(0, 4))
    return made


def _demand(code: int, what: str, allowed: tuple[int, ...] = (0,)) -> None:
    if code not in allowed:
        raise OSError(f"Genie could not {what} (status {code})")


if __name__ == "__main__":
    serve({"generate": generate})
