"""What plug-ins import: passes, sources and targets of your own need nothing else of edgec.

    from edgec.api import Pass, Scope, param

The modules behind these names move; the names do not. docs/python.md lists them. Nothing is imported before it is
used: checking a plan imports every plug-in it names, and has to answer in a fraction of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy

if TYPE_CHECKING:
    from edgec.compiler.diagnostics.diagnostic import Diagnostic as Diagnostic
    from edgec.compiler.diagnostics.diagnostic import EngineError as EngineError
    from edgec.compiler.diagnostics.diagnostic import Label as Label
    from edgec.compiler.diagnostics.diagnostic import PlanError as PlanError
    from edgec.compiler.diagnostics.diagnostic import Span as Span
    from edgec.compiler.diagnostics.diagnostic import fail as fail
    from edgec.compiler.emit.capabilities import Capabilities as Capabilities
    from edgec.compiler.emit.capabilities import Refusal as Refusal
    from edgec.compiler.emit.conformance.legality import Legality as Legality
    from edgec.compiler.emit.conformance.local_table import LocalTable as LocalTable
    from edgec.compiler.emit.conformance.measure import Bench as Bench
    from edgec.compiler.emit.conformance.measure import Bounds as Bounds
    from edgec.compiler.emit.conformance.measure import Case as Case
    from edgec.compiler.emit.conformance.measure import run_bench as run_bench
    from edgec.compiler.emit.conformance.measure import verdict_of as verdict_of
    from edgec.compiler.emit.conformance.op_class import ClassRule as ClassRule
    from edgec.compiler.emit.conformance.op_class import Use as Use
    from edgec.compiler.emit.conformance.proof import Prover as Prover
    from edgec.compiler.emit.conformance.proof import Trial as Trial
    from edgec.compiler.emit.conformance.table import ConformanceTable as ConformanceTable
    from edgec.compiler.emit.conformance.table import DeviceReport as DeviceReport
    from edgec.compiler.emit.conformance.table import Row as Row
    from edgec.compiler.emit.engine_protocols import GraphSession as GraphSession
    from edgec.compiler.emit.engine_protocols import LanguageModel as LanguageModel
    from edgec.compiler.emit.manifest_entries import cache_entry as cache_entry
    from edgec.compiler.emit.manifest_entries import graph_entry as graph_entry
    from edgec.compiler.emit.part import Part as Part
    from edgec.compiler.emit.target import CheckRequest as CheckRequest
    from edgec.compiler.emit.target import Emission as Emission
    from edgec.compiler.emit.target import EmitJob as EmitJob
    from edgec.compiler.emit.target import TakesRequest as TakesRequest
    from edgec.compiler.emit.target import Target as Target
    from edgec.compiler.ir.annotations import Annotation as Annotation
    from edgec.compiler.ir.annotations import Subject as Subject
    from edgec.compiler.ir.annotations import Transform as Transform
    from edgec.compiler.ir.annotations import define as define
    from edgec.compiler.ir.decoder_arch import DecoderArch as DecoderArch
    from edgec.compiler.ir.levels import Level as Level
    from edgec.compiler.ir.linears import Linear as Linear
    from edgec.compiler.ir.linears import QuantizedWeight as QuantizedWeight
    from edgec.compiler.ir.linears import as_linear as as_linear
    from edgec.compiler.ir.linears import linears as linears
    from edgec.compiler.ir.module import Module as Module
    from edgec.compiler.ir.ops.op_definition import Cost as Cost
    from edgec.compiler.ir.ops.op_definition import OpDefinition as OpDefinition
    from edgec.compiler.ir.ops.op_definition import OpExample as OpExample
    from edgec.compiler.ir.save import save_graphs as save_graphs
    from edgec.compiler.ir.weight_format import WeightFormat as WeightFormat
    from edgec.compiler.ir.weights import Weight as Weight
    from edgec.compiler.ir.weights import derive as derive
    from edgec.compiler.ir.weights import from_array as from_array
    from edgec.compiler.ir.weights import from_file as from_file
    from edgec.compiler.oracle.compare import random_feeds as random_feeds
    from edgec.compiler.oracle.compare import relative_error as relative_error
    from edgec.compiler.oracle.oracle import run as run_oracle  # noqa: F401
    from edgec.compiler.pipeline.demands import Demands as Demands
    from edgec.compiler.pipeline.graphsurgeon import graphsurgeon_pass as graphsurgeon_pass
    from edgec.compiler.pipeline.op_check import check_op as check_op
    from edgec.compiler.pipeline.pass_check import CheckFailed as CheckFailed
    from edgec.compiler.pipeline.pass_check import run_and_check as run_and_check
    from edgec.compiler.pipeline.pass_interface import EXACT as EXACT
    from edgec.compiler.pipeline.pass_interface import Circumstances as Circumstances
    from edgec.compiler.pipeline.pass_interface import FiguresTable as FiguresTable
    from edgec.compiler.pipeline.pass_interface import Pass as Pass
    from edgec.compiler.pipeline.pass_interface import Scope as Scope
    from edgec.compiler.pipeline.pass_interface import Tolerance as Tolerance
    from edgec.compiler.plan.devices import Device as Device
    from edgec.compiler.plan.measure import Finished as Finished
    from edgec.compiler.plan.measure import Measure as Measure
    from edgec.compiler.plan.parameters import Pattern as Pattern
    from edgec.compiler.plan.parameters import param as param
    from edgec.compiler.sources.source import Outline as Outline
    from edgec.compiler.sources.source import Source as Source

_NAMES = {
    "diagnostics.diagnostic": "Diagnostic EngineError Label PlanError Span fail",
    "emit.capabilities": "Capabilities Refusal",
    "emit.conformance.legality": "Legality",
    "emit.conformance.local_table": "LocalTable",
    "emit.conformance.proof": "Prover Trial",
    "emit.conformance.measure": "Bench Bounds Case run_bench verdict_of",
    "emit.conformance.op_class": "ClassRule Use",
    "emit.conformance.table": "ConformanceTable DeviceReport Row",
    "emit.engine_protocols": "GraphSession LanguageModel",
    "emit.manifest_entries": "cache_entry graph_entry",
    "emit.part": "Part",
    "emit.target": "CheckRequest EmitJob Emission TakesRequest Target",
    "ir.annotations": "Annotation Subject Transform define",
    "ir.decoder_arch": "DecoderArch",
    "ir.levels": "Level",
    "ir.linears": "Linear QuantizedWeight as_linear linears",
    "ir.module": "Module",
    "ir.ops.op_definition": "Cost OpDefinition OpExample",
    "ir.save": "save_graphs",
    "ir.weight_format": "WeightFormat",
    "ir.weights": "Weight derive from_array from_file",
    "oracle.compare": "random_feeds relative_error",
    "pipeline.demands": "Demands",
    "pipeline.graphsurgeon": "graphsurgeon_pass",
    "pipeline.op_check": "check_op",
    "pipeline.pass_check": "CheckFailed run_and_check",
    "pipeline.pass_interface": "EXACT Circumstances FiguresTable Pass Scope Tolerance",
    "plan.devices": "Device",
    "plan.measure": "Finished Measure",
    "plan.parameters": "Pattern param",
    "sources.source": "Outline Source",
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}
_PLACES["run_oracle"] = "oracle.oracle:run"

__all__ = [*_PLACES]

__getattr__, __dir__ = lazy(globals(), _PLACES)
