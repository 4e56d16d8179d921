"""The ONNX Runtime backend: every network of a cascade as an ONNX graph, faster on a CPU.

The graphs are written here, node by node, from the folded networks and stay in memory: nothing is exported, traced or
cached. What lies between the networks (sampling, frames, fusion) is the same code as with PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
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
    Prediction,
    SimCCHead,
    SoftArgmaxHead,
    bin_moments,
    cell_moments,
)
from cascade_kp.runtime.pytorch import TorchRuntime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cascade_kp.models.cascade import Cascade, Specialist, StageOne

__all__ = ["OnnxNet", "OnnxRuntime", "network_graph"]

_OPSET = 17
_IR_VERSION = 8  # of that opset's time: newer ones are refused by older runtimes, without need


class OnnxRuntime(TorchRuntime):
    """Runs a cascade's networks in ONNX Runtime on the CPU.

    Args:
        cascade: the networks; they are taken over.
        threads: of each network; None takes torch's number.

    Raises:
        InputError: the number of threads is not positive.
    """

    def __init__(self, cascade: Cascade, threads: int | None = None) -> None:
        super().__init__(cascade, "cpu", threads)
        count = torch.get_num_threads() if threads is None else threads
        owners: list[StageOne | Specialist] = [cascade.coarse, *map(cascade.specialist, cascade.regions)]
        for owner in owners:
            owner.net = cast("KeypointNet", OnnxNet(owner.net, count))
        if cascade.coarse.first is not None:
            cascade.coarse.first = cast("KeypointNet", OnnxNet(cascade.coarse.first, count))
        if cascade.boxes is not None:
            cascade.boxes = cast("KeypointNet", OnnxNet(cascade.boxes, count))


class OnnxNet(nn.Module):
    """A keypoint network in ONNX Runtime; called as the network itself, tensors in and out, on the CPU."""

    def __init__(self, net: KeypointNet, threads: int) -> None:
        super().__init__()
        self.config = net.config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        graph = network_graph(net).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def forward(self, x: torch.Tensor) -> Prediction:
        """(N, 3, input_px, input_px) float RGB in [0, 255] -> a prediction."""
        outputs = self._session.run(None, {"image": x.contiguous().numpy()})
        return Prediction(*(torch.from_numpy(np.asarray(value)) for value in outputs))


def network_graph(net: KeypointNet) -> onnx.ModelProto:
    """Write a network as an ONNX model.

    Args:
        net: in evaluation mode, its batch norms folded away.

    Returns:
        A model with input ``image`` (N, 3, s, s) float RGB in [0, 255] and outputs ``points`` (N, K, 2),
        ``log_sigma`` (N, K) and ``face`` (N,), crop-unit frame.
    """
    graph = _Graph()
    x = graph.node("Sub", "image", graph.constant(net.mean))
    x = graph.node("Div", x, graph.constant(net.std))
    points, log_sigma, face = _design(graph, net, x) if net.design is not None else _head(graph, net, x)
    outputs = {"points": points, "log_sigma": log_sigma, "face": face}
    shapes: dict[str, list[str | int]] = {
        "points": ["n", net.keypoints, 2],
        "log_sigma": ["n", net.keypoints],
        "face": ["n"],
    }
    for name, value in outputs.items():
        graph.node("Identity", value, output=name)
    size = net.config.input_px
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "cascade_kp",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, size, size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    model.ir_version = _IR_VERSION
    return model


class _Graph:
    """Nodes and constants as they are written, each value under a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: torch.Tensor | NDArray[Any] | list[int]) -> str:
        array = value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: str | float | list[int]) -> str:
        name = output or f"v{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def conv(self, x: str, conv: nn.Conv2d) -> str:
        inputs = [x, self.constant(conv.weight)]
        if conv.bias is not None:
            inputs.append(self.constant(conv.bias))
        pad = [int(p) for p in conv.padding] * 2
        return self.node("Conv", *inputs, strides=list(conv.stride), pads=pad, kernel_shape=list(conv.kernel_size))

    def linear(self, x: str, linear: nn.Linear) -> str:
        return self.node("Gemm", x, self.constant(linear.weight), self.constant(linear.bias), transB=1)


def _conv_of(folded: nn.Module) -> nn.Conv2d:
    # A folded conv_norm: the convolution, then nothing.
    return cast("nn.Conv2d", cast("nn.Sequential", folded)[0])


def _block(graph: _Graph, block: BasicBlock | Bottleneck, x: str) -> str:
    y = graph.node("Relu", graph.conv(x, _conv_of(block.first)))
    y = graph.conv(y, _conv_of(block.second))
    if isinstance(block, Bottleneck):
        y = graph.conv(graph.node("Relu", y), _conv_of(block.third))
    shortcut = x if isinstance(block.shortcut, nn.Identity) else graph.conv(x, _conv_of(block.shortcut))
    return graph.node("Relu", graph.node("Add", y, shortcut))


def _trunk(graph: _Graph, trunk: Trunk, x: str) -> list[str]:
    x = graph.node("Relu", graph.conv(x, _conv_of(trunk.stem[0])))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    maps = []
    for stage in trunk.stages:
        for block in cast("nn.Sequential", stage):
            x = _block(graph, cast("BasicBlock | Bottleneck", block), x)
        maps.append(x)
    return maps


def _head(graph: _Graph, net: KeypointNet, x: str) -> tuple[str, str, str]:
    maps, head = _trunk(graph, net.trunk, x), net.head
    if isinstance(head, SoftArgmaxHead):
        return _soft_argmax(graph, head, maps)
    return _simcc(graph, head, maps) if isinstance(head, SimCCHead) else _direct(graph, head, maps)


def _doubt(graph: _Graph, doubt: DoubtHead, last: str, prior: float) -> tuple[str, str]:
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", last))
    values = graph.linear(pooled, doubt.linear)
    first = graph.constant(np.array([0]))
    count = graph.constant(np.array([doubt.keypoints]))
    axis = graph.constant(np.array([1]))
    logs = graph.node("Slice", values, first, count, axis)
    logs = graph.node("Add", logs, graph.constant(np.array(prior, np.float32)))
    if doubt.face_score:
        face = graph.node("Gather", values, graph.constant(np.array(doubt.keypoints)), axis=1)
    else:
        first_log = graph.node("Gather", logs, graph.constant(np.array(0)), axis=1)
        face = graph.node("Mul", first_log, graph.constant(np.array(0, np.float32)))
    return logs, face


def _direct(graph: _Graph, head: DirectHead, maps: list[str]) -> tuple[str, str, str]:
    reduced = graph.node("Relu", graph.conv(maps[-1], _conv_of(head.reduce[0])))
    flat = graph.linear(graph.node("Flatten", reduced), head.points)
    points = graph.node("Reshape", flat, graph.constant([0, -1, 2]))
    return points, *_doubt(graph, head.doubt, maps[-1], PRIOR_LOG_SIGMA)


def _soft_argmax(graph: _Graph, head: SoftArgmaxHead, maps: list[str]) -> tuple[str, str, str]:
    used = maps[head.first :]
    laterals = [cast("nn.Conv2d", conv) for conv in head.lateral]
    x = graph.conv(used[-1], laterals[-1])
    for conv, finer in zip(reversed(laterals[:-1]), reversed(used[:-1]), strict=True):
        scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
        grown = graph.node(
            "Resize", x, "", scales, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
        )
        x = graph.node("Add", grown, graph.conv(finer, conv))
    x = graph.node("Relu", graph.conv(x, _conv_of(head.smooth[0])))
    heat = graph.node("Reshape", graph.conv(x, head.heat), graph.constant([0, 0, -1]))
    share = graph.node("Softmax", heat, axis=-1)
    moments = graph.node("MatMul", share, graph.constant(cell_moments(head.cells, head.cells)))
    halves = [graph.constant(np.array([i])) for i in (0, 2, 4)]
    axis = graph.constant(np.array([2]))
    points = graph.node("Slice", moments, halves[0], halves[1], axis)
    squares = graph.node("Slice", moments, halves[1], halves[2], axis)
    variance = graph.node("Sub", squares, graph.node("Mul", points, points))
    return points, *_doubt_and_spread(graph, head.doubt, maps[-1], variance)


def _simcc(graph: _Graph, head: SimCCHead, maps: list[str]) -> tuple[str, str, str]:
    flat = graph.node("Reshape", graph.conv(maps[-1], head.maps), graph.constant([0, 0, -1]))
    means, variances = [], []
    for linear in (head.x, head.y):
        logits = graph.node("MatMul", flat, graph.constant(linear.weight.t()))
        logits = graph.node("Add", logits, graph.constant(linear.bias))
        share = graph.node("Softmax", logits, axis=-1)
        moments = graph.node("MatMul", share, graph.constant(bin_moments(head.bins)))
        mean, square = (graph.node("Gather", moments, graph.constant([i]), axis=2) for i in (0, 1))
        means.append(mean)
        variances.append(graph.node("Sub", square, graph.node("Mul", mean, mean)))
    middle = graph.constant(np.array(0.5, np.float32))
    points = graph.node("Add", graph.node("Concat", *means, axis=2), middle)
    variance = graph.node("Concat", *variances, axis=2)
    return points, *_doubt_and_spread(graph, head.doubt, maps[-1], variance)


def _doubt_and_spread(graph: _Graph, doubt: DoubtHead, last: str, variance: str) -> tuple[str, str]:
    spread = graph.node("ReduceSum", variance, graph.constant([-1]), keepdims=0)
    spread = graph.node("Max", spread, graph.constant(np.array(MIN_SPREAD, np.float32)))
    half = graph.constant(np.array(0.5, np.float32))
    log_spread = graph.node("Mul", graph.node("Log", spread), half)
    logs, face = _doubt(graph, doubt, last, PRIOR_LOG_SPREAD)
    return graph.node("Add", logs, log_spread), face


# ----------------------------------------------------------------------------------------------------------- designs


def _design(graph: _Graph, net: KeypointNet, x: str) -> tuple[str, str, str]:
    mean = graph.node("ReduceMean", x, axes=[1, 2, 3], keepdims=0)
    face = graph.node("Mul", mean, graph.constant(np.array(0, np.float32)))  # a zero for each image
    zeros = graph.node("Unsqueeze", face, graph.constant([1]))
    log_sigma = graph.node("Add", zeros, graph.constant(net.log_sigma[None]))
    design = net.design
    if isinstance(design, MeanFace):
        zeros = graph.node("Unsqueeze", zeros, graph.constant([2]))
        return graph.node("Add", zeros, graph.constant(design.face[None])), log_sigma, face
    design = cast("Design", design)
    if design.grey:
        x = graph.node("Conv", x, graph.constant(torch.tensor(LUMA).view(1, 3, 1, 1)))
    x = graph.node("Flatten", _module(graph, design.features, x))
    x = _module(graph, design.squash, graph.linear(_module(graph, design.dense, x), design.points))
    return graph.node("Reshape", x, graph.constant([0, -1, 2])), log_sigma, face


def _module(graph: _Graph, module: nn.Module, x: str) -> str:
    """A module of a design, as nodes.

    Raises:
        NotImplementedError: there is no rule for such a module.
    """
    if isinstance(module, nn.Sequential):
        for child in module:
            x = _module(graph, child, x)
        return x
    if isinstance(module, Shortcut):
        return graph.node("Add", x, _module(graph, module.inner, x))
    if isinstance(module, Parallel):
        return graph.node("Concat", *[_module(graph, branch, x) for branch in module.branches], axis=1)
    if isinstance(module, LastStage):
        return _trunk(graph, module.trunk, x)[-1]
    return _layer(graph, module, x)


def _layer(graph: _Graph, layer: nn.Module, x: str) -> str:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return graph.conv(x, layer) if isinstance(layer, nn.Conv2d) else graph.linear(x, layer)
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride = cast("int", layer.kernel_size), cast("int", layer.stride)
        pool = "MaxPool" if isinstance(layer, nn.MaxPool2d) else "AveragePool"
        return graph.node(pool, x, kernel_shape=[kernel] * 2, strides=[stride] * 2)
    if isinstance(layer, nn.LeakyReLU):
        return graph.node("LeakyRelu", x, alpha=layer.negative_slope)
    if isinstance(layer, nn.Unflatten):
        return graph.node("Reshape", x, graph.constant([0, *cast("tuple[int, ...]", layer.unflattened_size)]))
    if isinstance(layer, (nn.Identity, nn.Dropout)):
        return x
    if type(layer) not in _ONE_NODE:
        raise NotImplementedError(f"{type(layer).__name__}: expected a module that can be written as ONNX")
    return graph.node(_ONE_NODE[type(layer)], x)


_ONE_NODE: dict[type[nn.Module], str] = {
    nn.ReLU: "Relu",
    nn.Sigmoid: "Sigmoid",
    nn.Flatten: "Flatten",
    nn.AdaptiveAvgPool2d: "GlobalAveragePool",
}
