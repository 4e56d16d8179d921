"""A picture goes in, faces come out: detection, stage one, regions, and the way back to the picture's pixels."""

from __future__ import annotations

import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, SupportsFloat, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from cascade_kp import geometry, images
from cascade_kp.detect import BoostedDetector, box_iou, boxes_within, non_maximum_suppression
from cascade_kp.errors import CascadeError, InputError
from cascade_kp.runtime import Points, make_runtime
from cascade_kp.runtime.detector import SingleShotDetector
from cascade_kp.structures import Face
from cascade_kp.threads import in_order, usable_cores
from cascade_kp.tracking import Tracked, Tracks
from cascade_kp.weights import ModelInfo, load_model, model_path

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from cascade_kp.detect import Detector
    from cascade_kp.models.cascade import RegionBoxes, Stage
    from cascade_kp.runtime import Backend
    from cascade_kp.schemes import Scheme

__all__ = ["Candidates", "Pipeline"]

_Item = TypeVar("_Item")

# Where the detector finds nothing. It sees faces of any roll, those near upright most surely.
_RETRY_ROLLS_DEG = ((-90.0, 90.0), (180.0,), (-45.0, 45.0), (-135.0, 135.0))
_RETRY_MIN_SCORE = 0.9  # each further search brings false alarms of its own
_RETRY_SIDE_PX = 384  # ... and time, which a picture without a face pays in full
_UPRIGHT_DEG = 30.0  # up to here stage one, which sees more of the face, knows better how it is turned
_SAME_FACE_IOU = 0.4
_FOUND_AGAIN_MIN_SCORE = 0.9  # where a face was lost from sight there is, most of the time, something else
_SEEN_SHARE = 0.2  # of a face's box that must lie in the picture for a look at it
_Ours: TypeAlias = SingleShotDetector | BoostedDetector  # these also say rolls
_SOUGHT_TOGETHER = 2  # pictures of a stream: less of Python to a picture, which threads wait for, and more memory
_BATCH = 32  # faces that run together; more are cheaper a face no longer and only take memory


@dataclass(frozen=True)
class Candidates:
    """Faces to be refined, cut out of one picture: the picture itself is no longer needed.

    Attributes:
        crops: N working crops.
        boxes: (N, 4) xyxy px, image frame.
        rolls: (N,) radians, as far as the detector knows.
        detected: found by a detector: there may be duplicates and what is no face, and the order is not the caller's.
    """

    crops: list[geometry.WorkingCrop]
    boxes: NDArray[np.float32]
    rolls: NDArray[np.float32]
    detected: bool

    def __len__(self) -> int:
        """N."""
        return len(self.crops)

    def select(self, indices: Iterable[int]) -> Candidates:
        """Those at some positions, in the order given."""
        chosen = list(indices)
        return replace(self, crops=[self.crops[i] for i in chosen], boxes=self.boxes[chosen], rolls=self.rolls[chosen])


class _Seen(NamedTuple):
    """A picture, and what a detector takes for faces in it: stage one has not been asked yet."""

    image: NDArray[np.uint8]
    found: Candidates


@dataclass(frozen=True)
class _Raised:
    """Stands in a list for what was raised there."""

    error: Exception


@dataclass
class _Search:
    """What is remembered from frame to frame.

    Attributes:
        tracks: the faces that are followed.
        every: frames from one search for new faces to the next.
        time_s: of the frame.
        waited: frames since the last search; None before the first.
        fruitless: searches in a row that had no face to begin with.
    """

    tracks: Tracks
    every: int
    time_s: float = 0.0
    waited: int | None = None
    fruitless: int = 0

    def due(self, matches: NDArray[np.intp]) -> bool:
        """Whether to look for new faces: at the start, every so often, and when one was lost from sight just now."""
        lost = ~self.tracks.lost
        lost[matches[matches >= 0]] = False
        return self.waited is None or self.waited >= self.every or bool(lost.any())

    def turns(self) -> tuple[tuple[float, ...], ...]:
        """Rolls at which to look for new faces, where none is found upright.

        All of them take too long to be tried again and again: once there was a search, some of them each time.
        """
        self.fruitless = 0 if len(self.tracks) else self.fruitless + 1
        if self.waited is None:
            return _RETRY_ROLLS_DEG
        if not self.fruitless:
            return ()
        return (_RETRY_ROLLS_DEG[self.fruitless % len(_RETRY_ROLLS_DEG)],)


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
            also turns a picture in which it finds nothing; a ``SingleShotDetector()`` of your own does not, which is
            quicker on pictures without a face. A model of whole pictures has no use for the default one, and takes
            the picture.
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
        self._path = model_path(model)
        cascade, self._info = load_model(self._path)
        self._reference = cascade.coarse.reference.clone()
        self._runtime = make_runtime(cascade, device, backend, threads)
        self._stage: Stage = stage
        default = default and not self._info.config.whole_picture
        self._detector: Detector | None = None
        if not isinstance(detector, str):
            self._detector = detector
        elif default:
            self._detector = SingleShotDetector(threads=threads)
        limit = self._info.config.max_doubt
        self._max_doubt = np.inf if limit is None else limit
        self._turn = default

    @property
    def info(self) -> ModelInfo:
        """What the model's file says of itself."""
        return self._info

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._path

    @property
    def reference(self) -> Tensor:
        """(K, 2) mean upright shape of the faces the model was trained on, in sides of the face box."""
        return self._reference

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
            return self._faces([self.find(source, boxes)])[0]
        if boxes is None:
            boxes = [None] * len(source)
        count = len(boxes) if hasattr(boxes, "__len__") else type(boxes).__name__
        if count != len(source):
            raise InputError(f"boxes: expected one entry for each of the {len(source)} pictures, got {count}")
        return self._faces([self.find(one, box) for one, box in zip(source, boxes, strict=True)])

    def timed(
        self, image: NDArray[np.uint8], boxes: object = None, *, stage: Stage | None = None
    ) -> tuple[list[Face], dict[str, float]]:
        """One decoded picture as a call does it, and where the time went.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: as for a call.
            stage: ``coarse`` or ``regions``; the pipeline's own by default.

        Returns:
            The faces; and seconds by part: ``detect`` (searching the picture, stage one's verdict on what was found,
            cutting out), ``stage_one``, and ``regions``, which is all the rest: the specialists with their crops,
            putting together, and choosing.

        Raises:
            ImageError, InputError: as a call.
        """
        began = time.perf_counter()
        candidates = self.find(image, boxes)
        found = time.perf_counter()
        with self._runtime.stage_one_timed() as laps:
            points = self.refine([candidates], stage=stage)[0]
        faces = self._chosen(candidates, points)
        stage_one, all_stages = sum(laps), time.perf_counter() - found
        return faces, {"detect": found - began, "stage_one": stage_one, "regions": all_stages - stage_one}

    def mirrored(self) -> Pipeline:
        """This pipeline for mirrored pictures, with the same networks.

        Labels of a data set may lie to one side of what is seen, and a model adds that (``label_offset``). In a
        mirrored picture it is the other side: so only what this pipeline says of one, mirrored back, can be compared
        with what the first says of the picture, or averaged with it.
        """
        other = copy.copy(self)
        other._runtime = self._runtime.mirrored()  # noqa: SLF001 (one of our own)
        return other

    def stream(
        self, sources: Iterable[object], batch_size: int = 32, workers: int | None = None
    ) -> Iterator[list[Face] | CascadeError]:
        """Find the faces of any number of pictures in constant memory, on several cores.

        Pictures are decoded and their faces sought on threads, while the faces found before are refined on others.

        Args:
            sources: pictures, as for a call; taken one after another by the thread that asks for results, and no more
                than are needed to keep the workers busy. An array may be written over once the next one is asked for.
                An error in place of a picture, as a ``VideoReader`` gives, is passed on in its place.
            batch_size: faces refined together, at least.
            workers: threads that decode and detect; on a CPU as many others refine. None takes one for each usable
                core, but a single one that detects for a detector of the caller's own, which may not be made for more.

        Yields:
            For each picture in order its faces, or the error that it caused: a bad picture stops nothing. Where the
            sources themselves raise, or a detector of the caller's own, that is raised after the results of all that
            came before.

        Raises:
            InputError: the batch size or the number of workers is not positive, or a single picture came in place of
                several. At once, before the first result is asked for.
        """
        refiners = usable_cores() if workers is None else workers
        if workers is None:
            workers = refiners if self._detector is None or isinstance(self._detector, _Ours) else 1
        for name, count in (("batch_size", batch_size), ("workers", workers)):
            if type(count) is not int or count < 1:  # True is an int, and no size
                raise InputError(f"{name}: expected a positive whole number, got {count!r}")
        _check_several("stream", sources)
        # A GPU refines one batch after the other. On a CPU a core that has nothing to seek refines, too.
        return self._stream(sources, batch_size, workers, refiners if self._runtime.device.type == "cpu" else 1)

    def _stream(
        self, sources: Iterable[object], batch_size: int, workers: int, refiners: int
    ) -> Iterator[list[Face] | CascadeError]:
        groups = _batches(map(_kept, sources), _SOUGHT_TOGETHER, lambda _: 1)
        found = _each(in_order(self._found, groups, workers, workers))
        # A picture without faces waits, too, so it counts as one.
        batches = _batches(found, batch_size, lambda one: max(1, len(one)) if isinstance(one, Candidates) else 1)
        yield from itertools.chain.from_iterable(in_order(self._flush, batches, refiners, refiners))

    def _found(self, sources: Sequence[object]) -> list[Candidates | CascadeError | _Raised]:
        """The first half of a call for some pictures; stage one is asked about all of them together."""
        begun: list[Candidates | CascadeError | _Raised | _Seen] = []
        for source in sources:
            try:
                begun.append(source if isinstance(source, CascadeError) else self._begun(source, None))
            except CascadeError as error:
                begun.append(error)
            except Exception as error:  # noqa: BLE001 (a detector of the caller's own; what came before is not lost)
                begun.append(_Raised(error))
                break
        faces = iter(self._confirmed([one for one in begun if isinstance(one, _Seen)], _RETRY_ROLLS_DEG))
        return [next(faces) if isinstance(one, _Seen) else one for one in begun]

    def _flush(self, pending: list[Candidates | CascadeError]) -> list[list[Face] | CascadeError]:
        done = iter(self._faces([p for p in pending if isinstance(p, Candidates)]))
        return [item if isinstance(item, CascadeError) else next(done) for item in pending]

    # ------------------------------------------------------------------------------------------ video

    def track(
        self,
        frames: Iterable[object],
        *,
        fps: float = 30.0,
        times: Iterable[float] | None = None,
        detect_every: int = 10,
        smooth: bool = True,
    ) -> Iterator[list[Face] | CascadeError]:
        """Follow the faces of a video from frame to frame, in constant memory.

        A face is looked for where its points of the frame before were, moved on with it. The detector runs in the first
        frame, every so many frames, and when a face is lost from sight. A face keeps its number while it is followed,
        and if it is seen again within two seconds, near where it was lost.

        Args:
            frames: pictures, as for a call; consumed as results are asked for. An error in place of a picture, or what
                is no picture (such as None), stands for a frame that is lost: faces are followed across it.
            fps: frames a second, where the times are not known.
            times: seconds of each frame, taken after it.
            detect_every: frames from one search for new faces to the next.
            smooth: hold the points still, by a filter that follows what moves. ``sigma`` and ``coarse`` stay what the
                networks said.

        Yields:
            For each frame in order its faces, each with its ``id`` and in the order of these; or the error that stood
            in its place, or that it caused.

        Raises:
            InputError: a number is not positive, or a single picture came in place of several. At once, before the
                first result is asked for. Later, where there is no time for a frame, or not a finite one.
        """
        rate = _rate(fps)
        if type(detect_every) is not int or detect_every < 1:
            raise InputError(f"detect_every: expected a positive whole number, got {detect_every!r}")
        _check_several("track", frames)
        steps: Iterable[float] = (i / rate for i in itertools.count()) if times is None else times
        return self._track(frames, iter(steps), detect_every, smooth=smooth)

    def _track(
        self, frames: Iterable[object], times: Iterator[float], detect_every: int, *, smooth: bool
    ) -> Iterator[list[Face] | CascadeError]:
        search = _Search(Tracks(len(self.scheme), smooth=smooth), detect_every)
        for number, frame in enumerate(frames):
            try:
                time_s = next(times)
            except StopIteration:
                raise InputError(f"times: expected one for each frame, got {number}") from None
            search.time_s = _seconds(time_s, number)
            if search.waited is not None:
                search.waited += 1
            result: list[Face] | CascadeError
            try:
                result = frame if isinstance(frame, CascadeError) else self._follow(frame, search)
            except CascadeError as error:
                result = error
            yield result

    def _follow(self, frame: object, search: _Search) -> list[Face]:
        """The faces of the next frame."""
        image = images.as_image(frame)
        seen, matches = self._again(image, search)
        if search.due(matches):
            seen = self._with_new(image, frame, search, seen)
        faces = search.tracks.update(seen.keypoints, search.time_s, (image.shape[0], image.shape[1]))
        order = sorted(range(len(faces)), key=lambda i: faces[i].id)
        return [self._face(seen, i, faces[i]) for i in order]

    def _again(self, image: NDArray[np.uint8], search: _Search) -> tuple[Points, NDArray[np.intp]]:
        """Those faces that are where they are expected; and which of those followed each of them is."""
        tracks, size = search.tracks, (image.shape[0], image.shape[1])
        expected = torch.from_numpy(tracks.expected(search.time_s, size)).float()
        boxes = geometry.tight_box(expected).numpy()
        sides = boxes[:, 2:] - boxes[:, :2]
        inside = np.clip(boxes[:, 2:], 0, size[::-1]) - np.clip(boxes[:, :2], 0, size[::-1])
        near = np.flatnonzero(inside.prod(axis=1) >= _SEEN_SHARE * sides.prod(axis=1))
        if self._detector is None:
            near = near[:0]  # the picture is the face, in every frame anew
        boxes, rolls = boxes[near], geometry.roll_angle(expected, self._reference).numpy()[near]
        seen = self.refine([Candidates(self._crops(image, boxes), boxes, rolls, detected=True)])[0]
        least = np.where(tracks.lost[near], max(self._min_score, _FOUND_AGAIN_MIN_SCORE), self._min_score)
        kept = self.keep(seen)
        seen = _some(seen, kept[seen.score[kept] >= least[kept]])
        matches = tracks.match(seen.keypoints, search.time_s, size)
        # What lies too far from every face that is followed is a guess of stage one's: the detector shall say so.
        known = np.flatnonzero(matches >= 0)
        return _some(seen, known), matches[known]

    def _with_new(self, image: NDArray[np.uint8], frame: object, search: _Search, seen: Points) -> Points:
        """Faces seen again, and those that the detector finds elsewhere."""
        if self._detector is None:
            return self.refine([self.find(image)])[0]
        found = self._confirmed([self._sought(image, self._detector, frame)], search.turns())[0]
        search.waited = 0
        boxes = geometry.tight_box(torch.from_numpy(seen.keypoints)).numpy()
        elsewhere = np.flatnonzero((box_iou(found.boxes, boxes) < _SAME_FACE_IOU).all(axis=1))
        if not len(elsewhere):
            return seen
        new = self.refine([found.select(elsewhere.tolist())])[0]
        both = Points(*(np.concatenate(fields) for fields in zip(seen, new, strict=True)))
        return _some(both, self.keep(both))

    # ------------------------------------------------------------------------------------------ one picture

    def find(self, source: object, boxes: object = None) -> Candidates:
        """The first half of a call: decode a picture, find its faces, cut out what the networks will see.

        Args:
            source: one picture, as for a call.
            boxes: as for a call.

        Returns:
            What :meth:`refine` takes.

        Raises:
            ImageError: the picture cannot be used.
            InputError: the boxes cannot be used.
        """
        begun = self._begun(source, boxes)
        return begun if isinstance(begun, Candidates) else self._confirmed([begun], _RETRY_ROLLS_DEG)[0]

    def _begun(self, source: object, boxes: object) -> Candidates | _Seen:
        """A picture, decoded: with the boxes that are given, or with those of the detector."""
        image = images.as_image(source)
        if boxes is None and self._detector is not None:
            return self._sought(image, self._detector, source)
        h, w = image.shape[:2]
        given = _checked([[0, 0, w, h]] if boxes is None else boxes, image, source)
        return Candidates(self._crops(image, given), given, np.zeros(len(given), np.float32), detected=False)

    def _sought(self, image: NDArray[np.uint8], detector: Detector, source: object) -> _Seen:
        """What a detector takes for faces. Messages call the picture ``source``."""
        if isinstance(detector, _Ours):
            return _Seen(image, self._searched(detector, image))
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
        return _Seen(image, self._cut(image, found, np.zeros(len(found), np.float32)))

    def _searched(self, detector: _Ours, image: NDArray[np.uint8], turns: Sequence[float] | None = None) -> Candidates:
        """What a detector of ours finds, with boxes round the model's own points."""
        found, rolls = detector.detect(image, turns)
        place = self._info.config.within_face
        if place is not None:
            found = np.concatenate([boxes_within(found[:, :4], rolls, place), found[:, 4:]], axis=1)
        return self._cut(image, found, np.radians(np.where(np.abs(rolls) < _UPRIGHT_DEG, np.float32(0), rolls)))

    def _confirmed(self, seen: Sequence[_Seen], turns: Sequence[tuple[float, ...]]) -> list[Candidates]:
        """Those boxes of some pictures that stage one agrees are faces; where there is none, it is turned and searched.

        Args:
            seen: the pictures.
            turns: rolls to try, degrees, some after the others; the embedded detector's only.
        """
        faces = self._judged([one.found for one in seen], self._min_score)
        if not isinstance(self._detector, _Ours) or not self._turn:
            return faces
        quick = replace(self._detector, max_side=min(self._detector.max_side, _RETRY_SIDE_PX))
        for i, (image, _) in enumerate(seen):
            for tried in turns:
                if len(faces[i]):
                    break
                again = self._searched(quick, image, tried)
                faces[i] = self._judged([again], max(self._min_score, _RETRY_MIN_SCORE))[0]
        return faces

    def _judged(self, found: Sequence[Candidates], min_score: float) -> list[Candidates]:
        """Those boxes of some pictures that stage one agrees are faces."""
        crops = [crop for one in found for crop in one.crops]
        if not crops:
            return list(found)
        boxes, rolls = (np.concatenate(parts) for parts in zip(*((one.boxes, one.rolls) for one in found), strict=True))
        score, doubt = self._runtime.judge(crops, boxes, rolls)
        keep = np.split((score >= min_score) & (doubt <= self._max_doubt), np.cumsum([len(one) for one in found])[:-1])
        return [one.select(np.flatnonzero(kept).tolist()) for one, kept in zip(found, keep, strict=True)]

    def _cut(self, image: NDArray[np.uint8], found: NDArray[np.float32], rolls: NDArray[np.float32]) -> Candidates:
        boxes = found[:, :4]
        return Candidates(self._crops(image, boxes), boxes, rolls.astype(np.float32), detected=True)

    def _crops(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> list[geometry.WorkingCrop]:
        config = self._info.config
        crops = [geometry.working_crop(image, box, config.working_face_px, config.working_context) for box in boxes]
        # A crop of a small face is a view, and would keep the whole picture in memory for as long as it waits.
        return [replace(crop, pixels=crop.pixels.copy()) for crop in crops]

    # ------------------------------------------------------------------------------------------ many pictures

    def refine(
        self,
        candidates: Sequence[Candidates],
        *,
        stage: Stage | None = None,
        region_boxes: RegionBoxes | None = None,
        oracle: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[Points]:
        """The second half of a call: run the cascade on the candidates of many pictures together.

        Args:
            candidates: of M pictures.
            stage: ``coarse`` or ``regions``; the pipeline's own by default.
            region_boxes: where regions are cropped, ``points`` (stage one's) or ``boxes`` (the box network's); the
                model's own by default.
            oracle: for each picture (N, K, 2) px, image frame, true points: regions are cropped round these, to see
                what better crops would be worth.

        Returns:
            For each picture the points of all its candidates, in their order, image frame.

        Raises:
            InputError: ``region_boxes`` asks for a network that the model does not have, or ``oracle`` is not of the
                candidates.
        """
        crops = [crop for one in candidates for crop in one.crops]
        count = len(self.scheme)
        if oracle is not None:
            expected, got = [(len(one), count, 2) for one in candidates], [np.shape(points) for points in oracle]
            if expected != got:
                raise InputError(f"oracle: expected true points of the shapes {expected}, got {got}")
        if not crops:
            nothing = np.zeros((0, count), np.float32)
            empty = np.zeros((0, count, 2), np.float32)
            return [Points(empty, nothing, empty, np.zeros(0, np.float32)) for _ in candidates]
        boxes = np.concatenate([one.boxes for one in candidates])
        rolls = np.concatenate([one.rolls for one in candidates])
        truth = None if oracle is None else np.concatenate(oracle)
        parts = []
        for start in range(0, len(crops), _BATCH):
            chunk = slice(start, start + _BATCH)
            parts.append(
                self._runtime.run(
                    crops[chunk],
                    boxes[chunk],
                    rolls[chunk],
                    self._stage if stage is None else stage,
                    region_boxes=region_boxes,
                    oracle=None if truth is None else truth[chunk],
                )
            )
        points = Points(*(np.concatenate(field) for field in zip(*parts, strict=True)))
        results, start = [], 0
        for one in candidates:
            results.append(Points(*(field[start : start + len(one)] for field in points)))
            start += len(one)
        return results

    def keep(self, points: Points) -> NDArray[np.intp]:
        """Which of a picture's detected candidates are its faces, now that their points are known.

        Dropped is what turned out to be no face, and all but one of those that ended on the same face. Once more by
        doubt (see the runtime's ``judge``), now over the refined points, which tell faces better apart.

        Args:
            points: of the candidates of one picture, from :meth:`refine`.

        Returns:
            (M,) indices, the largest face first.
        """
        if not len(points.score):
            return np.zeros(0, np.intp)
        boxes = np.concatenate([points.keypoints.min(axis=1), points.keypoints.max(axis=1)], axis=1)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        doubts = np.median(points.sigma, axis=1) / np.sqrt(np.maximum(areas, 1e-6))
        sure = np.flatnonzero(doubts <= self._max_doubt)
        kept = sure[non_maximum_suppression(boxes[sure], points.score[sure].tolist(), _SAME_FACE_IOU)]
        return np.array(sorted(kept.tolist(), key=lambda i: -areas[i]), np.intp)

    def _faces(self, candidates: list[Candidates]) -> list[list[Face]]:
        return [self._chosen(*pair) for pair in zip(candidates, self.refine(candidates), strict=True)]

    def _chosen(self, candidates: Candidates, points: Points) -> list[Face]:
        """The faces among one picture's candidates."""
        chosen = self.keep(points) if candidates.detected else range(len(candidates))
        return [self._face(points, int(i)) for i in chosen]

    def _face(self, points: Points, i: int, tracked: Tracked | None = None) -> Face:
        return Face.from_keypoints(
            points.keypoints[i] if tracked is None else tracked.points,
            self.scheme,
            sigma=points.sigma[i],
            coarse=points.coarse[i],
            score=float(points.score[i]),
            id=None if tracked is None else tracked.id,
        )


def _kept(source: object) -> object:
    """A source that stays what it is while the caller fills the same array with the next picture."""
    return source.copy() if isinstance(source, np.ndarray) else source


def _batches(items: Iterable[_Item], size: int, weight: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Joined until they weigh as much; where the items raise, that is raised after what came before."""
    pending: list[_Item] = []
    weighs = 0
    ended: Exception | None = None
    try:
        for one in items:
            pending.append(one)
            weighs += weight(one)
            if weighs >= size:
                yield pending
                pending, weighs = [], 0
    except Exception as error:  # noqa: BLE001 (what was found before is not lost)
        ended = error
    if pending:
        yield pending
    if ended is not None:
        raise ended


def _each(
    groups: Iterable[list[Candidates | CascadeError | _Raised]],
) -> Iterator[Candidates | CascadeError]:
    """One after the other."""
    for one in itertools.chain.from_iterable(groups):
        if isinstance(one, _Raised):
            raise one.error
        yield one


def _some(points: Points, indices: NDArray[np.intp]) -> Points:
    return Points(*(field[indices] for field in points))


def _check_several(method: str, sources: object) -> None:
    one = isinstance(sources, (str, bytes, os.PathLike)) or (isinstance(sources, np.ndarray) and sources.ndim < 4)
    if one or not isinstance(sources, Iterable):
        what = images.describe(sources)
        raise InputError(f"{method}: expected an iterable of pictures, such as [image], got {what}")


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0.0 <= value <= 1.0:
        raise InputError(f"min_score: expected a probability from 0 to 1, got {value!r}")
    return float(value)


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0.0 < value < math.inf:
        raise InputError(f"fps: expected a positive number, got {value!r}")
    return float(value)


def _seconds(value: object, number: int) -> float:
    """When a frame is shown, proven."""
    seconds = math.nan
    if isinstance(value, SupportsFloat):  # text does not
        with suppress(TypeError, ValueError, OverflowError):
            seconds = float(value)
    if not math.isfinite(seconds):
        raise InputError(f"times: expected finite seconds, got {value!r} for frame {number}")
    return seconds


def _checked(boxes: object, image: NDArray[np.uint8], source: object, origin: str = "") -> NDArray[np.float32]:
    """Boxes that came from outside, proven; the message says of which picture they are."""
    try:
        return geometry.check_boxes(boxes, (image.shape[0], image.shape[1]))
    except InputError as error:
        raise InputError(f"{images.describe(source)}: {origin}{error}") from error
