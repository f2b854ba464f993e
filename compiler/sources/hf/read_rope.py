"""Rotary position embedding as a config describes it: read into a `RopeSpec`."""

from __future__ import annotations

import math

from ...diagnostics.diagnostic import fail
from ...ir.rope import KINDS, RopeSpec
from .config_file import Config
from .families import Family
from .layer_kinds import AS_ONNX

_REASONS = {
    "dynamic": "its frequencies change with the length of the text, which a compiled graph cannot follow",
}


def read_rope(config: Config, family: Family, max_positions: int, head_dim: int) -> RopeSpec:
    """From `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before)."""
    _whole_head(config)
    return _read(config, _section(config), config.number("rope_theta", family.theta), family, max_positions, head_dim)


def read_local_rope(config: Config, family: Family, max_positions: int, head_dim: int) -> RopeSpec | None:
    """The rope of layers with a window where the family has one of their own; `rope_scaling` is not about them."""
    if family.local_theta is None:
        return None
    named = config.section("rope_parameters")
    section = None if named is None else named.section("sliding_attention")
    theta = config.number("rope_local_base_freq", family.local_theta)
    return _read(config, section, theta, family, max_positions, head_dim)


def _read(
    config: Config, section: Config | None, top_theta: float, family: Family, max_positions: int, head_dim: int
) -> RopeSpec:
    if section is None:
        return RopeSpec(theta=top_theta)
    _whole_head(section)
    word = section.text("rope_type", section.text("type", "default"))
    kind = family.rope_words.get(word, word)
    theta = section.number("rope_theta", top_theta)
    if kind == "default":
        return RopeSpec(theta)
    if kind not in KINDS:
        why = f": {_REASONS[kind]}" if kind in _REASONS else ""
        names = ", ".join(f"`{name}`" for name in KINDS)
        fail(
            "E0334",
            f"`{config.path}` asks for rope type `{kind}`, which edgec cannot build{why}",
            help=f"known: {names}; {AS_ONNX}",
        )
    if kind == "linear":
        return RopeSpec(theta, "linear", section.number("factor"))
    inside = section.integer("original_max_position_embeddings", max_positions)
    original = config.integer("original_max_position_embeddings", inside)
    if kind == "llama3":
        low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
        if low >= high:
            fail("E0337", f"`{config.path}`: `low_freq_factor` {low:g} is not below `high_freq_factor` {high:g}")
        return RopeSpec(
            theta,
            "llama3",
            section.number("factor"),
            original_positions=original,
            low_frequency_factor=low,
            high_frequency_factor=high,
        )
    if kind == "longrope":
        return _read_longrope(section, theta, original, max_positions, head_dim)
    return _read_yarn(section, theta, original, max_positions)


def _read_longrope(section: Config, theta: float, original: int, max_positions: int, head_dim: int) -> RopeSpec:
    """Its short factors: those of texts up to the original context, which the compiled graph is bound to."""
    short = section.positive_numbers("short_factor")
    if len(short) != head_dim // 2:
        message = f"`{section.path}`: `short_factor` has {len(short)} numbers for heads of {head_dim}"
        fail("E0337", message, help=f"longrope has one for each pair of channels, here {head_dim // 2}")
    factor = section.number("factor", max_positions / original)
    attention = 1.0 if factor <= 1 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    attention = section.number("attention_factor", attention)
    return RopeSpec(theta, "longrope", factor, attention, original, factors=tuple(short))


def _read_yarn(section: Config, theta: float, original: int, max_positions: int) -> RopeSpec:
    factor = section.number("factor", max_positions / original)
    if theta <= 1:
        fail("E0337", f"`{section.path}`: `rope_theta` {theta:g} has to be above 1 for yarn")
    if "attention_factor" in section:
        attention = section.number("attention_factor")
    elif "mscale" in section and "mscale_all_dim" in section:
        scale, overall = section.number("mscale", positive=False), section.number("mscale_all_dim", positive=False)
        attention = mscale(factor, scale) / mscale(factor, overall) if scale and overall else mscale(factor, 1)
    else:
        attention = mscale(factor, 1)
    return RopeSpec(
        theta,
        "yarn",
        factor,
        attention,
        original,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        truncate=section.boolean("truncate", True),
    )


def mscale(factor: float, scale: float) -> float:
    """Yarn's attention factor for a context `factor` times the original."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _section(config: Config) -> Config | None:
    """The rope object; one that is nested by layer type counts when all layers share `full_attention`."""
    scaling = config.section("rope_scaling")
    section = scaling if scaling is not None and scaling.values else config.section("rope_parameters")
    if section is not None and "full_attention" in section:
        return section.section("full_attention")
    return section


def _whole_head(config: Config) -> None:
    if config.number("partial_rotary_factor", 1.0) != 1.0:
        fail(
            "E0333",
            f"`{config.path}` uses partial rotary embedding (`partial_rotary_factor`), which edgec cannot build",
            help=AS_ONNX,
        )
