from dataclasses import dataclass

from edgec.compiler.pass_base import Pass

STEPS = 4 / 0
