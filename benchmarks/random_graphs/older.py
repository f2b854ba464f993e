"""Ops as opsets 7 to 10 had them: attributes that became inputs, axes that had another default."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from .bodies import body_of
from .graph import I64, U8, B, F, Graph


def old(g: Graph) -> None:
    w = g.pick(
        "Softmax",
        "Clip6",
        "Slice1",
        "Pad2",
        "TopK1",
        "Resize10",
        "Upsample7",
        "Dropout",
        "BN",
        "Hardmax",
        "Scatter9",
        "Gemm",
        "MaxPool",
        "Cast",
        "Reduce",
        "If",
        "Sum",
        "OneHot9",
        "Scan9",
        "Upsample9",
        "Flatten",
        "LRN",
        "LpPool",
        "NMS10",
        "ConvT",
        "AvgPool",
        "LSTM7",
        "Reshape5",
        "EyeLike",
        "Expand",
        "PRelu",
        "Mod10",
        "QL10",
        "Loop",
        "RoiAlign10",
        "ArgMax",
        "ThresholdedRelu10",
        "Unsqueeze",
        "Compress9",
        "Where9",
    )
    g.opset = g.int(7, 10)
    if w == "Softmax" or w == "Hardmax":
        s = [g.int(1, 4) for _ in range(g.int(1, 4))]
        g.out(
            g.op(
                g.pick("Softmax", "LogSoftmax") if w == "Softmax" else w,
                [g.x(s)],
                axis=g.pick(None if len(s) > 1 else 0, g.int(0, len(s) - 1)),
            )
        )
    elif w == "Clip6":
        g.out(g.op("Clip", [g.x([2, 5])], min=g.pick(None, -0.5), max=g.pick(None, 0.7)))
    elif w == "Slice1":
        g.opset = g.int(7, 9)
        s = [4, 5, 3]
        g.out(
            g.op(
                "Slice",
                [g.x(s, g.pick(F, I64))],
                starts=[g.pick(0, 1, -3), g.pick(0, -2)],
                ends=[g.pick(3, -1, 1000), g.pick(5, 2**31 - 1)],
                axes=g.pick([0, 1], [1, 2], [2, 0]),
            )
        )
    elif w == "Pad2":
        g.out(
            g.op(
                "Pad",
                [g.x([1, 2, 4, 5])],
                pads=[0, 0, g.int(-1, 2), 1, 0, 0, 1, g.int(0, 2)],
                mode=g.pick(None, "constant", "reflect", "edge"),
                value=g.pick(None, 2.5),
            )
        )
    elif w == "TopK1":
        d = g.r.permutation(20).reshape(4, 5).astype(F)
        if g.opset < 10:
            g.out(*g.op("TopK", [g.x(data=d)], 2, k=2, axis=g.pick(None, 0, -1)))
        else:
            g.out(*g.op("TopK", [g.x(data=d), g.c([2], I64)], 2, axis=g.pick(None, 0)))
    elif w == "Resize10":
        g.opset = 10
        g.out(
            g.op(
                "Resize",
                [g.x([1, 2, 4, 6]), g.c([1, 1, g.pick(0.5, 2, 1.5, 0.7, 1), g.pick(0.5, 2, 0.6, 2.5, 1)], F)],
                mode=g.pick(None, "nearest", "linear"),
            )
        )
    elif w == "Upsample7":
        g.opset = g.int(7, 8)
        g.out(
            g.op(
                "Upsample",
                [g.x([1, 2, 4, 6])],
                scales=[1.0, 1.0, 2.0, g.pick(1.0, 2.0, 3.0, 1.5)],
                mode=g.pick(None, "nearest", "linear"),
            )
        )
    elif w == "Upsample9":
        g.opset = 9
        g.out(
            g.op(
                "Upsample",
                [g.x([1, 2, 4, 6]), g.maybe(data=np.asarray([1, 1, 2, g.pick(1.0, 2.0, 3.0, 1.5)], F))],
                mode=g.pick(None, "nearest", "linear"),
            )
        )
    elif w == "Dropout":
        g.out(*[g.op("Dropout", [g.x([3, 4])], ratio=g.pick(None, 0.3))])
    elif w == "BN":
        ch = 3
        g.out(
            g.op(
                "BatchNormalization",
                [
                    g.x([2, ch, 4]),
                    g.c(g.data([ch])),
                    g.c(g.data([ch])),
                    g.c(g.data([ch])),
                    g.c(np.abs(g.data([ch])) + 0.1),
                ],
                epsilon=g.pick(None, 0.01),
                momentum=g.pick(None, 0.5),
            )
        )
    elif w == "Scatter9":
        g.opset = g.int(9, 10)
        g.out(
            g.op(
                "Scatter",
                [g.x([3, 4]), g.maybe(data=np.asarray([[0, 2], [1, 0]], I64)), g.maybe([2, 2])],
                axis=g.pick(None, 0),
            )
        )
    elif w == "Gemm":
        g.out(g.op("Gemm", [g.x([3, 4]), g.maybe([4, 2]), g.maybe(g.pick([2], [1], [3, 1]))], beta=g.pick(None, 0.5)))
    elif w == "MaxPool":
        g.out(
            g.op(
                "MaxPool",
                [g.x([1, 2, 7, 8])],
                kernel_shape=[3, 2],
                strides=g.pick(None, [2, 2]),
                auto_pad=g.pick(None, "SAME_UPPER"),
                **{"ceil_mode": 1} if g.opset == 10 and g.chance() else {},
            )
        )
    elif w == "Cast":
        g.out(
            g.op(
                "Cast",
                [g.x([3, 4], g.pick(F, I64, B))],
                to=g.pick(TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL),
            )
        )
    elif w == "Reduce":
        g.out(
            g.op(
                g.pick("ReduceSum", "ReduceMean", "ReduceMax"),
                [g.x([2, 3, 4])],
                axes=g.pick(None, [1], [0, 2], [2]),
                keepdims=g.pick(None, 0),
            )
        )
    elif w == "If":
        x = g.x([2, 3])

        def fl(n):
            return helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3])

        g.out(
            g.op(
                "If",
                [g.x(data=np.asarray(g.chance()))],
                then_branch=body_of([helper.make_node("Softmax", [x], ["a"], axis=0)], [], [fl("a")]),
                else_branch=body_of([helper.make_node("Clip", [x], ["b"], min=-0.3, max=0.4)], [], [fl("b")]),
            )
        )
    elif w == "Loop":
        it = helper.make_tensor_value_info("it", TensorProto.INT64, [])
        ci = helper.make_tensor_value_info("ci", TensorProto.BOOL, [])
        co = helper.make_tensor_value_info("co", TensorProto.BOOL, [])

        def fl(n):
            return helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3])

        x = g.x([2, 3])
        g.out(
            g.op(
                "Loop",
                [g.c(np.asarray(3, I64)), g.c(np.asarray(True)), x],
                body=body_of(
                    [
                        helper.make_node("Identity", ["ci"], ["co"]),
                        helper.make_node("Hardmax", ["acc"], ["hm"], axis=0),
                        helper.make_node("Add", ["hm", x], ["nx"]),
                    ],
                    [it, ci, fl("acc")],
                    [co, fl("nx")],
                ),
            )
        )
    elif w == "Sum":
        g.opset = g.int(8, 10)
        g.out(g.op(g.pick("Sum", "Max", "Min", "Mean"), [g.x([2, 3]), g.x([3]), g.c(g.data([2, 1]))]))
    elif w == "OneHot9":
        g.opset = g.int(9, 10)
        g.out(
            g.op(
                "OneHot",
                [g.x(data=np.asarray([0, 2, 1], I64)), g.c(np.asarray([4], I64)), g.c([0, 1], F)],
                axis=g.pick(None, 0),
            )
        )
    elif w == "Scan9":
        g.opset = g.int(9, 10)

        def fl(n, s):
            return helper.make_tensor_value_info(n, TensorProto.FLOAT, s)

        body = body_of(
            [helper.make_node("Add", ["st", "xi"], ["so"]), helper.make_node("Identity", ["so"], ["yo"])],
            [fl("st", [3]), fl("xi", [3])],
            [fl("so", [3]), fl("yo", [3])],
        )
        g.out(*g.op("Scan", [g.x([3]), g.x([4, 3])], 2, body=body, num_scan_inputs=1))
    elif w == "Flatten":
        g.out(g.op("Flatten", [g.x([2, 3, 4], F)], axis=g.pick(None, 0, 1, 2, 3)))
    elif w == "LRN":
        g.out(g.op("LRN", [g.x([1, 5, 3, 3])], size=3))
    elif w == "LpPool":
        g.out(g.op("LpPool", [g.x([1, 2, 6, 6])], kernel_shape=[2, 3], p=g.pick(None, 1, 3), strides=[2, 1]))
    elif w == "NMS10":
        g.opset = 10
        b = np.abs(g.data([1, 6, 4]))
        b[..., 2:] += b[..., :2] + 0.5
        g.out(
            g.op(
                "NonMaxSuppression",
                [g.x(data=b), g.x(data=g.r.random([1, 2, 6]).astype(F)), g.c([3], I64), g.c([0.4], F), g.c([0.1], F)],
            )
        )
    elif w == "ConvT":
        g.out(
            g.op(
                "ConvTranspose",
                [g.x([1, 2, 4, 4]), g.c(g.data([2, 3, 3, 3]))],
                strides=[2, 2],
                auto_pad=g.pick(None, "SAME_UPPER", "SAME_LOWER", "VALID"),
                output_padding=g.pick(None, [1, 1]),
            )
        )
    elif w == "AvgPool":
        g.out(
            g.op(
                "AveragePool",
                [g.x([1, 2, 7, 8])],
                kernel_shape=[3, 2],
                strides=[2, 2],
                auto_pad=g.pick(None, "SAME_UPPER", "SAME_LOWER"),
                count_include_pad=g.pick(None, 1),
            )
        )
    elif w == "LSTM7":
        g.opset = 7 + g.int(0, 3)
        g.out(
            g.op(
                "LSTM",
                [g.x([3, 2, 4]), g.c(g.data([1, 12, 4])), g.c(g.data([1, 12, 3])), g.c(g.data([1, 24]))],
                hidden_size=3,
            )
        )
    elif w == "Reshape5":
        g.out(g.op("Reshape", [g.x([2, 3, 4]), g.c([0, -1], I64)]))
    elif w == "EyeLike":
        g.opset = g.int(9, 10)
        g.out(g.op("EyeLike", [g.x([3, 4])], k=g.pick(None, 1)))
    elif w == "Expand":
        g.opset = g.int(8, 10)
        g.out(g.op("Expand", [g.x([3, 1]), g.c([2, 3, 2], I64)]))
    elif w == "PRelu":
        g.out(g.op("PRelu", [g.x([2, 3, 4]), g.c(g.data([3, 1]))]))
    elif w == "Mod10":
        g.opset = 10
        g.out(g.op("Mod", [g.x([3, 4], I64), g.c(g.pick(3, -5), I64)]))
    elif w == "QL10":
        g.opset = 10
        q = g.op("QuantizeLinear", [g.x([3, 4]), g.c(0.05, F), g.c(100, U8)])
        g.out(g.op("DequantizeLinear", [q, g.c(0.05, F), g.c(100, U8)]))
    elif w == "RoiAlign10":
        g.opset = 10
        g.out(
            g.op(
                "RoiAlign",
                [g.x([2, 2, 8, 8]), g.c([[0, 0, 5, 5], [1, 2, 7, 6.5]], F), g.c([0, 1], I64)],
                output_height=3,
                output_width=2,
                sampling_ratio=2,
            )
        )
    elif w == "ArgMax":
        g.out(g.op("ArgMax", [g.x([3, 4])], axis=g.pick(None, 1)))
    elif w == "Unsqueeze":
        g.out(g.op("Squeeze", [g.op("Unsqueeze", [g.x([2, 3])], axes=[0, 3])], axes=[3]))
    elif w == "Compress9":
        g.opset = g.int(9, 10)
        g.out(g.op("Compress", [g.x([4, 3]), g.c([True, False, True])], axis=g.pick(None, 0)))
    elif w == "Where9":
        g.opset = g.int(9, 10)
        g.out(g.op("Where", [g.x([3, 4], B), g.x([3, 4]), g.c(g.data([4]))]))
    else:
        g.opset = 10
        g.out(g.op("ThresholdedRelu", [g.x([3, 4])], alpha=0.5))
