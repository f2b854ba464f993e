"""Which layers of a decoder attend to a window, and which have no rotary embedding: one rule per kind of config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from ...diagnostics.diagnostic import fail
from .config_file import Config

AS_ONNX = 'any graph can come in as ONNX: `source = onnx("model.onnx")`'
_FULL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class LayerKinds:
    """`window`: how many positions the `local` layers attend to, their own among them; `nope`: without rope."""

    window: int | None = None
    local: tuple[int, ...] = ()
    nope: tuple[int, ...] = ()


def all_alike(config: Config, layers: int) -> LayerKinds:
    """Every layer attends to all positions before its own."""
    for kind in config.strings("layer_types"):
        if kind != _FULL:
            _unknown(config, kind)
    return LayerKinds()


def all_local(config: Config, layers: int) -> LayerKinds:
    """`sliding_window`, where it is set, is every layer's."""
    if "sliding_window" not in config:
        return LayerKinds()
    return LayerKinds(config.integer("sliding_window"), tuple(range(layers)))


def last_local(config: Config, layers: int) -> LayerKinds:
    """With `use_sliding_window`: the layers that `layer_types` names, else those from `max_window_layers` on."""
    slides = config.boolean("use_sliding_window", False) and "sliding_window" in config
    first = config.integer("max_window_layers", 28, minimum=0)
    local = _named(config, layers)
    if local is None:
        local = tuple(range(min(first, layers), layers)) if slides else ()
    return _windowed(config, local, slides)


def local_by_type(config: Config, layers: int) -> LayerKinds:
    """The layers that `layer_types` names, else all but every `sliding_window_pattern`-th."""
    every = config.integer("sliding_window_pattern", 6)
    local = _named(config, layers)
    if local is None:
        local = tuple(layer for layer in range(layers) if (layer + 1) % every)
    return _windowed(config, local, "sliding_window" in config)


def without_rope(config: Config, layers: int) -> LayerKinds:
    """`no_rope_layers` (0: none), else every `no_rope_layer_interval`-th layer has no rope; windows are theirs."""
    every = config.integer("no_rope_layer_interval", 4)
    flags = config.integers("no_rope_layers") or [int((layer + 1) % every != 0) for layer in range(layers)]
    if len(flags) < layers:
        fail("E0337", f"`{config.path}`: `no_rope_layers` has {len(flags)} entries for {layers} layers")
    nope = tuple(layer for layer in range(layers) if not flags[layer])
    slides = config.boolean("use_sliding_window", False) and "sliding_window" in config
    local = _named(config, layers)
    if local is None:
        local = nope if slides else ()
    made = _windowed(config, local, slides)
    return LayerKinds(made.window, made.local, nope)


def _named(config: Config, layers: int) -> tuple[int, ...] | None:
    """The local layers that `layer_types` names, None where it is absent."""
    kinds = config.strings("layer_types")
    if not kinds:
        return None
    if len(kinds) != layers:
        fail("E0337", f"`{config.path}`: `layer_types` has {len(kinds)} entries for {layers} layers")
    for kind in kinds:
        if kind not in (_FULL, _LOCAL):
            _unknown(config, kind)
    return tuple(layer for layer, kind in enumerate(kinds) if kind == _LOCAL)


def _windowed(config: Config, local: tuple[int, ...], slides: bool) -> LayerKinds:
    """`local` layers have a window only where the config sets one."""
    if local and not slides:
        message = f"`{config.path}` has layers of type `{_LOCAL}` and sets no `sliding_window` for them"
        fail("E0336", message, help="state `sliding_window`, or make the layers `full_attention`")
    return LayerKinds(config.integer("sliding_window") if local else None, local)


def _unknown(config: Config, kind: str) -> NoReturn:
    fail("E0333", f"`{config.path}` has layers of type `{kind}`, which edgec cannot build", help=AS_ONNX)
