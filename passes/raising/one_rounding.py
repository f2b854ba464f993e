"""The tolerance of a pass that puts one op in the place of several: one rounding where several were."""

from __future__ import annotations

from ...compiler.pipeline.pass_interface import Tolerance

ONE_ROUNDING = Tolerance(1e-5, "one op rounds once where several round each")
