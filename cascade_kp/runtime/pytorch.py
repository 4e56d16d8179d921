"""The PyTorch runtime: eager, with batch norms folded into their convolutions."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cascade_kp import geometry
from cascade_kp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cascade_kp.geometry import WorkingCrop
    from cascade_kp.models.cascade import Cascade, RegionBoxes, Stage

__all__ = ["Points", "TorchRuntime", "fold_norms"]


class Points(NamedTuple):
    """The answer for N faces, each in its image's frame.

    Attributes:
        keypoints: (N, K, 2) float32 px.
        sigma: (N, K) float32 px.
        coarse: (N, K, 2) float32 px.
        score: (N,) float32, probability of a face.
    """

    keypoints: NDArray[np.float32]
    sigma: NDArray[np.float32]
    coarse: NDArray[np.float32]
    score: NDArray[np.float32]


class TorchRuntime:
    """Runs a cascade on a torch device.

    Args:
        cascade: the networks; they are taken over, moved to the device and folded.
        device: where to run, as torch names it.
        threads: for CPU kernels; None leaves torch's own setting.

    Raises:
        InputError: the device is unknown or not there, or the number of threads is not positive.
    """

    def __init__(self, cascade: Cascade, device: str = "cpu", threads: int | None = None) -> None:
        if threads is not None and (type(threads) is not int or threads < 1):  # True is an int, and no count
            raise InputError(f"threads: expected a positive whole number or None, got {threads!r}")
        try:
            self.device = torch.device(device)
            torch.zeros(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"device: expected one that torch can use here, got {device!r}: {reason}") from error
        self.threads = threads
        fold_norms(cascade.eval())
        self.cascade = cascade.to(self.device).to(memory_format=torch.channels_last)

    def run(
        self,
        crops: Sequence[WorkingCrop],
        boxes: NDArray[np.float32],
        angles: NDArray[np.float32],
        stage: Stage,
        *,
        region_boxes: RegionBoxes | None = None,
        oracle: NDArray[np.float32] | None = None,
    ) -> Points:
        """Find the keypoints of N faces.

        Args:
            crops: N working crops.
            boxes: (N, 4) xyxy px, each in its image's frame.
            angles: (N,) radians, roll of each face as far as it is known.
            stage: ``coarse`` or ``regions``.
            region_boxes: ``points`` or ``boxes``; None takes the model's own.
            oracle: (N, K, 2) px, each in its image's frame: regions are cropped round these points.

        Returns:
            Points in the frames of the images.
        """
        canvases, canvas_boxes, to_image = self._canvases(crops, boxes)
        with self._settings():
            matrix = self._tensor(to_image)
            truth = None if oracle is None else geometry.apply(geometry.invert(matrix), self._tensor(oracle))
            out = self.cascade(
                self._images(canvases),
                self._tensor(canvas_boxes),
                self._tensor(angles),
                stage=stage,
                region_boxes=region_boxes,
                oracle=truth,
            )
            scale = torch.sqrt(matrix[:, 0, 0] * matrix[:, 1, 1])[:, None]
            return Points(
                geometry.apply(matrix, out.keypoints).cpu().numpy(),
                (out.sigma * scale).cpu().numpy(),
                geometry.apply(matrix, out.coarse).cpu().numpy(),
                out.face.cpu().numpy(),
            )

    def judge(
        self, crops: Sequence[WorkingCrop], boxes: NDArray[np.float32], angles: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Whether boxes hold faces: stage one once, and nothing else.

        Args:
            crops: N working crops.
            boxes: (N, 4) xyxy px, each in its image's frame.
            angles: (N,) radians.

        Returns:
            (N,) probability of a face, in [0, 1]; (N,) doubt, the median calibrated sigma over the root of the area
            of the points' tight box: asked about something that is no face, a network is unsure where its points are.
        """
        canvases, canvas_boxes, _ = self._canvases(crops, boxes)
        with self._settings():
            stage_one = self.cascade.coarse
            net, scale = stage_one.judge
            size = net.config.input_px
            frames = stage_one.frames(self._tensor(canvas_boxes), self._tensor(angles), size)
            said = net(geometry.sample(self._images(canvases), frames, size))
            sigma = (said.log_sigma.exp() * scale).median(dim=1).values
            box = geometry.tight_box(said.points)
            area = (box[:, 2:] - box[:, :2]).prod(dim=1)
            doubt = sigma / area.sqrt().clamp_min(1e-6)
            return said.face.sigmoid().cpu().numpy(), doubt.cpu().numpy()

    def mirrored(self) -> Self:
        """The same networks, for mirrored pictures: what is added for labels that lie to one side is taken off.

        See ``label_offset`` in the configuration.
        """
        other, cascade = copy.copy(self), copy.copy(self.cascade)
        cascade.config = dataclasses.replace(cascade.config, label_offset=-cascade.config.label_offset)
        other.cascade = cascade
        return other

    @contextlib.contextmanager
    def stage_one_timed(self) -> Iterator[list[float]]:
        """Within it, every run adds the seconds that stage one took to the list that it gives."""
        laps: list[float] = []

        def now() -> float:
            if self.device.type == "cuda":  # which otherwise works on while the clock is read
                torch.cuda.synchronize(self.device)
            return time.perf_counter()

        def before(*_: object) -> None:
            laps.append(-now())

        def after(*_: object) -> None:
            laps[-1] += now()

        hooks = [self.cascade.coarse.register_forward_pre_hook(before)]
        hooks.append(self.cascade.coarse.register_forward_hook(after))
        try:
            yield laps
        finally:
            for hook in hooks:
                hook.remove()

    def _canvases(
        self, crops: Sequence[WorkingCrop], boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        canvases, to_image = geometry.stack_crops(crops)
        scale = np.tile(to_image[:, [0, 1], [0, 1]], 2)
        shift = np.tile(to_image[:, :, 2], 2)
        return canvases, (boxes - shift) / scale, to_image

    def _images(self, canvases: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float()

    def _tensor(self, array: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        # torch's thread count belongs to the process: what the caller had is put back.
        before = torch.get_num_threads()
        change = self.threads is not None and self.threads != before
        if change and self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            if change:
                torch.set_num_threads(before)


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution into it, in place."""
    for child in module.children():
        if isinstance(child, nn.Sequential):
            for i in range(len(child) - 1):
                conv, norm = child[i], child[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    child[i] = fuse_conv_bn_eval(conv, norm)
                    child[i + 1] = nn.Identity()
        fold_norms(child)
