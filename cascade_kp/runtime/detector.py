"""The embedded face detector: one small network, run over a picture once or twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cascade_kp.detect import box_iou, check_picture, finish, rotate_boxes, turn_about_centre
from cascade_kp.errors import ConfigError, InputError, ModelError
from cascade_kp.models.single_shot import SingleShotNet, cell_centres
from cascade_kp.runtime.pytorch import fold_norms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Pixels = NDArray[np.uint8]
    Boxes = NDArray[np.float32]

__all__ = ["SingleShotDetector", "asset_path", "load_detector"]

_SURE_PX: Final = 24.0  # a face of this size, in the picture that the network sees, is found most of the time
_CELL_PX: Final = 32
_SECOND: Final = 3.0  # a second look is at a picture so many times smaller: faces of any size are found by one of them
_SECOND_FROM_PX: Final = 320
_AGREE_IOU: Final = 0.45


@dataclass(frozen=True)
class SingleShotDetector:
    """Finds faces of any size and of most rolls; safe to share between threads and to pickle.

    Args:
        max_side: larger pictures are reduced to this longest side, px, before the search. The network was trained on
            faces of 13 px and more in what it sees.
        min_face: faces smaller than this (root of the area of the tight box, px of the picture) are not looked for,
            which saves time; 0 looks for all.
        min_score: candidates below this score are dropped, [0, 1].
        threads: of CPU kernels; None takes torch's own setting.

    Raises:
        ConfigError: a number out of range.
    """

    max_side: int = 640
    min_face: float = 0.0
    min_score: float = 0.3
    threads: int | None = None

    def __post_init__(self) -> None:
        """Validates the settings."""
        if self.max_side < _CELL_PX:
            raise ConfigError(f"max_side must be at least {_CELL_PX} px, got {self.max_side}")
        if not (math.isfinite(self.min_face) and self.min_face >= 0):
            raise ConfigError(f"min_face must be 0 px or more, got {self.min_face}")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie in [0, 1], got {self.min_score}")

    def __call__(self, image: Pixels) -> Boxes:
        """Finds faces.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (N, 5) float32: xyxy px, tight boxes of the keypoints, image frame, which may reach outside, and the score
            in [0, 1]; the largest first, no two of them on the same face.

        Raises:
            ImageError: the picture has another shape or type.
            ModelError: the package's weights are missing or damaged.
        """
        return self.detect(image)[0]

    def detect(self, image: Pixels, angles: Sequence[float] | None = None) -> tuple[Boxes, Boxes]:
        """Finds faces and their rolls.

        A roll is an angle in the image (y down), positive clockwise on the screen: an upright face turned clockwise
        by 30 degrees has +30.

        Args:
            image: (H, W, 3) uint8 RGB.
            angles: rolls at which faces are found most surely, degrees: the picture is turned to each. None takes the
                picture as it is.

        Returns:
            Boxes (N, 5) as of a call, and rolls (N,) degrees.

        Raises:
            ImageError: the picture has another shape or type.
            InputError: an angle is not finite.
            ModelError: the package's weights are missing or damaged.
        """
        angles = (0.0,) if angles is None else tuple(angles)
        if not all(math.isfinite(angle) for angle in angles):
            raise InputError(f"angles must be finite degrees, got {angles}")
        picture = check_picture(image)
        if not angles:
            return np.zeros((0, 5), np.float32), np.zeros(0, np.float32)
        longest = max(picture.shape[:2])
        scale = min(1.0, self.max_side / longest)
        if self.min_face > 0:
            scale = min(scale, _SURE_PX / self.min_face)
        picture = _shrunk(picture, scale)
        found = [self._turned(picture, angle) for angle in angles]
        rows = np.concatenate([boxes for boxes, _ in found])
        rolls = np.concatenate([turns for _, turns in found])
        rows[:, [0, 2]] *= image.shape[1] / picture.shape[1]
        rows[:, [1, 3]] *= image.shape[0] / picture.shape[0]
        large = np.sqrt(np.prod(rows[:, 2:4] - rows[:, :2], axis=1)) >= self.min_face
        return finish(rows[large], rolls[large])

    def _turned(self, picture: Pixels, angle: float) -> tuple[Array, Array]:
        """(N, 5) boxes and scores and (N,) rolls in degrees, in the frame of the picture before it is turned."""
        if not angle % 360:
            return self._look(picture)
        turn = turn_about_centre(picture.shape[0], picture.shape[1], -angle)
        turned = cv2.warpAffine(picture, turn.matrix, turn.size, borderMode=cv2.BORDER_REPLICATE)
        rows, rolls = self._look(np.asarray(turned, dtype=np.uint8))
        centre_to, centre_from = np.tile(turn.centre_to, 2), np.tile(turn.centre_from, 2)
        rows[:, :4] = rotate_boxes(rows[:, :4] - centre_to, angle) + centre_from
        return rows, rolls + angle

    def _look(self, picture: Pixels) -> tuple[Array, Array]:
        """What the network finds in a picture, at its size and, if it is large, at a third of it."""
        seen = [picture]
        if max(picture.shape[:2]) > _SECOND_FROM_PX:
            seen.append(_shrunk(picture, 1 / _SECOND))
        rows: list[Array] = []
        rolls: list[Array] = []
        for shown in seen:
            boxes, turns = self._cells(shown)
            boxes[:, [0, 2]] *= picture.shape[1] / shown.shape[1]
            boxes[:, [1, 3]] *= picture.shape[0] / shown.shape[0]
            rows.append(boxes)
            rolls.append(turns)
        return _joined(np.concatenate(rows), np.concatenate(rolls))

    def _cells(self, picture: Pixels) -> tuple[Array, Array]:
        """The cells of one picture that see a face: (N, 5) xyxy and score, (N, 2) cosine and sine of the roll."""
        h, w = picture.shape[:2]
        high, wide = (-(-side // _CELL_PX) * _CELL_PX for side in (h, w))
        padded = cv2.copyMakeBorder(picture, 0, high - h, 0, wide - w, cv2.BORDER_REPLICATE)
        pixels = torch.from_numpy(np.asarray(padded, dtype=np.uint8)).permute(2, 0, 1)[None].float()
        numbers = _network(self.threads)(pixels)[0]
        centres, strides = _grid(high, wide)
        chosen = torch.nonzero(numbers[:, 0].sigmoid() >= self.min_score)[:, 0]
        said = SingleShotNet.read(numbers[chosen], centres[chosen], strides[chosen])
        rows = torch.cat([said.boxes, said.score.sigmoid()[:, None]], dim=1)
        return rows.numpy().astype(np.float64), said.roll.numpy().astype(np.float64)


def _shrunk(picture: Pixels, scale: float) -> Pixels:
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    if scale >= 1:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _joined(rows: Array, headings: Array) -> tuple[Array, Array]:
    """Cells that tell of one face, averaged by their scores; the roll in degrees."""
    order = np.argsort(-rows[:, 4], kind="stable")
    rows, headings = rows[order], headings[order]
    same = box_iou(rows[:, :4], rows[:, :4]) >= _AGREE_IOU
    left = np.ones(len(rows), np.bool_)
    boxes: list[Array] = []
    rolls: list[float] = []
    for i in range(len(rows)):
        if not left[i]:
            continue
        members = same[i] & left
        left &= ~members
        weights = rows[members, 4] ** 2
        boxes.append(np.array([*(weights @ rows[members, :4] / weights.sum()), rows[i, 4]]))
        cos, sin = weights @ headings[members]
        rolls.append(math.degrees(math.atan2(sin, cos)))
    return np.array(boxes).reshape(-1, 5), np.array(rolls)


@lru_cache(maxsize=32)
def _grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return cell_centres(height, width)


def asset_path() -> Path:
    """Where the embedded weights lie."""
    return Path(str(resources.files("cascade_kp") / "assets" / "detector" / "single-shot.safetensors"))


def load_detector() -> SingleShotNet:
    """The embedded network, its batch norms folded away.

    Raises:
        ModelError: the weights are missing or damaged.
    """
    path = asset_path()
    net = SingleShotNet().eval()
    fold_norms(net)  # its weights are kept folded
    try:
        net.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"cannot read the detector's weights {path}: {error}; reinstall cascade_kp") from error
    return net


@lru_cache(maxsize=4)
def _network(threads: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The embedded network, in ONNX Runtime where it is installed.

    Raises:
        ModelError: the weights are missing or damaged.
    """
    net = load_detector()
    if all(find_spec(name) for name in ("onnx", "onnxruntime")):
        from cascade_kp.runtime.onnx import OnnxDetector  # noqa: PLC0415 (an optional backend)

        return OnnxDetector(net, torch.get_num_threads() if threads is None else threads)
    return torch.inference_mode()(net)
