"""Graphs with bodies (If, Loop, Scan), sequences, and outputs that are inputs, constants or each other."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from .graph import I64, B, F, Graph


def body_of(nodes, ins, outs, consts=()):
    return helper.make_graph(nodes, "body", ins, outs, list(consts))


def bodies(g: Graph) -> None:
    w = g.pick("If", "If", "Loop", "Scan", "IfNested", "LoopScan")
    x = g.x([2, 3])

    def fl(n, s):
        return helper.make_tensor_value_info(n, TensorProto.FLOAT, s)

    N = helper.make_node
    if w == "If":
        c = (
            g.maybe(data=np.asarray(g.chance()))
            if g.chance(0.6)
            else g.op("Greater", [g.op("ReduceSum", [x], keepdims=0), g.c(np.asarray(0, F))])
        )
        k = g.c(g.data([3]))
        then = body_of(
            [N("Mul", [x, k], ["p"]), N("Relu", ["p"], ["q"])], [], [fl("q", None if g.chance(0.3) else [2, 3])]
        )
        other = body_of([N("Add", [x, k], ["q" if g.chance(0.3) else "s"])], [], [])
        other.output.append(fl(other.node[0].output[0], [2, 3]))
        g.out(g.op("Neg", [g.op("If", [c], then_branch=then, else_branch=other)]))
    elif w == "IfNested":
        c = g.x(data=np.asarray(True))
        d = g.x(data=np.asarray(g.chance()))
        inner = helper.make_node(
            "If",
            [d],
            ["i"],
            then_branch=body_of([N("Neg", [x], ["a"])], [], [fl("a", [2, 3])]),
            else_branch=body_of([N("Identity", [x], ["b"])], [], [fl("b", [2, 3])]),
        )
        g.out(
            g.op(
                "If",
                [c],
                then_branch=body_of([inner], [], [fl("i", [2, 3])]),
                else_branch=body_of([N("Abs", [x], ["e"])], [], [fl("e", [2, 3])]),
            )
        )
    elif w in ("Loop", "LoopScan"):
        it = helper.make_tensor_value_info("it", TensorProto.INT64, [])
        cin = helper.make_tensor_value_info("ci", TensorProto.BOOL, [])
        cout = helper.make_tensor_value_info("co", TensorProto.BOOL, [])
        body_nodes = [
            N("Identity", ["ci"], ["co"]),
            N("Cast", ["it"], ["itf"], to=TensorProto.FLOAT),
            N("Add", ["acc", "itf"], ["nx"]),
        ]
        outs = [cout, fl("nx", [2, 3])]
        if w == "LoopScan":
            body_nodes.append(N("Mul", ["nx", x], ["sc"]))
            outs.append(fl("sc", [2, 3]))
        body = body_of(body_nodes, [it, cin, fl("acc", [2, 3])], outs)
        trip = g.pick(g.c(np.asarray(3, I64)), g.x(data=np.asarray(g.int(0, 4), I64)), "")
        cond = g.c(np.asarray(True)) if trip else ""
        if trip == "":
            body_nodes[0] = N("Less", ["itf", "lim"], ["co"])
            body_nodes.insert(0, N("Constant", [], ["lim"], value_float=2.0))
            body_nodes = [body_nodes[0], body_nodes[2], body_nodes[1], *body_nodes[3:]]
            body = body_of(body_nodes, [it, cin, fl("acc", [2, 3])], outs)
            trip, cond = ("", g.c(np.asarray(True)))
        made = g.op("Loop", [trip, cond, x], len(outs) - 1, body=body)
        made = [made] if isinstance(made, str) else made
        g.out(*[g.op("Abs", [m]) for m in made])
    else:
        body = body_of(
            [N("Add", ["st", "xi"], ["so"]), N("Neg", ["so"], ["yo"])],
            [fl("st", [3]), fl("xi", [3])],
            [fl("so", [3]), fl("yo", [3])],
        )
        g.out(
            *g.op(
                "Scan",
                [g.maybe([3]), x],
                2,
                body=body,
                num_scan_inputs=1,
                scan_input_directions=g.pick(None, [1]),
                scan_output_directions=g.pick(None, [1]),
            )
        )


def sequences(g: Graph) -> None:
    x, y = (g.x([2, 3]), g.x([2, 3]))
    w = g.pick(0, 1, 2, 3, 4)
    s = g.op("SequenceConstruct", [x, y])
    if w == 0:
        g.out(g.op("SequenceAt", [s, g.c(np.asarray(g.pick(-1, 0)), I64)]))
    if w == 1:
        g.out(
            g.op(
                "ConcatFromSequence",
                [g.op("SequenceInsert", [s, g.op("Neg", [x])])],
                axis=g.pick(0, -1),
                new_axis=g.pick(None, 1),
            )
        )
    if w == 2:
        g.out(g.op("SequenceLength", [s]))
    if w == 3:
        s = g.op("SplitToSequence", [x], axis=1, keepdims=g.pick(1, 0))
        g.out(g.op("ConcatFromSequence", [s], axis=0))
    if w == 4:
        g.out(g.op("Relu", [g.op("SequenceAt", [g.op("SequenceErase", [s]), g.c(np.asarray(0), I64)])]))


def odd_outputs(g: Graph) -> None:
    x = g.x([2, 3], g.pick(F, I64, B))
    y = g.op("Identity", [x])
    w = g.pick(0, 1, 2, 3, 4)
    if w == 0:
        g.out(y, x)
    if w == 1:
        c = g.c(g.data([3]))
        g.out(y, c)
    if w == 2:
        g.x([4], stem="unused")
        g.out(y)
    if w == 3:
        z = g.op("Identity", [y])
        g.out(z, y)
    if w == 4:
        g.out(g.op("Add", [g.x([2, 3]), g.x([2, 3])]), g.op("Shape", [x]))
