"""ONNX domains besides the standard one."""

from __future__ import annotations

OWN_DOMAIN = "ai.edgec"
RUNTIME_DOMAIN = "com.microsoft"
