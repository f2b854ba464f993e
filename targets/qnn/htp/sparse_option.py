"""Switches HTP's sparse store on for a compile, in the worker process alone.

Graph option 6 (a float, 1.0) of the HTP backend's custom configuration. ONNX Runtime's provider does not set it, so the
entry `graphCreate` of the backend's own table of functions is wrapped before the provider asks for it. The place of it
is a matter of one build: the library's digest is compared first, and any other is refused.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from pathlib import Path
from typing import Any

# sha256 of libQnnHtp.so -> index of graphCreate in the table of its interface
BUILDS = {"66fbcc1a97b3ca186c0170123e03978f2351222d59b2e9ceb0202e4a9b0116c0": 15}  # onnxruntime-qnn 2.7.0
_HEADER = 8 + 8 + 24  # backend id, its name, two versions of three numbers each; functions follow
_OPTION, _SPARSE, _CUSTOM = 1, 6, 0
_PROT_READ_WRITE = 3

_GraphCreate = ctypes.CFUNCTYPE(
    ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)
)
_kept: list[Any] = []  # what C code points at
_on = False


class _Value(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint32), ("number", ctypes.c_float))


class _Custom(ctypes.Structure):
    _fields_ = (
        ("option", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("value", _Value),
        ("rest", ctypes.c_uint8 * 64),
    )


class _Config(ctypes.Structure):
    _fields_ = (("option", ctypes.c_uint32), ("padding", ctypes.c_uint32), ("custom", ctypes.c_void_p))


def known_build(library: Path) -> bool:
    """Whether the option was tried with just this file of the HTP backend."""
    return _place(library) is not None


def _place(library: Path) -> int | None:
    """The index of graphCreate in the backend's table; None with another build."""
    with library.open("rb") as file:
        return BUILDS.get(hashlib.file_digest(file, "sha256").hexdigest())


def switch(library: Path, on: bool) -> None:
    """Let graphs that this process compiles from now on be stored sparse, or not; ValueError with another build."""
    global _on
    if on and not _kept:
        _wrap(library)
    _on = on


def _wrap(library: Path) -> None:
    index = _place(library)
    if index is None:
        raise ValueError(f"`{library.name}` is not a build whose sparse store is known")
    backend = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    providers, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_uint32()
    backend.QnnInterface_getProviders.restype = ctypes.c_uint64
    if backend.QnnInterface_getProviders(ctypes.byref(providers), ctypes.byref(count)):
        raise OSError(f"`{library.name}` names no interface")
    for number in range(count.value):
        _wrap_entry(int(providers[number] or 0) + _HEADER + 8 * index)


def _wrap_entry(address: int) -> None:
    entry = ctypes.c_void_p.from_address(address)
    create = _GraphCreate(entry.value or 0)

    def with_option(context: Any, name: Any, configs: Any, made: Any) -> int:
        if not _on:
            return create(context, name, configs, made)
        given = []
        while configs and configs[len(given)]:
            given.append(configs[len(given)])
        custom = _Custom(option=_OPTION, value=_Value(_SPARSE, 1.0))
        config = _Config(option=_CUSTOM, custom=ctypes.addressof(custom))
        array = (ctypes.c_void_p * (len(given) + 2))(*given, ctypes.addressof(config), None)
        _kept.extend((custom, config, array))
        return create(context, name, ctypes.cast(array, ctypes.POINTER(ctypes.c_void_p)), made)

    wrapped = _GraphCreate(with_option)
    _kept.extend((create, wrapped))
    page = mmap.PAGESIZE
    start = address // page * page
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(2 * page), _PROT_READ_WRITE):
        raise OSError(ctypes.get_errno(), "the backend's table cannot be written")
    entry.value = ctypes.cast(wrapped, ctypes.c_void_p).value
