"""The opset and IR version of every graph edgec builds, and the score of a masked position."""

from __future__ import annotations

OPSET = 24
IR_VERSION = 11  # the first that carries opset 23 and later in every reader we use
MASKED = -1000.0
