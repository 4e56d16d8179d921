"""Keypoint networks as ONNX graphs, written node by node from the folded networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from cascade_kp.models.blocks import BasicBlock, Bottleneck, Trunk
from cascade_kp.models.designs import LUMA, Design, LastStage, MeanFace, Parallel, Shortcut
from cascade_kp.models.heads import (
    MIN_SPREAD,
    PRIOR_LOG_SIGMA,
    PRIOR_LOG_SPREAD,
    DirectHead,
    DoubtHead,
    KeypointNet,
    SimCCHead,
    SoftArgmaxHead,
    bin_moments,
    cell_moments,
)
from cascade_kp.models.single_shot import MIDDLE, SingleShotNet
from cascade_kp.runtime.graph import Graph

if TYPE_CHECKING:
    import onnx

    from cascade_kp.runtime.graph import Value

__all__ = ["Said", "detector_graph", "network", "network_graph"]


class Said(NamedTuple):
    """What a network says of N crops, as values of a graph; see ``Prediction``.

    Attributes:
        points: (N, K, 2), crop-unit frame.
        log_sigma: (N, K).
        face: (N,).
    """

    points: Value
    log_sigma: Value
    face: Value


def network_graph(net: KeypointNet) -> onnx.ModelProto:
    """Write a network as an ONNX model.

    Args:
        net: in evaluation mode, its batch norms folded away.

    Returns:
        A model with input ``image`` (N, 3, s, s) float RGB in [0, 255] and outputs ``points`` (N, K, 2),
        ``log_sigma`` (N, K) and ``face`` (N,), crop-unit frame.
    """
    graph, size = Graph(), net.config.input_px
    said = network(graph, net, graph.input("image", np.float32))
    return graph.model(
        "cascade_kp",
        {"image": (np.float32, ["n", 3, size, size])},
        {
            "points": (said.points, ["n", net.keypoints, 2]),
            "log_sigma": (said.log_sigma, ["n", net.keypoints]),
            "face": (said.face, ["n"]),
        },
    )


def network(graph: Graph, net: KeypointNet, x: Value) -> Said:
    """Write a network into a graph.

    Args:
        graph: it is written where the graph stands.
        net: as of :func:`network_graph`.
        x: (N, 3, s, s) float RGB in [0, 255].

    Returns:
        What it says.
    """
    x = (x - graph.constant(net.mean)) / graph.constant(net.std)
    return Said(*(_design(graph, net, x) if net.design is not None else _head(graph, net, x)))


def detector_graph(net: SingleShotNet) -> onnx.ModelProto:
    """Write the face detector's network as an ONNX model.

    Args:
        net: in evaluation mode, its batch norms folded away.

    Returns:
        A model with input ``image`` (N, 3, h, w) float RGB in [0, 255], sides multiples of 32, and output ``numbers``
        (N, M, 7), which :meth:`SingleShotNet.read` explains.
    """
    graph = Graph()
    x = _module(graph, net.stem, (graph.input("image", np.float32) - MIDDLE) / MIDDLE)
    rows: list[Value] = []
    maps = []
    for stage in net.stages:
        x = _module(graph, stage, x)
        maps.append(x)
    coarser: Value | None = None
    for lateral, head, found in zip(reversed(net.lateral), reversed(net.heads), reversed(maps), strict=True):
        seen = _conv(graph, found, cast("nn.Conv2d", lateral))
        if coarser is not None:
            seen = _doubled(graph, coarser) + seen
        coarser = seen
        told = _module(graph, head, seen)
        rows.append(told.reshape(0, 0, -1).transpose(0, 2, 1))
    return graph.model(
        "cascade_kp_detector",
        {"image": (np.float32, ["n", 3, "h", "w"])},
        {"numbers": (graph.concat(*rows[::-1], axis=1), ["n", "m", 7])},
    )


def _conv(graph: Graph, x: Value, conv: nn.Conv2d) -> Value:
    inputs = [x, graph.constant(conv.weight)]
    if conv.bias is not None:
        inputs.append(graph.constant(conv.bias))
    pads, kernel = [int(p) for p in conv.padding] * 2, list(conv.kernel_size)
    return graph.node("Conv", *inputs, group=conv.groups, strides=list(conv.stride), pads=pads, kernel_shape=kernel)


def _doubled(graph: Graph, x: Value) -> Value:
    """Every cell as two by two."""
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    return graph.node(
        "Resize", x, None, scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )


def _linear(graph: Graph, x: Value, linear: nn.Linear) -> Value:
    return graph.node("Gemm", x, graph.constant(linear.weight), graph.constant(linear.bias), transB=1)


def _conv_of(folded: nn.Module) -> nn.Conv2d:
    # A folded conv_norm: the convolution, then nothing.
    return cast("nn.Conv2d", cast("nn.Sequential", folded)[0])


def _block(graph: Graph, block: BasicBlock | Bottleneck, x: Value) -> Value:
    y = _conv(graph, x, _conv_of(block.first)).apply("Relu")
    y = _conv(graph, y, _conv_of(block.second))
    if isinstance(block, Bottleneck):
        y = _conv(graph, y.apply("Relu"), _conv_of(block.third))
    shortcut = x if isinstance(block.shortcut, nn.Identity) else _conv(graph, x, _conv_of(block.shortcut))
    return (y + shortcut).apply("Relu")


def _trunk(graph: Graph, trunk: Trunk, x: Value) -> list[Value]:
    x = _conv(graph, x, _conv_of(trunk.stem[0])).apply("Relu")
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    maps = []
    for stage in trunk.stages:
        for block in cast("nn.Sequential", stage):
            x = _block(graph, cast("BasicBlock | Bottleneck", block), x)
        maps.append(x)
    return maps


def _head(graph: Graph, net: KeypointNet, x: Value) -> tuple[Value, Value, Value]:
    maps, head = _trunk(graph, net.trunk, x), net.head
    if isinstance(head, SoftArgmaxHead):
        return _soft_argmax(graph, head, maps)
    return _simcc(graph, head, maps) if isinstance(head, SimCCHead) else _direct(graph, head, maps)


def _doubt(graph: Graph, doubt: DoubtHead, last: Value, prior: float) -> tuple[Value, Value]:
    values = _linear(graph, last.apply("GlobalAveragePool").apply("Flatten"), doubt.linear)
    logs = values.part(0, doubt.keypoints, axis=1) + prior
    return logs, values.take(doubt.keypoints, axis=1) if doubt.face_score else logs.take(0, axis=1) * 0


def _direct(graph: Graph, head: DirectHead, maps: list[Value]) -> tuple[Value, Value, Value]:
    reduced = _conv(graph, maps[-1], _conv_of(head.reduce[0])).apply("Relu")
    points = _linear(graph, reduced.apply("Flatten"), head.points).reshape(0, -1, 2)
    return points, *_doubt(graph, head.doubt, maps[-1], PRIOR_LOG_SIGMA)


def _soft_argmax(graph: Graph, head: SoftArgmaxHead, maps: list[Value]) -> tuple[Value, Value, Value]:
    used = maps[head.first :]
    laterals = [cast("nn.Conv2d", conv) for conv in head.lateral]
    x = _conv(graph, used[-1], laterals[-1])
    for conv, finer in zip(reversed(laterals[:-1]), reversed(used[:-1]), strict=True):
        x = _doubled(graph, x) + _conv(graph, finer, conv)
    x = _conv(graph, x, _conv_of(head.smooth[0])).apply("Relu")
    heat = _conv(graph, x, head.heat).reshape(0, 0, -1)
    share = graph.node("Softmax", heat, axis=-1)
    moments = share @ graph.constant(cell_moments(head.cells, head.cells))
    points = moments.part(0, 2, axis=2)
    variance = moments.part(2, 4, axis=2) - points * points
    return points, *_doubt_and_spread(graph, head.doubt, maps[-1], variance)


def _simcc(graph: Graph, head: SimCCHead, maps: list[Value]) -> tuple[Value, Value, Value]:
    flat = _conv(graph, maps[-1], head.maps).reshape(0, 0, -1)
    means, variances = [], []
    for linear in (head.x, head.y):
        logits = flat @ graph.constant(linear.weight.t()) + graph.constant(linear.bias)
        moments = graph.node("Softmax", logits, axis=-1) @ graph.constant(bin_moments(head.bins))
        mean = moments.take([0], axis=2)
        means.append(mean)
        variances.append(moments.take([1], axis=2) - mean * mean)
    points = graph.concat(*means, axis=2) + 0.5
    return points, *_doubt_and_spread(graph, head.doubt, maps[-1], graph.concat(*variances, axis=2))


def _doubt_and_spread(graph: Graph, doubt: DoubtHead, last: Value, variance: Value) -> tuple[Value, Value]:
    spread = variance.sum(-1).most(MIN_SPREAD)
    logs, face = _doubt(graph, doubt, last, PRIOR_LOG_SPREAD)
    return logs + spread.apply("Log") * 0.5, face


# ----------------------------------------------------------------------------------------------------------- designs


def _design(graph: Graph, net: KeypointNet, x: Value) -> tuple[Value, Value, Value]:
    face = graph.node("ReduceMean", x, axes=[1, 2, 3], keepdims=0) * 0  # a zero for each image
    zeros = face.unsqueeze(1)
    log_sigma = zeros + graph.constant(net.log_sigma[None])
    design = net.design
    if isinstance(design, MeanFace):
        return zeros.unsqueeze(2) + graph.constant(design.face[None]), log_sigma, face
    design = cast("Design", design)
    if design.grey:
        x = graph.node("Conv", x, graph.constant(torch.tensor(LUMA).view(1, 3, 1, 1)))
    x = _module(graph, design.features, x).apply("Flatten")
    x = _module(graph, design.squash, _linear(graph, _module(graph, design.dense, x), design.points))
    return x.reshape(0, -1, 2), log_sigma, face


def _module(graph: Graph, module: nn.Module, x: Value) -> Value:
    """A module of a design, as nodes.

    Raises:
        NotImplementedError: there is no rule for such a module.
    """
    if isinstance(module, nn.Sequential):
        for child in module:
            x = _module(graph, child, x)
        return x
    if isinstance(module, Shortcut):
        return x + _module(graph, module.inner, x)
    if isinstance(module, Parallel):
        return graph.concat(*[_module(graph, branch, x) for branch in module.branches], axis=1)
    if isinstance(module, LastStage):
        return _trunk(graph, module.trunk, x)[-1]
    return _layer(graph, module, x)


def _layer(graph: Graph, layer: nn.Module, x: Value) -> Value:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return _conv(graph, x, layer) if isinstance(layer, nn.Conv2d) else _linear(graph, x, layer)
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride = cast("int", layer.kernel_size), cast("int", layer.stride)
        pool = "MaxPool" if isinstance(layer, nn.MaxPool2d) else "AveragePool"
        return graph.node(pool, x, kernel_shape=[kernel] * 2, strides=[stride] * 2)
    if isinstance(layer, nn.LeakyReLU):
        return graph.node("LeakyRelu", x, alpha=layer.negative_slope)
    if isinstance(layer, nn.Unflatten):
        return x.reshape(0, *cast("tuple[int, ...]", layer.unflattened_size))
    if isinstance(layer, (nn.Identity, nn.Dropout)):
        return x
    if type(layer) not in _ONE_NODE:
        raise NotImplementedError(f"{type(layer).__name__}: expected a module that can be written as ONNX")
    return x.apply(_ONE_NODE[type(layer)])


_ONE_NODE: dict[type[nn.Module], str] = {
    nn.ReLU: "Relu",
    nn.Sigmoid: "Sigmoid",
    nn.Flatten: "Flatten",
    nn.AdaptiveAvgPool2d: "GlobalAveragePool",
}
