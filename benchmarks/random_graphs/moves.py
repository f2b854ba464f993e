"""Ops that move or pick values, with indices from the end, empty axes and every attribute that changes where."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from .graph import I32, I64, U8, B, F, Graph, H


def reshape(g: Graph) -> None:
    shape = [g.int(1, 4) for _ in range(g.int(1, 4))]
    dt = g.pick(F, I64, I32, B, H, U8)
    x = g.x(shape, dt)
    total = int(np.prod(shape))
    w = g.pick(0, 1, 2, 3)
    a = {}
    if w == 0:
        target = [-1]
    elif w == 1:
        target = [0] * len(shape)
    elif w == 2:
        target = [0, -1]
    else:
        target = [1, total, 1]
    if g.opset >= 14 and g.chance(0.3) and (0 not in target):
        a["allowzero"] = 1
    g.out(g.op("Reshape", [x, g.c(target, I64)], **a))


def empty(g: Graph) -> None:
    x = g.x([g.pick(0, 2), 3])
    e = g.c(np.zeros([0, 3], F))
    y = g.op("Concat", [x, e], axis=g.pick(0, -2))
    g.out(g.op(g.pick("Relu", "Neg", "Abs"), [y]))


def slice_(g: Graph) -> None:
    rank = g.int(1, 4)
    shape = [g.int(2, 6) for _ in range(rank)]
    x = g.x(shape, g.pick(F, I64, I32, F, B))
    axes = sorted(g.r.choice(rank, g.int(1, rank), replace=False).tolist())
    starts, ends, steps = ([], [], [])
    for ax in axes:
        if g.chance(0.3):
            starts.append(g.pick(-1, shape[ax], 1000))
            ends.append(g.pick(-1000, -(2**63), -shape[ax] - 1, 0))
            steps.append(-g.int(1, 2))
        else:
            starts.append(g.pick(0, 1, -2))
            ends.append(g.pick(shape[ax], -1, 2**63 - 1, 1000))
            steps.append(g.int(1, 2))
    if g.chance():
        axes = [ax - rank for ax in axes]
    t = g.pick(I64, I64, I32)
    if t == I32:
        ends = [int(np.clip(v, -(2**31), 2**31 - 1)) for v in ends]
    g.out(g.op("Slice", [x, g.c(starts, t), g.c(ends, t), g.c(axes, t), g.c(steps, t)]))


def gather(g: Graph) -> None:
    rank = g.int(1, 3)
    shape = [g.int(2, 6) for _ in range(rank)]
    axis = g.int(-rank, rank - 1)
    n = shape[axis]
    data = g.maybe(shape, g.pick(F, F, I64, I32, B, H))
    kind = g.pick("Gather", "GatherElements", "GatherND")
    t = g.pick(I64, I32)
    if kind == "Gather":
        ind = np.asarray(g.r.integers(-n, n, [g.int(1, 3) for _ in range(g.int(0, 2))]), t)
        g.out(g.op(kind, [data, g.maybe(data=ind)], axis=axis))
    elif kind == "GatherElements":
        g.out(g.op(kind, [data, g.maybe(data=np.asarray(g.r.integers(-n, n, shape), t))], axis=axis))
    else:
        k = g.int(1, rank)
        ind = np.stack([g.r.integers(-shape[j], shape[j], [3]) for j in range(k)], -1).astype(I64)
        g.out(g.op(kind, [data, g.maybe(data=ind)]))


def scatter(g: Graph) -> None:
    rank = g.int(1, 3)
    shape = [g.int(2, 6) for _ in range(rank)]
    axis = g.int(-rank, rank - 1)
    n = shape[axis]
    dt = g.pick(F, F, I64, I32)
    data = g.maybe(shape, dt)
    reds = ["none"] + (["add", "mul"] if g.opset >= 16 else []) + (["max", "min"] if g.opset >= 18 else [])
    red = g.pick(*reds)
    a = {"reduction": red} if red != "none" else {}
    if g.chance():
        idx = np.argsort(g.r.random(shape), axis=axis).astype(I64)
        idx = idx - n * (g.r.random(shape) < 0.3)
        g.out(g.op("ScatterElements", [data, g.maybe(data=idx), g.maybe(shape, dt)], axis=axis, **a))
    else:
        rows = g.r.permutation(shape[0])[:2]
        rows = rows - (shape[0] if g.chance(0.4) else 0)
        g.out(
            g.op(
                "ScatterND",
                [data, g.maybe(data=rows.reshape(-1, 1).astype(I64)), g.maybe([len(rows), *shape[1:]], dt)],
                **a,
            )
        )


def pad(g: Graph) -> None:
    rank = g.int(1, 4)
    shape = [g.int(3, 5) for _ in range(rank)]
    mode = g.pick("constant", "reflect", "edge", *(["wrap"] if g.opset >= 19 else []))
    dt = g.pick(F, F, I64, I32)
    pads = [g.int(-1 if g.chance(0.2) else 0, 2) for _ in range(2 * rank)]
    ins = [g.x(shape, dt), g.c(pads, I64)]
    if mode == "constant" and g.chance():
        ins.append(g.c(np.asarray(3, dt)))
    if g.opset >= 18 and g.chance(0.3):
        ax = g.int(-rank, rank - 1)
        ins[1] = g.c(pads[:1] + pads[-1:], I64)
        ins = [*([*ins, ""])[:3], g.c([ax], I64)]
    g.out(g.op("Pad", ins, mode=mode))


def topk(g: Graph) -> None:
    s = [g.int(2, 6) for _ in range(g.int(1, 3))]
    axis = g.int(-len(s), len(s) - 1)
    k = g.int(1, s[axis])
    d = g.r.permutation(int(np.prod(s))).reshape(s)
    g.out(
        *g.op(
            "TopK",
            [g.x(data=d.astype(g.pick(F, F, I32, I64))), g.c([k], I64)],
            2,
            axis=axis,
            largest=g.pick(None, 0),
            sorted=g.pick(None, 1),
        )
    )


def split(g: Graph) -> None:
    n = g.int(2, 6)
    s = [2, n, 3]
    axis = g.pick(1, -2)
    w = g.pick(0, 1, 2)
    x = g.x(s, g.pick(F, I32))
    if w == 0 and g.opset >= 18:
        g.out(*g.op("Split", [x], 2, axis=axis, num_outputs=2))
    else:
        parts = [1, n - 1]
        g.out(
            *(
                g.op("Split", [x, g.c(parts, I64)], 2, axis=axis)
                if g.opset >= 13
                else g.op("Split", [x], 2, axis=axis, split=parts)
            )
        )


def concat(g: Graph) -> None:
    s = [g.int(1, 3) for _ in range(g.int(1, 4))]
    axis = g.int(-len(s), len(s) - 1)
    dt = g.pick(F, I64, I32, B, U8)
    ins = []
    for _ in range(g.int(1, 4)):
        q = list(s)
        q[axis] = g.int(1, 3)
        ins.append(g.maybe(q, dt))
    if not any(i in g.inputs for i in ins):
        ins.append(g.x(s, dt))
    if g.chance(0.3):
        ins.append(ins[0])
    g.out(g.op("Concat", ins, axis=axis))


def squeeze(g: Graph) -> None:
    x = g.x([1, g.int(1, 3), 1, 2], g.pick(F, I64, B))
    ax = g.pick([0], [-2], [0, 2], [2, 0], [-4, -2], None)
    y = (
        (g.op("Squeeze", [x] + ([g.c(ax, I64)] if ax else [])) if g.opset >= 13 else g.op("Squeeze", [x], axes=ax))
        if ax or g.inputs[x].shape[1] > 1
        else x
    )
    ux = g.pick([0], [-1], [1, -1], [0, 1])
    g.out(g.op("Unsqueeze", [y, g.c(ux, I64)]) if g.opset >= 13 else g.op("Unsqueeze", [y], axes=ux))


def shapes(g: Graph) -> None:
    x = g.x([g.int(1, 3), g.int(2, 4), 3])
    w = g.pick(0, 1, 2, 3, 4)
    if w == 0:
        g.out(g.op("Shape", [x], **{"start": g.pick(1, -2), "end": g.pick(None, -1)} if g.opset >= 15 else {}))
    if w == 1:
        g.out(g.op("Size", [x]))
    if w == 2:
        g.out(g.op("Expand", [g.x([3, 1]), g.c(g.pick([2, 1, 4], [3, 4], [1]), I64)]))
    if w == 3:
        g.out(g.op("Tile", [x, g.c([1, 2, g.int(1, 3)], I64)]))
    if w == 4:
        s = g.op("Shape", [x])
        k = g.op("Gather", [s, g.c(np.asarray(-1), I64)], axis=0)
        u = g.op("Unsqueeze", [k, g.c([0], I64)]) if g.opset >= 13 else g.op("Unsqueeze", [k], axes=[0])
        g.out(g.op("Reshape", [x, g.op("Concat", [g.c([-1], I64), u], axis=0)]))


def made(g: Graph) -> None:
    w = g.pick(
        "Range",
        "OneHot",
        "EyeLike",
        "Trilu",
        "ConstantOfShape",
        "NonZero",
        "Unique",
        "Compress",
        "ReverseSequence",
        "HannWindow",
        "Det",
    )
    if w == "Range":
        g.out(g.op(w, [g.c(np.asarray(1, I64)), g.x(data=np.asarray(7, I64)), g.c(np.asarray(2, I64))]))
    elif w == "OneHot":
        g.out(
            g.op(
                w,
                [
                    g.x(data=np.asarray([[0, -1], [2, 9]], g.pick(I64, I32))),
                    g.c(np.asarray(4, I64)),
                    g.c([2, 5], g.pick(F, I64)),
                ],
                axis=g.pick(None, 0, -1, 1),
            )
        )
    elif w == "EyeLike":
        g.out(g.op(w, [g.x([3, 4])], k=g.pick(None, 1, -1), dtype=g.pick(None, TensorProto.INT64)))
    elif w == "Trilu" and g.opset >= 14:
        g.out(
            g.op(
                w,
                [g.x([2, 4, 3], g.pick(F, I64, B))] + ([g.c(np.asarray(g.int(-2, 2), I64))] if g.chance() else []),
                upper=g.pick(None, 0),
            )
        )
    elif w == "ConstantOfShape":
        z = g.op(w, [g.c([2, 3], I64)], value=numpy_helper.from_array(np.asarray([2], g.pick(F, I64))))
        g.out(z, g.op("Relu", [g.x([2])]))
    elif w == "NonZero":
        g.out(g.op(w, [g.x(data=(g.r.random([3, 4]) < 0.5).astype(g.pick(F, I64, B)))]))
    elif w == "Unique":
        g.out(
            *g.op(
                w,
                [g.x(data=g.r.integers(0, 4, [8]).astype(g.pick(F, I64)))],
                g.pick(2, 4),
                sorted=g.pick(1, 0),
                axis=g.pick(None, 0),
            )
        )
    elif w == "Compress":
        g.out(g.op(w, [g.x([4, 3]), g.maybe(data=np.asarray([True, False, True]))], axis=g.pick(None, 0, -1)))
    elif w == "ReverseSequence":
        g.out(g.op(w, [g.x([4, 3, 2]), g.c([1, 4, 2], I64)], batch_axis=1, time_axis=0))
    elif w == "HannWindow" and g.opset >= 17:
        y = g.op(
            g.pick("HannWindow", "HammingWindow", "BlackmanWindow"), [g.c(np.asarray(8, I64))], periodic=g.pick(None, 0)
        )
        g.out(g.op("Mul", [g.x([2, 8]), y]))
    else:
        g.out(g.op("Det", [g.x([2, 3, 3])]))


def where(g: Graph) -> None:
    s = [g.int(1, 3), g.int(1, 4)]
    dt = g.pick(F, I64, I32, H, B)
    g.out(g.op("Where", [g.maybe(g.pick(s, [1, s[1]], [s[1]]), B), g.x(s, dt), g.maybe(g.pick(s, []), dt)]))


def arg(g: Graph) -> None:
    shape = [g.int(1, 5) for _ in range(g.int(1, 4))]
    d = np.round(g.data(shape) * 2)
    g.out(
        g.op(
            g.pick("ArgMax", "ArgMin"),
            [g.x(data=d.astype(g.pick(F, F, I32)))],
            axis=g.int(-len(shape), len(shape) - 1),
            keepdims=g.pick(0, 1, None),
            select_last_index=g.pick(None, 1) if g.opset >= 12 else None,
        )
    )
