"""Running a cascade: from working crops to points, on some backend."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from cascade_kp.errors import InputError
from cascade_kp.runtime.pytorch import Points, TorchRuntime

if TYPE_CHECKING:
    from cascade_kp.models.cascade import Cascade

__all__ = ["Backend", "Points", "TorchRuntime", "make_runtime"]

Backend = Literal["auto", "torch", "onnxruntime"]
_NEEDED = ("onnx", "onnxruntime")


def make_runtime(
    cascade: Cascade, device: str = "cpu", backend: Backend = "auto", threads: int | None = None
) -> TorchRuntime:
    """Put a cascade on a backend.

    Args:
        cascade: the networks; they are taken over.
        device: where to run, as torch names it.
        backend: ``auto`` takes ONNX Runtime on the CPU where it is installed, because it is faster there, and torch
            otherwise.
        threads: of CPU kernels; None takes torch's own setting.

    Raises:
        InputError: an unknown backend, one that is not installed or does not run on the device, an unknown device,
            or a number of threads that is not positive.
    """
    if backend not in ("auto", "torch", "onnxruntime"):
        raise InputError(f"backend: expected 'auto', 'torch' or 'onnxruntime', got {backend!r}")
    on_cpu = str(device).partition(":")[0] == "cpu"  # as in cpu:0
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if backend == "onnxruntime" and not on_cpu:
        raise InputError(f"device: expected 'cpu' with the backend 'onnxruntime', got {device!r}")
    if backend == "onnxruntime" and missing:
        raise InputError(f"backend: 'onnxruntime' needs packages that are missing: pip install {' '.join(missing)}")
    if backend == "torch" or not on_cpu or missing:
        return TorchRuntime(cascade, device, threads)
    from cascade_kp.runtime.onnx import OnnxRuntime  # noqa: PLC0415 (an optional backend)

    return OnnxRuntime(cascade, threads)
