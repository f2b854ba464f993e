"""Ops that compute: element by element, over axes, products, integers, sizes of numbers, ops of ONNX Runtime's own."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .graph import I8, I32, I64, U8, B, D, F, Graph, H


def reduce(g: Graph) -> None:
    kind = g.pick("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    rank = g.int(1, 4)
    shape = [g.int(1, 5) for _ in range(rank)]
    dt = g.pick(F, F, F, I32, I64) if kind in ("Sum", "Max", "Min", "Prod", "Mean") else F
    d = g.data(shape, dt)
    d = np.abs(d) + 1 if kind == "LogSum" else d
    if kind == "Prod" and dt != F:
        d = d % 3
    axes = sorted(g.r.choice(rank, g.int(1, rank), replace=False).tolist())
    axes = [q - rank for q in axes] if g.chance() else axes
    inp = g.opset >= 18 or (kind == "Sum" and g.opset >= 13)
    a = {"keepdims": g.pick(None, 0, 1)}
    w = g.pick(0, 0, 1, 2)
    x = g.x(data=np.asarray(d, dt))
    if inp:
        if w == 2:
            a["noop_with_empty_axes"] = 1
        g.out(g.op(f"Reduce{kind}", [x] + ([g.c(axes, I64)] if w == 0 else []), **a))
    else:
        g.out(g.op(f"Reduce{kind}", [x], axes=axes if w == 0 else None, **a))


def softmax(g: Graph) -> None:
    shape = [g.int(1, 5) for _ in range(g.int(1, 4))]
    a = {"axis": g.int(-len(shape), len(shape) - 1)} if g.chance(0.7) else {}
    g.out(g.op(g.pick("Softmax", "LogSoftmax", "Hardmax"), [g.x(shape)], **a))


def binary(g: Graph) -> None:
    kind = g.pick(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "PRelu",
        "Max",
        "Min",
        "Mean",
        "Sum",
        "Equal",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "And",
        "Or",
        "Xor",
        "BitShift",
        "BitwiseAnd",
        "BitwiseXor",
    )
    shape = [g.int(1, 4) for _ in range(g.int(0, 4))]
    other = [n if g.chance(0.6) else 1 for n in shape][g.int(0, len(shape)) :] if g.chance() else shape
    dt = g.pick(F, F, F, I32, I64, H)
    if kind in ("And", "Or", "Xor"):
        dt = B
    if kind == "BitShift":
        dt = U8
    if kind.startswith("Bitwise"):
        if g.opset < 18:
            kind = "Add"
        else:
            dt = g.pick(I32, U8, I64)
    if kind == "PRelu":
        dt = F
    if kind in ("Max", "Min", "Mean", "Sum") and kind in ("Mean", "Sum"):
        dt = F
    a, b = (g.data(shape, dt), g.data(other, dt))
    at = {}
    if kind == "Pow":
        a = np.abs(a) + 1
        b = (b % 3).astype(b.dtype)
        if g.opset >= 12 and g.chance():
            b = b.astype(g.pick(F, I64, I32))
    if kind in ("Div", "Mod"):
        b = np.where(b == 0, 3, b).astype(dt)
    if kind == "Mod" and (np.dtype(dt).kind == "f" or g.chance()):
        at["fmod"] = 1
    if kind == "BitShift":
        at["direction"] = g.pick("LEFT", "RIGHT")
        b = b % 8
    if kind == "Equal" or "Or" in kind:
        b = np.where(g.r.random(b.shape) < 0.3, 0, b).astype(b.dtype) if b.dtype != B else b
    ins = [g.x(data=a), g.maybe(data=b)]
    if kind != "PRelu" and g.chance(0.3) and (not (kind == "Mod" or kind == "Div")):
        ins = ins[::-1]
    if kind == "BitShift" or kind == "Pow":
        ins = ins if ins[0].startswith("x1") else ins[::-1]
    if kind in ("Max", "Min", "Sum", "Mean") and g.chance(0.4):
        ins = [*ins, g.maybe(shape, dt)] if g.chance() else ins[:1]
    g.out(g.op(kind, ins, **at))


def unary(g: Graph) -> None:
    kinds = {
        "Abs": {},
        "Neg": {},
        "Ceil": {},
        "Floor": {},
        "Round": {},
        "Sqrt": {},
        "Exp": {},
        "Log": {},
        "Sin": {},
        "Cos": {},
        "Tan": {},
        "Asin": {},
        "Acos": {},
        "Atan": {},
        "Sinh": {},
        "Cosh": {},
        "Asinh": {},
        "Acosh": {},
        "Atanh": {},
        "Erf": {},
        "Sign": {},
        "Reciprocal": {},
        "Relu": {},
        "Sigmoid": {},
        "Tanh": {},
        "Softplus": {},
        "Softsign": {},
        "Not": {},
        "Identity": {},
        "IsNaN": {},
        "LeakyRelu": {"alpha": g.pick(None, 0.3)},
        "Elu": {"alpha": g.pick(None, 0.5)},
        "Selu": {"alpha": g.pick(None, 2.0), "gamma": g.pick(None, 1.5)},
        "Celu": {"alpha": g.pick(None, 0.5)},
        "HardSigmoid": {"alpha": g.pick(None, 0.3), "beta": g.pick(None, 0.4)},
        "ThresholdedRelu": {"alpha": g.pick(None, 0.3)},
        "Shrink": {"lambd": g.pick(None, 0.3), "bias": g.pick(None, 0.2)},
        "HardSwish": {},
        "Mish": {},
        "Gelu": {"approximate": g.pick(None, "tanh")},
        "IsInf": {"detect_negative": g.pick(None, 0)},
    }
    if g.opset < 14:
        kinds.pop("HardSwish")
    if g.opset < 18:
        kinds.pop("Mish")
    if g.opset < 20:
        kinds.pop("Gelu")
    if g.opset < 12:
        kinds.pop("Celu")
    kind = g.pick(*kinds)
    shape = [g.int(1, 4) for _ in range(g.int(0, 5))]
    x = g.data(shape)
    if kind in ("Sqrt", "Log", "Reciprocal"):
        x = np.abs(x) + 0.2
    if kind in ("Asin", "Acos", "Atanh"):
        x = np.tanh(x) * 0.9
    if kind == "Acosh":
        x = np.abs(x) + 1.1
    if kind == "Not":
        x = x > 0
    if kind in ("Round", "Ceil", "Floor"):
        x = np.round(x * 4) / 2
    if kind in ("IsInf", "IsNaN"):
        x = np.where(x > 1, np.inf, np.where(x < -1, -np.inf, np.where(np.abs(x) < 0.3, np.nan, x)))
    dt = F
    if kind in ("Abs", "Neg", "Sign", "Relu", "Identity"):
        dt = g.pick(F, I32, I64, I8) if g.opset >= 14 or kind != "Relu" else F
    g.out(g.op(kind, [g.x(data=x if kind == "Not" else np.asarray(x * (10 if dt != F else 1), dt))], **kinds[kind]))


def cast(g: Graph) -> None:
    kinds = {
        TensorProto.FLOAT: F,
        TensorProto.INT64: I64,
        TensorProto.INT32: I32,
        TensorProto.BOOL: B,
        TensorProto.FLOAT16: H,
        TensorProto.UINT8: U8,
        TensorProto.INT8: I8,
        TensorProto.DOUBLE: D,
    }
    a, b = (g.pick(*kinds), g.pick(*kinds))
    x = g.data([g.int(1, 4), 3], kinds[a])
    x = np.abs(x) if b == TensorProto.UINT8 and a != TensorProto.BOOL else x
    y = g.op("Cast", [g.x(data=x * (5 if np.dtype(kinds[a]).kind == "f" else 1) if a != TensorProto.BOOL else x)], to=b)
    if g.chance(0.6):
        y = g.op("Cast", [y], to=g.pick(TensorProto.FLOAT, TensorProto.INT32))
    g.out(y)


def clip(g: Graph) -> None:
    dt = g.pick(F, F, I32, I64, I8, U8) if g.opset >= 12 else F
    x = g.x([2, 5], dt)
    lo, hi = (-1, 1) if dt == F else (5, 20)
    g.out(
        g.op(
            "Clip",
            [
                x,
                g.maybe(data=np.asarray(lo, dt)) if g.chance(0.7) else "",
                *([g.maybe(data=np.asarray(hi, dt))] if g.chance(0.7) else []),
            ],
        )
    )


def cumsum(g: Graph) -> None:
    s = [g.int(1, 5) for _ in range(g.int(1, 3))]
    g.out(
        g.op(
            "CumSum",
            [g.x(s, g.pick(F, I32, I64)), g.c(np.asarray(g.int(-len(s), len(s) - 1), g.pick(I32, I64)))],
            exclusive=g.pick(None, 1),
            reverse=g.pick(None, 1),
        )
    )


def einsum(g: Graph) -> None:
    eq, shapes = g.pick(
        ("ij,jk->ik", [[2, 3], [3, 4]]),
        ("bij,bkj->bik", [[2, 3, 4], [2, 5, 4]]),
        ("i,j->ij", [[3], [4]]),
        ("...ij->...ji", [[2, 3, 4]]),
        ("ii->i", [[3, 3]]),
        ("bhqd,bhkd->bhqk", [[1, 2, 3, 4], [1, 2, 5, 4]]),
        ("ij->j", [[2, 3]]),
        ("bij,jk", [[2, 3, 4], [4, 2]]),
        ("bij , jk -> bik", [[2, 3, 4], [4, 2]]),
    )
    if g.opset < 12:
        matmul(g)
        return
    g.out(g.op("Einsum", [g.x(shapes[0])] + [g.maybe(s) for s in shapes[1:]], equation=eq))


def matmul(g: Graph) -> None:
    k = g.int(1, 5)
    a, b = g.pick(
        ([k], [k]),
        ([3, k], [k]),
        ([k], [k, 2]),
        ([2, 3, k], [k, 4]),
        ([2, 1, 3, k], [4, k, 2]),
        ([3, k], [2, k, 4]),
        ([1, 2, k], [5, k, 1]),
    )
    dt = g.pick(F, F, F, H, I32, D)
    x, y = (g.x(a, dt), g.maybe(b, dt)) if g.chance(0.6) else (g.maybe(a, dt), g.x(b, dt))
    g.out(g.op("MatMul", [x, y]))


def gemm(g: Graph) -> None:
    m, k, n = (g.int(1, 4), g.int(1, 4), g.int(1, 4))
    ta, tb = (g.pick(None, 1), g.pick(None, 1))
    c = g.pick([], [1], [n], [m, 1], [1, n], [m, n], None)
    g.out(
        g.op(
            "Gemm",
            [g.x([k, m] if ta else [m, k]), g.maybe([n, k] if tb else [k, n])]
            + ([g.maybe(c)] if c is not None else []),
            transA=ta,
            transB=tb,
            alpha=g.pick(None, 0.5),
            beta=g.pick(None, 2.0, 0.0),
        )
    )


def integer_products(g: Graph) -> None:
    kind = g.pick("MatMulInteger", "QLinearConv", "ConvInteger", "QLinearMatMul", "DynamicQuantizeLinear", "QDQ")
    if kind == "MatMulInteger":
        b = g.pick(I8, U8)
        a = g.pick(U8, I8)
        g.out(
            g.op(
                kind,
                [g.x([3, 4], a), g.maybe([4, 2], b)]
                + (
                    [g.c(np.asarray(3, a)), g.c(np.asarray(2, b) if g.chance() else np.asarray([1, 2], b))]
                    if g.chance()
                    else []
                ),
            )
        )
    elif kind == "ConvInteger":
        g.out(
            g.op(
                kind,
                [g.x([1, 2, 6, 6], U8), g.c(g.data([3, 2, 3, 3], U8))]
                + ([g.c(np.asarray(3, U8))] if g.chance() else []),
                pads=[1, 1, 1, 1] if g.chance() else None,
            )
        )
    elif kind == "QLinearConv":
        per = g.chance()
        w = g.c(g.data([3, 2, 3, 3], I8))
        g.out(
            g.op(
                kind,
                [
                    g.x([1, 2, 6, 6], U8),
                    g.c(0.02, F),
                    g.c(120, U8),
                    w,
                    g.c([0.01, 0.02, 0.03] if per else 0.02, F),
                    g.c([0, 0, 0] if per else 0, I8),
                    g.c(0.05, F),
                    g.c(100, U8),
                ]
                + ([g.c(g.data([3], I32))] if g.chance() else []),
                pads=[1, 1, 1, 1],
            )
        )
    elif kind == "QLinearMatMul":
        g.out(
            g.op(
                kind,
                [
                    g.x([3, 4], U8),
                    g.c(0.02, F),
                    g.c(50, U8),
                    g.maybe([4, 2], U8),
                    g.c(0.03, F),
                    g.c(40, U8),
                    g.c(0.1, F),
                    g.c(60, U8),
                ],
            )
        )
    elif kind == "DynamicQuantizeLinear":
        g.out(*g.op(kind, [g.x([3, 4])], 3))
    else:
        t = g.pick(U8, I8)
        ax = g.pick(None, 1)
        ch = 4
        s = g.c(np.abs(g.data([ch])) * 0.1 + 0.01 if ax else np.asarray(0.05), F)
        z = g.c(g.data([ch] if ax else [], t)) if g.chance() else None
        q = (
            g.op("QuantizeLinear", [g.x([2, ch, 3]), s] + ([z] if z else []), axis=ax if g.opset >= 13 else None)
            if z or g.chance()
            else None
        )
        if g.opset < 13 and ax:
            matmul(g)
        return
        if q is None:
            q, z = (g.x([2, ch, 3], t), g.c(np.zeros([ch] if ax else [], t)))
        g.out(g.op("DequantizeLinear", [q, s] + ([z] if z else []), axis=ax if g.opset >= 13 else None))


def casts_and_big(g: Graph) -> None:
    x = g.x(data=np.asarray(g.r.integers(-(2**30), 2**30, [2, 4]), g.pick(I64, I32)))
    w = g.pick(0, 1, 2, 3)
    if w == 0:
        g.out(g.op("Add", [x, g.c(np.asarray(7, g.inputs[x].dtype))]))
    if w == 1:
        g.out(g.op("Mod", [x, g.c(np.asarray(1000, g.inputs[x].dtype))]))
    if w == 2:
        g.out(g.op("Div", [x, g.c(np.asarray(3, g.inputs[x].dtype))]))
    if w == 3:
        g.out(g.op("Greater", [x, g.c(np.asarray(2**29 + 1, g.inputs[x].dtype))]))


def float_sizes(g: Graph) -> None:
    k = g.pick(1e-07, 10000.0, 1e-12)
    x = g.x([2, 8])
    g.out(g.op("MatMul", [x, g.c((g.data([8, 4]) * k).astype(F))]))


def contrib(g: Graph) -> None:
    w = g.pick(
        "Gelu",
        "FusedMatMul",
        "SkipLayerNormalization",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "FusedConv",
        "DynamicQuantizeMatMul",
        "MatMulNBits",
        "QLinearAdd",
        "Inverse",
    )
    M = "com.microsoft"
    if w in ("Gelu", "FastGelu", "QuickGelu"):
        g.out(g.op(w, [g.x([2, 4])], domain=M))
    elif w == "BiasGelu":
        g.out(g.op(w, [g.x([2, 4]), g.c(g.data([4]))], domain=M))
    elif w == "FusedMatMul":
        g.out(g.op(w, [g.x([2, 3, 4]), g.maybe([2, 5, 4])], domain=M, transB=1, alpha=g.pick(None, 0.5)))
    elif w == "SkipLayerNormalization":
        g.out(g.op(w, [g.x([1, 3, 4]), g.x([1, 3, 4]), g.c(g.data([4])), g.c(g.data([4]))], domain=M, epsilon=0.001))
    elif w == "FusedConv":
        g.out(g.op(w, [g.x([1, 2, 6, 6]), g.c(g.data([3, 2, 3, 3]))], domain=M, activation="Relu"))
    elif w == "DynamicQuantizeMatMul":
        g.out(
            g.op(w, [g.x([3, 4]), g.c(g.data([4, 2], U8)), g.c(np.asarray(0.02, F)), g.c(np.asarray(50, U8))], domain=M)
        )
    elif w == "QLinearAdd":
        g.out(
            g.op(
                w,
                [
                    g.x([3, 4], U8),
                    g.c(0.02, F),
                    g.c(10, U8),
                    g.x([3, 4], U8),
                    g.c(0.03, F),
                    g.c(20, U8),
                    g.c(0.06, F),
                    g.c(15, U8),
                ],
                domain=M,
            )
        )
    elif w == "MatMulNBits":
        g.out(
            g.op(
                w,
                [
                    g.x([2, 32]),
                    g.c(g.r.integers(0, 256, [4, 1, 16]).astype(U8)),
                    g.c((np.abs(g.data([4])) * 0.1).astype(F)),
                ],
                domain=M,
                K=32,
                N=4,
                bits=4,
                block_size=32,
            )
        )
    else:
        g.out(g.op("Inverse", [g.x([3, 3])], domain=M))


def signal(g: Graph) -> None:
    if g.opset < 17:
        reduce(g)
        return
    if g.chance():
        x = g.x([2, 8, 1])
        g.out(
            g.op(
                "DFT",
                [x] + ([g.c(np.asarray(g.pick(8, 6), I64))] if g.chance() else []),
                onesided=g.pick(None, 1),
                **{"axis": 1} if g.opset < 20 else {},
            )
        )
    else:
        g.out(
            g.op(
                "STFT",
                [g.x([1, 32, 1]), g.c(np.asarray(8, I64)), g.c(np.hanning(16).astype(F))],
                onesided=g.pick(None, 1, 0),
            )
        )
