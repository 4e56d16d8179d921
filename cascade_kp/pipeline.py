"""A picture goes in, faces come out: detection, stage one, regions, and the way back to the picture's pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cascade_kp import geometry, images
from cascade_kp.detect import FaceDetector, non_maximum_suppression
from cascade_kp.errors import CascadeError, InputError
from cascade_kp.runtime import Points, make_runtime
from cascade_kp.structures import Face
from cascade_kp.weights import ModelInfo, load_model

if TYPE_CHECKING:
    from cascade_kp.detect import Detector
    from cascade_kp.models.cascade import Stage
    from cascade_kp.runtime import Backend
    from cascade_kp.schemes import Scheme

__all__ = ["Pipeline"]

# A step of 24 degrees, set by hand; where the detector finds nothing upright, near rolls are tried first.
_RETRY_ROLLS_DEG = tuple((-roll, roll) for roll in (24.0, 48.0, 72.0, 96.0, 120.0, 144.0, 168.0))
_RETRY_MIN_SCORE = 0.9  # each further search brings false alarms of its own
_RETRY_SIDE_PX = 384  # ... and time, which a picture without a face pays in full
_SAME_FACE_IOU = 0.4
_BATCH = 32  # faces that run together; more are cheaper a face no longer and only take memory


@dataclass(frozen=True)
class _Candidates:
    """Faces to be refined, cut out of one picture: the picture itself is no longer needed."""

    crops: list[geometry.WorkingCrop]
    boxes: NDArray[np.float32]  # (N, 4) xyxy px
    rolls: NDArray[np.float32]  # (N,) radians
    detected: bool  # by a detector: duplicates are possible, and the order is ours

    def __len__(self) -> int:
        return len(self.crops)


class Pipeline:
    """Keypoints of every face in a picture, offline, from weights that come with the package.

    Args:
        model: an embedded model's name, or the path of a ``.safetensors`` model file.
        stage: ``regions`` for the whole cascade, ``coarse`` to stop after stage one.
        device: where torch runs, such as ``cpu`` or ``cuda:0``.
        backend: ``torch``, ``onnxruntime`` (CPU only, and faster there), or ``auto`` to choose.
        threads: of CPU kernels; None leaves torch's own setting.
        detector: any callable ``image (H, W, 3) uint8 RGB -> (N, 5)`` xyxy px and score, boxes tight round the
            keypoints; ``"default"`` for the embedded one; None takes the whole picture as one face. The default one
            also turns a picture in which it finds nothing upright; a ``FaceDetector()`` of your own does not, which
            is quicker on pictures without a face.
        min_score: a detected box counts as a face if stage one gives it at least this probability, and is sure enough
            of its points (the model's ``max_doubt``). Boxes that the caller supplies are never rejected.

    Raises:
        ModelError: the model is unknown or its file cannot be used.
        InputError: an option has no such value, or the device is not there.

    Example:
        >>> pipe = Pipeline()
        >>> faces = pipe("photo.jpg")
        >>> faces[0].keypoints.shape
        (68, 2)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "ibug68",
        *,
        stage: Stage = "regions",
        device: str = "cpu",
        backend: Backend = "auto",
        threads: int | None = None,
        detector: Detector | Literal["default"] | None = "default",
        min_score: float = 0.5,
    ) -> None:
        if stage not in ("coarse", "regions"):
            raise InputError(f"stage: expected 'coarse' or 'regions', got {stage!r}")
        default = isinstance(detector, str) and detector == "default"
        if not (default or detector is None or callable(detector)):
            raise InputError(f"detector: expected a callable, 'default' or None, got {detector!r}")
        self._min_score = _probability(min_score)
        cascade, self._info = load_model(model)
        self._runtime = make_runtime(cascade, device, backend, threads)
        self._stage: Stage = stage
        self._detector: Detector | None = FaceDetector() if isinstance(detector, str) else detector
        limit = self._info.config.max_doubt
        self._max_doubt = np.inf if limit is None else limit
        self._turn = detector == "default"

    @property
    def info(self) -> ModelInfo:
        """What the model's file says of itself."""
        return self._info

    @property
    def scheme(self) -> Scheme:
        """The model's keypoint scheme."""
        return self._info.scheme

    def __repr__(self) -> str:
        """One line: model, stage, device."""
        return f"Pipeline({self._info.name!r}, stage={self._stage!r}, device={str(self._runtime.device)!r})"

    @overload  # a list is an object too, and the first signature that fits is taken
    def __call__(  # type: ignore[overload-overlap]
        self, source: list[Any] | tuple[Any, ...], boxes: Sequence[Any] | None = None
    ) -> list[list[Face]]: ...

    @overload
    def __call__(self, source: object, boxes: object = None) -> list[Face]: ...

    def __call__(self, source: object, boxes: Any = None) -> list[Face] | list[list[Face]]:
        """Find the faces of a picture, or of each picture of a list.

        Args:
            source: a path, PIL image or array, as :func:`cascade_kp.images.as_image` takes them; or a list of these.
            boxes: (N, 4) xyxy px, tight boxes of the faces in the upright picture: the detector is skipped, and the
                faces come in this order. For a list of pictures, a list of such arrays (None to detect).

        Returns:
            The faces, largest first unless boxes were given; empty where there is none. For a list, a list of these.

        Raises:
            ImageError: a picture cannot be used; the message names it.
            InputError: the boxes cannot be used.
        """
        if not isinstance(source, (list, tuple)):
            return self._refine([self._prepare(source, boxes)])[0]
        if boxes is None:
            boxes = [None] * len(source)
        count = len(boxes) if hasattr(boxes, "__len__") else type(boxes).__name__
        if count != len(source):
            raise InputError(f"boxes: expected one entry for each of the {len(source)} pictures, got {count}")
        return self._refine([self._prepare(one, box) for one, box in zip(source, boxes, strict=True)])

    def stream(self, sources: Iterable[object], batch_size: int = 32) -> Iterator[list[Face] | CascadeError]:
        """Find the faces of any number of pictures in constant memory.

        Args:
            sources: pictures, as for a call; consumed as results are asked for.
            batch_size: faces refined together, at least.

        Yields:
            For each picture in order its faces, or the error that it caused: a bad picture stops nothing.

        Raises:
            InputError: the batch size is not positive, or a single picture came in place of several. At once, before
                the first result is asked for.
        """
        if type(batch_size) is not int or batch_size < 1:  # True is an int, and no size
            raise InputError(f"batch_size: expected a positive whole number, got {batch_size!r}")
        if isinstance(sources, (str, bytes, os.PathLike)) or not isinstance(sources, Iterable):
            what = images.describe(sources)
            raise InputError(f"stream: expected an iterable of pictures, such as [image], got {what}")
        return self._stream(sources, batch_size)

    def _stream(self, sources: Iterable[object], batch_size: int) -> Iterator[list[Face] | CascadeError]:
        pending: list[_Candidates | CascadeError] = []
        for source in sources:
            try:
                pending.append(self._prepare(source, None))
            except CascadeError as error:
                pending.append(error)
            # Only small crops wait here; a picture without faces waits too, so it counts as one.
            if sum(max(1, len(p)) if isinstance(p, _Candidates) else 1 for p in pending) >= batch_size:
                yield from self._flush(pending)
                pending = []
        yield from self._flush(pending)

    def _flush(self, pending: list[_Candidates | CascadeError]) -> Iterator[list[Face] | CascadeError]:
        done = iter(self._refine([p for p in pending if isinstance(p, _Candidates)]))
        for item in pending:
            yield item if isinstance(item, CascadeError) else next(done)

    # ------------------------------------------------------------------------------------------ one picture

    def _prepare(self, source: object, boxes: object) -> _Candidates:
        """Decode, find boxes, and cut out what the networks will see."""
        image = images.as_image(source)
        h, w = image.shape[:2]
        if boxes is None and self._detector is not None:
            return self._detect(image, self._detector, source)
        given = _checked([[0, 0, w, h]] if boxes is None else boxes, image, source)
        return _Candidates(self._crops(image, given), given, np.zeros(len(given), np.float32), detected=False)

    def _detect(self, image: NDArray[np.uint8], detector: Detector, source: object) -> _Candidates:
        """Boxes that stage one agrees are faces; where there is none, the picture is turned and tried again."""
        if not isinstance(detector, FaceDetector):
            shown = image.view()
            shown.flags.writeable = False  # it may be the caller's own array
            answer = detector(shown)
            try:
                found = np.asarray(answer, np.float32)
            except (TypeError, ValueError):
                found = np.zeros((), np.float32)
            if found.size == 0:
                found = np.zeros((0, 5), np.float32)
            if found.ndim != 2 or found.shape[1] != 5:
                got = f"shape {found.shape}" if found.ndim else type(answer).__name__
                what = images.describe(source)
                raise InputError(f"{what}: detector: expected numbers of shape (N, 5), xyxy and score, got {got}")
            _checked(found[:, :4], image, source, "detector: ")
            if not np.isfinite(found[:, 4]).all():
                raise InputError(f"{images.describe(source)}: detector: expected finite scores, got {found[:, 4]}")
            return self._judge(image, found, np.zeros(len(found), np.float32), self._min_score)
        found, rolls = detector.detect(image)
        faces = self._judge(image, found, np.radians(rolls), self._min_score)
        quick = replace(detector, max_side=min(detector.max_side, _RETRY_SIDE_PX))
        for tried in _RETRY_ROLLS_DEG if self._turn else ():
            if len(faces):
                break
            found, rolls = quick.detect(image, tried)
            faces = self._judge(image, found, np.radians(rolls), max(self._min_score, _RETRY_MIN_SCORE))
        return faces

    def _judge(
        self, image: NDArray[np.uint8], found: NDArray[np.float32], rolls: NDArray[np.float32], min_score: float
    ) -> _Candidates:
        crops = self._crops(image, found[:, :4])
        keep = np.zeros(0, np.intp)
        if crops:
            score, doubt = self._runtime.judge(crops, found[:, :4], rolls)
            keep = np.flatnonzero((score >= min_score) & (doubt <= self._max_doubt))
        return _Candidates([crops[i] for i in keep], found[keep, :4], rolls[keep], detected=True)

    def _crops(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> list[geometry.WorkingCrop]:
        config = self._info.config
        crops = [geometry.working_crop(image, box, config.working_face_px, config.working_context) for box in boxes]
        # A crop of a small face is a view, and would keep the whole picture in memory for as long as it waits.
        return [replace(crop, pixels=crop.pixels.copy()) for crop in crops]

    # ------------------------------------------------------------------------------------------ many pictures

    def _refine(self, pending: list[_Candidates]) -> list[list[Face]]:
        """Run the cascade on the faces of all pictures together and hand them back picture by picture."""
        crops = [crop for candidates in pending for crop in candidates.crops]
        if not crops:
            return [[] for _ in pending]
        boxes = np.concatenate([candidates.boxes for candidates in pending])
        rolls = np.concatenate([candidates.rolls for candidates in pending])
        chunks = [slice(i, i + _BATCH) for i in range(0, len(crops), _BATCH)]
        parts = [self._runtime.run(crops[c], boxes[c], rolls[c], self._stage) for c in chunks]
        points = Points(*(np.concatenate(field) for field in zip(*parts, strict=True)))
        results, start = [], 0
        for candidates in pending:
            part = Points(*(field[start : start + len(candidates)] for field in points))
            start += len(candidates)
            faces = [self._face(part, i) for i in range(len(candidates))]
            results.append(_sift(faces, self._max_doubt) if candidates.detected else faces)
        return results

    def _face(self, points: Points, i: int) -> Face:
        return Face.from_keypoints(
            points.keypoints[i],
            self.scheme,
            sigma=points.sigma[i],
            coarse=points.coarse[i],
            score=float(points.score[i]),
        )


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0.0 <= value <= 1.0:
        raise InputError(f"min_score: expected a probability from 0 to 1, got {value!r}")
    return float(value)


def _checked(boxes: object, image: NDArray[np.uint8], source: object, origin: str = "") -> NDArray[np.float32]:
    """Boxes that came from outside, proven; the message says of which picture they are."""
    try:
        return geometry.check_boxes(boxes, (image.shape[0], image.shape[1]))
    except InputError as error:
        raise InputError(f"{images.describe(source)}: {origin}{error}") from error


def _sift(faces: list[Face], max_doubt: float) -> list[Face]:
    """Drop what turned out to be no face, make candidates that ended on one face one, and put the largest first.

    Once more by doubt (see the runtime's ``judge``), now over the refined points, which tell faces better apart.
    """
    if not faces:
        return []
    boxes = np.stack([face.box for face in faces])
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    doubts = np.array([np.median(face.sigma) for face in faces]) / np.sqrt(np.maximum(areas, 1e-6))
    sure = np.flatnonzero(doubts <= max_doubt)
    keep = sure[non_maximum_suppression(boxes[sure], [faces[i].score for i in sure], _SAME_FACE_IOU)]
    return [faces[i] for i in sorted(keep.tolist(), key=lambda i: -areas[i])]
