"""The ONNX Runtime backend: every network of a cascade as an ONNX graph, faster on a CPU.

The graphs are written node by node (:mod:`cascade_kp.runtime.network_graph`) and stay in memory: nothing is traced or
cached. What lies between the networks (sampling, frames, fusion) is the same code as with PyTorch.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from cascade_kp.models.heads import KeypointNet, Prediction
from cascade_kp.runtime.network_graph import detector_graph, network_graph
from cascade_kp.runtime.pytorch import TorchRuntime

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from cascade_kp.models.cascade import Cascade, Specialist, StageOne
    from cascade_kp.models.single_shot import SingleShotNet

__all__ = ["OnnxDetector", "OnnxNet", "OnnxRuntime"]


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
        self._session = _session(network_graph(net), threads)

    def forward(self, x: torch.Tensor) -> Prediction:
        """(N, 3, input_px, input_px) float RGB in [0, 255] -> a prediction."""
        outputs = self._session.run(None, {"image": x.contiguous().numpy()})
        return Prediction(*(torch.from_numpy(np.asarray(value)) for value in outputs))


class OnnxDetector:
    """The face detector's network in ONNX Runtime; called as the network itself, tensors in and out, on the CPU."""

    def __init__(self, net: SingleShotNet, threads: int) -> None:
        self._session = _session(detector_graph(net), threads)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, h, w) float RGB in [0, 255] -> (N, M, 7)."""
        (numbers,) = self._session.run(None, {"image": pictures.contiguous().numpy()})
        return torch.from_numpy(np.asarray(numbers))


def _keep_quiet() -> None:
    """Tell ONNX Runtime to say nothing over the network, which nothing here uses unless it is asked to.

    From 1.31 on it tells its makers what it runs, and keeps a number of the device in the user's home, unless a
    variable is set before it is loaded. Who wants that sets the variable to 0.
    """
    quiet = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1") != "0"
    loaded = sys.modules.get("onnxruntime")  # by the caller: what it said then cannot be taken back
    if quiet and loaded is not None:
        loaded.disable_telemetry_events()


def _session(graph: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    _keep_quiet()
    import onnxruntime  # noqa: PLC0415 (not before)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait for work by spinning take a core from whoever has work, as another network's or a stream's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
