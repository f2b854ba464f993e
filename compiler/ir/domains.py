"""ONNX domains besides the standard one."""

from __future__ import annotations

OWN_DOMAIN = "ai.edgec"
RUNTIME_DOMAINS = ("com.microsoft", "ai.onnx.ml")  # of ops that ONNX Runtime brings; no other engine has them
