"""Any ONNX file that returns the coordinates of a face's points, described by a small spec (``onnx_spec``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.base import Peer, need_file, need_package
from benchmarks.peers.onnx_spec import SpecError, read_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.peers.onnx_spec import Spec

__all__ = ["load"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def load(options: dict[str, Any], threads: int) -> Peer:
    """A network in ONNX Runtime on the CPU.

    Args:
        options: ``file``: of the spec.
        threads: Of the session.

    Raises:
        AbsentError: ONNX Runtime or the network's file is not there.
        SpecError: The spec is broken or does not fit the network.
    """
    spec = read_spec(options["file"])
    runtime = need_package("onnxruntime")
    cv2 = need_package("cv2")
    cv2.setNumThreads(threads)
    need_file(str(spec.file), f"file in {options['file']}")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    if spec.flush_denormals:
        settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = runtime.InferenceSession(str(spec.file), settings, providers=["CPUExecutionProvider"])
    source = _input(session, spec)
    output = _output(session, spec)
    dtype = _DTYPES[source.type]
    convert = {"rgb": None, "bgr": cv2.COLOR_RGB2BGR, "grey": cv2.COLOR_RGB2GRAY}[spec.colour]
    border = cv2.BORDER_CONSTANT if spec.border == "black" else cv2.BORDER_REPLICATE
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)

    def find(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float64] | None:
        h, w = image.shape[:2]
        # Rounding the corner and the sides, rather than both corners, keeps squares square.
        wanted = spec.rule(box)
        left, top = (round(float(v)) for v in wanted[:2])
        width, height = (max(1, round(float(v))) for v in wanted[2:] - wanted[:2])
        x0, y0, x1, y1 = max(0, left), max(0, top), min(w, left + width), min(h, top + height)
        if x1 <= x0 or y1 <= y0:
            return None
        crop = image[y0:y1, x0:x1]
        if crop.shape[:2] != (height, width):
            crop = cv2.copyMakeBorder(crop, y0 - top, top + height - y1, x0 - left, left + width - x1, border)
        crop = cv2.resize(crop, spec.size, interpolation=cv2.INTER_LINEAR)
        if convert is not None:
            crop = cv2.cvtColor(crop, convert)
        values = np.atleast_3d(crop)
        if dtype is not np.uint8:
            values = ((values.astype(np.float32) * np.float32(spec.scale) - mean) / std).astype(dtype)
        if spec.layout == "nchw":
            values = np.ascontiguousarray(values.transpose(2, 0, 1))
        answer = session.run([output], {source.name: values[None]})[0]
        return spec.to_crop(answer) * (width, height) + (left, top)

    return Peer(
        version=f"{spec.file.name}, onnxruntime {runtime.__version__}"
        + (", denormals flushed" if spec.flush_denormals else ""),
        box=f"{spec.rule}; rounded to whole pixels, {spec.border} outside the picture, resized bilinearly to "
        f"{spec.size[0]} x {spec.size[1]}",
        mapping="identity" if spec.scheme == "ibug68" else f"68 of {spec.scheme}, by index",
        frame=f"output in units of {spec.units}, frame {spec.frame}; continuous px through the crop",
        find=find,
    )


def _input(session: Any, spec: Spec) -> Any:  # noqa: ANN401 (a package without types)
    """The network's one input, if the spec fits it."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise SpecError(f"{spec.file.name}: expected a network of one input, got {[i.name for i in inputs]}")
    source = inputs[0]
    if source.type not in _DTYPES:
        raise SpecError(f"{spec.file.name}: expected an input among {', '.join(_DTYPES)}, got {source.type}")
    if source.type == "tensor(uint8)" and not spec.plain:
        raise SpecError(f"{spec.file.name}: expected no scale, mean or std in [input], as the network takes uint8")
    channels = 1 if spec.colour == "grey" else 3
    w, h = spec.size
    shape = (1, channels, h, w) if spec.layout == "nchw" else (1, h, w, channels)
    known = list(source.shape)
    # A dimension of no fixed size is a name or None.
    if len(known) != 4 or any(type(k) is int and k != s for k, s in zip(known, shape, strict=True)):
        raise SpecError(f"{spec.file.name}: the spec makes an input of shape {list(shape)}, the network takes {known}")
    return source


def _output(session: Any, spec: Spec) -> str:  # noqa: ANN401 (a package without types)
    """The name of the output that the spec means."""
    names = [output.name for output in session.get_outputs()]
    if isinstance(spec.which, int) and spec.which < len(names):
        return str(names[spec.which])
    if spec.which not in names:
        raise SpecError(f"{spec.file.name}: expected output {spec.which!r} among {names}")
    return str(spec.which)
