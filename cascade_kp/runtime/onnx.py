"""The ONNX Runtime backend: every network of a cascade as an ONNX graph, faster on a CPU.

The graphs are written node by node (:mod:`cascade_kp.runtime.network_graph`) and stay in memory: nothing is traced or
cached. What lies between the networks (sampling, frames, fusion) is the same code as with PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import onnxruntime
import torch
from torch import nn

from cascade_kp.models.heads import KeypointNet, Prediction
from cascade_kp.runtime.network_graph import network_graph
from cascade_kp.runtime.pytorch import TorchRuntime

if TYPE_CHECKING:
    from cascade_kp.models.cascade import Cascade, Specialist, StageOne

__all__ = ["OnnxNet", "OnnxRuntime"]


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
