"""Ops with a window, or over channels and places: convolutions, poolings, resizing, recurrent nets, pictures."""

from __future__ import annotations

import numpy as np

from .graph import I8, I32, I64, U8, F, Graph


def _spatial(g, rank, low=4, high=11):
    return [g.int(low, high) for _ in range(rank)]


def conv(g: Graph) -> None:
    rank = g.pick(1, 2, 2, 3)
    groups = g.pick(1, 1, 2, 3)
    i, o = (groups * g.int(1, 3), groups * g.int(1, 3))
    k = [g.int(1, 4) for _ in range(rank)]
    a = {}
    if g.chance(0.3):
        a["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    elif g.chance(0.7):
        a["pads"] = [g.int(0, 2) for _ in range(2 * rank)]
    if g.chance():
        a["strides"] = [g.int(1, 3) for _ in range(rank)]
    if g.chance(0.4):
        a["dilations"] = [g.int(1, 2) for _ in range(rank)]
    if g.chance():
        a["kernel_shape"] = k
    x = g.x([g.int(1, 2), i, *_spatial(g, rank, 7, 12)])
    ins = [x, g.maybe([o, i // groups, *k])] + ([g.maybe([o])] if g.chance() else [])
    g.out(g.op("Conv", ins, group=groups if groups > 1 or g.chance() else None, **a))


def conv_transpose(g: Graph) -> None:
    rank = g.pick(1, 2, 2, 3)
    groups = g.pick(1, 1, 2)
    i, o = (groups * g.int(1, 3), groups * g.int(1, 3))
    k = [g.int(1, 4) for _ in range(rank)]
    s = [g.int(1, 3) for _ in range(rank)]
    a = {"strides": s}
    sp = _spatial(g, rank, 3, 7)
    w = g.pick(0, 1, 2, 3)
    if w == 0:
        a["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    if w == 1:
        a["pads"] = [g.int(0, 1) for _ in range(2 * rank)]
        a["output_padding"] = [g.int(0, q - 1) for q in s]
    if w == 2:
        a["output_shape"] = [n * q + g.int(0, q - 1) for n, q in zip(sp, s, strict=False)]
        a["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "NOTSET")
    if g.chance(0.3):
        a["dilations"] = [g.int(1, 2) for _ in range(rank)]
    x = g.x([g.int(1, 2), i, *sp])
    g.out(
        g.op(
            "ConvTranspose",
            [x, g.maybe([i, o // groups, *k])] + ([g.c(g.data([o]))] if g.chance() else []),
            group=groups,
            **a,
        )
    )


def pool(g: Graph) -> None:
    kind = g.pick("AveragePool", "MaxPool", "LpPool")
    rank = g.pick(1, 2, 2, 2, 3)
    k = [g.int(1, 4) for _ in range(rank)]
    a = {"kernel_shape": k}
    if g.chance(0.3):
        a["auto_pad"] = g.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    elif g.chance(0.7):
        a["pads"] = [g.int(0, k[j % rank] - 1) for j in range(2 * rank)]
    if g.chance(0.8):
        a["strides"] = [g.int(1, 3) for _ in range(rank)]
    if "auto_pad" not in a and g.chance():
        a["ceil_mode"] = 1
    if kind == "AveragePool" and g.chance():
        a["count_include_pad"] = 1
    if kind == "LpPool":
        a["p"] = g.pick(1, 2, 3)
    if kind == "LpPool" and g.opset < 18:
        a.pop("ceil_mode", 0)
    if (kind == "MaxPool" or g.opset >= 19) and g.chance(0.3):
        a["dilations"] = [g.int(1, 2) for _ in range(rank)]
    dt = g.pick(F, F, F, U8, I8) if kind == "MaxPool" and g.opset >= 12 else F
    outs = 2 if kind == "MaxPool" and g.chance(0.25) else 1
    if outs == 2 and g.chance(0.3):
        a["storage_order"] = 1
    made = g.op(kind, [g.x([g.int(1, 2), g.int(1, 3), *_spatial(g, rank, 7, 12)], dt)], outs, **a)
    g.out(*(made if outs == 2 else [made]))


def global_pool(g: Graph) -> None:
    g.out(
        g.op(
            g.pick("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
            [g.x([g.int(1, 2), g.int(1, 4), *_spatial(g, g.pick(1, 2, 3))])],
        )
    )


def resize(g: Graph) -> None:
    rank = g.pick(1, 2, 2, 2, 3)
    mode = g.pick("nearest", "linear", "cubic") if rank == 2 else g.pick("nearest", "linear")
    shape = [1, g.int(1, 3), *_spatial(g, rank, 3, 7)]
    modes = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"] + (
        ["half_pixel_symmetric"] if g.opset >= 19 else []
    )
    a = {"mode": mode, "coordinate_transformation_mode": g.pick(*modes)}
    if mode == "nearest" and g.chance(0.8):
        a["nearest_mode"] = g.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        if g.chance():
            a["cubic_coeff_a"] = g.pick(-0.5, -0.75)
        if g.chance(0.3):
            a["exclude_outside"] = 1
    if g.opset >= 18 and mode != "nearest" and g.chance(0.3):
        a["antialias"] = 1
    x = g.x(shape, g.pick(F, F, F, U8) if mode == "nearest" else F)
    sizes = [1, shape[1], *[max(1, int(n * g.pick(0.4, 0.5, 0.75, 1, 1.4, 2, 2.5, 3))) for n in shape[2:]]]
    roi = g.c(np.zeros(0, F)) if g.opset < 13 else ""
    if g.chance():
        if g.opset >= 18 and g.chance(0.4):
            a["axes"] = list(range(2, rank + 2)) if g.chance() else list(range(-rank, 0))
            sizes = sizes[2:]
        if g.opset >= 18 and g.chance(0.2):
            a["keep_aspect_ratio_policy"] = g.pick("not_larger", "not_smaller")
        g.out(g.op("Resize", [x, roi, g.c(np.zeros(0, F)) if g.opset < 13 else "", g.c(sizes, I64)], **a))
    else:
        g.out(
            g.op(
                "Resize",
                [x, roi, g.c([1.0, 1.0, *[g.pick(0.5, 0.6, 0.75, 1.0, 1.3, 1.5, 2.0, 3.0) for _ in range(rank)]], F)],
                **a,
            )
        )


def recurrent(g: Graph) -> None:
    kind = g.pick("LSTM", "GRU", "RNN")
    s, n, i, hid = (g.int(1, 5), g.int(1, 3), g.int(1, 5), g.int(1, 5))
    direction = g.pick("forward", "reverse", "bidirectional")
    d = 2 if direction == "bidirectional" else 1
    m = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    layout = 1 if g.opset >= 14 and g.chance(0.15) else None
    x = g.x([n, s, i] if layout else [s, n, i])
    ins = [x, g.maybe([d, m * hid, i]), g.maybe([d, m * hid, hid])]
    opt = [
        g.maybe([d, 2 * m * hid]) if g.chance() else "",
        g.c(np.asarray(g.r.integers(1, s + 1, n), I32)) if g.chance(0.3) else "",
        g.maybe([n, d, hid] if layout else [d, n, hid]) if g.chance() else "",
    ]
    a = {"hidden_size": hid, "layout": layout}
    if direction != "forward" or g.chance():
        a["direction"] = direction
    if kind == "LSTM":
        if g.chance():
            opt.append(g.maybe([n, d, hid] if layout else [d, n, hid]))
        elif g.chance(0.2):
            opt.append("")
        if len(opt) == 4 and g.chance(0.3):
            opt.append(g.c(g.data([d, 3 * hid])))
    if kind == "GRU" and g.chance():
        a["linear_before_reset"] = 1
    if kind == "RNN" and g.chance(0.4):
        a["activations"] = [g.pick("Relu", "Tanh", "Sigmoid")] * d
    if kind != "RNN" and g.chance(0.15):
        a["clip"] = 0.5
    while opt and (not opt[-1]):
        opt.pop()
    full = 3 if kind == "LSTM" else 2
    names = [g.name("t") if g.chance(0.75) else "" for _ in range(full)]
    if not any(names):
        names[0] = g.name("t")
    while not names[-1]:
        names.pop()
    g.op(kind, ins + opt, names, **a)
    g.out(*[o for o in names if o])


def norm(g: Graph) -> None:
    kind = g.pick(
        "BatchNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "GroupNormalization",
    )
    if (kind == "LayerNormalization" and g.opset < 17) or (kind == "GroupNormalization" and g.opset < 21):
        kind = "LRN"
    ch = g.pick(2, 4, 6)
    rank = g.pick(1, 2, 2, 3)
    x = g.x([g.int(1, 2), ch, *_spatial(g, rank, 2, 6)])
    if kind == "BatchNormalization":
        y = g.op(
            kind,
            [x, g.c(g.data([ch])), g.maybe([ch]), g.c(g.data([ch])), g.c(np.abs(g.data([ch])) + 0.1)],
            epsilon=g.pick(None, 0.001, 0.1),
        )
    elif kind == "InstanceNormalization":
        y = g.op(kind, [x, g.maybe([ch]), g.c(g.data([ch]))], epsilon=g.pick(None, 0.01))
    elif kind == "LRN":
        y = g.op(
            kind, [x], size=g.pick(1, 2, 3, 5), alpha=g.pick(None, 0.5), beta=g.pick(None, 0.5), bias=g.pick(None, 2.0)
        )
    elif kind == "LayerNormalization":
        axis = g.int(-rank - 2, rank + 1)
        shape = list(g.inputs[x].shape)[axis:]
        y = g.op(
            kind,
            [x, g.maybe(shape)] + ([g.c(g.data(shape))] if g.chance() else []),
            axis=axis,
            epsilon=g.pick(None, 0.01),
        )
    elif kind == "LpNormalization":
        y = g.op(kind, [x], axis=g.int(-2, 1), p=g.pick(1, 2))
    elif kind == "GroupNormalization":
        y = g.op(kind, [x, g.c(g.data([ch])), g.c(g.data([ch]))], num_groups=2)
    else:
        y = g.op(kind, [x], axes=g.pick(None, [0, 2], [1, 2], [-1]))
    g.out(y)


def space(g: Graph) -> None:
    b = g.pick(2, 3)
    if g.chance():
        g.out(
            g.op(
                "DepthToSpace",
                [g.x([g.int(1, 2), b * b * g.int(1, 2), g.int(1, 3), g.int(1, 3)])],
                blocksize=b,
                mode=g.pick(None, "DCR", "CRD"),
            )
        )
    else:
        g.out(g.op("SpaceToDepth", [g.x([g.int(1, 2), g.int(1, 2), b * g.int(1, 3), b * g.int(1, 3)])], blocksize=b))


def image(g: Graph) -> None:
    w = g.pick(
        "GridSample", "RoiAlign", "NonMaxSuppression", "MaxUnpool", "Upsample", "Col2Im", "CenterCropPad", "AffineGrid"
    )
    if w == "GridSample" and g.opset >= 16:
        modes = ("bilinear", "nearest", "bicubic") if g.opset < 20 else ("linear", "nearest", "cubic")
        g.out(
            g.op(
                w,
                [g.x([1, 2, 5, 6]), g.x(data=np.tanh(g.data([1, 3, 4, 2])) * 1.2)],
                mode=g.pick(None, *modes),
                padding_mode=g.pick(None, "border", "reflection"),
                align_corners=g.pick(None, 1),
            )
        )
    elif w == "RoiAlign":
        g.out(
            g.op(
                w,
                [
                    g.x([2, 2, 8, 8]),
                    g.maybe(data=np.asarray([[0, 0, 5, 5], [1, 2, 7, 6.5]], F)),
                    g.maybe(data=np.asarray([0, 1], I64)),
                ],
                output_height=3,
                output_width=2,
                sampling_ratio=g.pick(None, 2),
                mode=g.pick(None, "max"),
                spatial_scale=g.pick(None, 0.5),
                **{"coordinate_transformation_mode": g.pick("half_pixel", "output_half_pixel")}
                if g.opset >= 16
                else {},
            )
        )
    elif w == "NonMaxSuppression":
        b = np.abs(g.data([1, 6, 4]))
        b[..., 2:] += b[..., :2] + 0.5
        g.out(
            g.op(
                w,
                [
                    g.x(data=b),
                    g.x(data=g.r.random([1, 2, 6]).astype(F)),
                    g.c([3], I64),
                    g.c([0.4], F),
                    *([g.c([0.1], F)] if g.chance() else []),
                ],
                center_point_box=g.pick(None, 1),
            )
        )
    elif w == "MaxUnpool":
        v, i = g.op("MaxPool", [g.x([1, 2, 6, 6])], 2, kernel_shape=[2, 2], strides=[2, 2])
        g.out(g.op(w, [v, i], kernel_shape=[2, 2], strides=[2, 2]))
    elif w == "Col2Im" and g.opset >= 18:
        g.out(g.op(w, [g.x([1, 8, 16]), g.c([5, 5], I64), g.c([2, 2], I64)]))
    elif w == "CenterCropPad" and g.opset >= 18:
        g.out(g.op(w, [g.x([4, 5, 3]), g.c([g.int(2, 7), g.int(2, 7)], I64)], axes=g.pick([0, 1], [-3, 1])))
    elif w == "AffineGrid" and g.opset >= 20:
        g.out(g.op(w, [g.x([1, 2, 3]), g.c([1, 2, 3, 4], I64)], align_corners=g.pick(None, 1)))
    else:
        g.opset = 9
        g.out(
            g.op(
                "Upsample", [g.x([1, 2, 3, 4]), g.c([1, 1, 2, g.pick(2, 3)], F)], mode=g.pick(None, "nearest", "linear")
            )
        )
