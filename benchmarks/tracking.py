"""How still and how quick followed points are, and whether faces keep their numbers.

    python -m benchmarks.tracking [DATA] [--faces 16] [--threads 1] [--choose] [--json PATH]

The clips are made (`benchmarks/made/clips.py`): photographs that rest, move, come nearer or roll by a known way, 60
frames each, 30 a second, the face 150 px large, with a sensor's noise and JPEG, new in each frame. With DATA the
photographs are validation faces of 300-W (`datasets/300w/validation.txt`), without it scikit-image's astronaut.

- **jitter**: root mean square of how far points go from frame to frame while the face rests, over the distance of the
  outer eye corners. Its ratio is that of the points as the networks say them to the points as they are shown.
- **lag**: frames by which points are behind, least squares, where the moving face carries the networks' mean answer.
- **off**: root mean square distance from that place, over the distance of the outer eye corners. NME is to the labels.
- **blink**: the lids' points, moved down and up within 9 frames by 5 % of the face: how much of the way is kept, and by
  how many frames its middle is late. The signal is added to points found in the clips at rest.
- **numbers**: scenes of one or two heads cut out of photographs; a clip counts if every face that can be seen has one
  and the same number throughout.
- **speed**: processor time of the process for a frame of 640 x 480 with one face.

Three filters are compared: none, one 1 Euro filter on each point, and ours, pose and shape apart. `--choose` prints a
grid of settings on other faces than those that are reported; the settings in `cascade_kp/tracking.py` are from there.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from skimage import data

from benchmarks import record
from benchmarks.made import clips
from cascade_kp import tracking
from cascade_kp.errors import CascadeError
from cascade_kp.formats import read_pts
from cascade_kp.images import read_image
from cascade_kp.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cascade_kp.structures import Face

    Array = NDArray[np.float64]
    Filter = Callable[[Array], Array]

_PROTOCOL = """
Made clips of photographs that move by a known way, 30 frames a second, the face 150 px large, sensor noise of 4 grey
levels and JPEG of quality 85 new in each frame; the first 10 frames of each do not count. Jitter: RMS of the points'
way from frame to frame at rest. Off: RMS distance from where the moving face carries the networks' mean answer of the
clip. Both over the distance of the outer eye corners. Lag: least squares, in frames. NME: to the labels. Blink: a
signal of 5 % of the face's size added to the lids' points. Times: processor time of the process, median of 5.
"""

_SPLIT = Path(__file__).resolve().parents[1] / "datasets" / "300w" / "validation.txt"
_SETTLED = 10  # frames after which a filter has found its place
_FACE_PX = 150.0
_FRAMES = 60
_LIDS = [37, 38, 43, 44]
_CLOSED = np.concatenate([np.zeros(25), [1 / 3, 2 / 3, 1, 1, 1, 0.75, 0.5, 0.25], np.zeros(27)])
_BLINK = 0.05
_EYES = (36, 45)
_NEAR = 0.3  # of a face's size: found there


class Followed:
    """A clip and what was found in it.

    Attributes:
        raw: (F, K, 2) px, points as the networks say them.
        ways: (F, 2, 3) photograph px -> frame px.
        labels: (K, 2) px of the photograph.
        found: in every frame.
    """

    def __init__(self, pipe: Pipeline, one: clips.Still, motion: str, seed: int) -> None:
        made = list(clips.clip(one, motion, _FRAMES, np.random.default_rng(seed)))
        results = list(pipe.track([frame for frame, _ in made], fps=clips.FPS, smooth=False))
        self.ways = np.array([matrix for _, matrix in made])
        self.labels = one.points
        faces = [nearest(result, truth) for result, truth in zip(results, self.truth(), strict=True)]
        self.found = None not in faces
        self.raw = np.array([face.keypoints for face in faces if face is not None], np.float64)

    def mean(self) -> Array:
        """(F, K, 2) px, where the moving face carries the networks' mean answer."""
        turn, shift = self.ways[:, :, :2], self.ways[:, None, :, 2]
        rested = (self.raw - shift) @ np.linalg.inv(turn).transpose(0, 2, 1)
        carried: Array = rested.mean(axis=0) @ turn.transpose(0, 2, 1) + shift
        return carried

    def truth(self) -> Array:
        """(F, K, 2) px, the labels."""
        moved: Array = self.labels @ self.ways[:, :, :2].transpose(0, 2, 1) + self.ways[:, None, :, 2]
        return moved

    def eyes(self) -> float:
        """Mean distance of the outer eye corners, px."""
        mean = self.mean()
        return float(np.linalg.norm(mean[:, _EYES[0]] - mean[:, _EYES[1]], axis=-1).mean())


def nearest(result: list[Face] | CascadeError, truth: Array) -> Face | None:
    """The face at the labels; another may show at the picture's edge, since a head moves its whole photograph."""
    faces = [] if isinstance(result, CascadeError) else result
    at = [face for face in faces if np.linalg.norm(face.keypoints.mean(axis=0) - truth.mean(axis=0)) < _NEAR * _FACE_PX]
    return max(at, key=lambda face: face.score, default=None)


def rms(values: Array) -> float:
    """Root of the mean squared length of (..., 2) vectors."""
    return float(np.sqrt((values**2).sum(axis=-1).mean()))


def jitter(followed: Followed, steady: Filter) -> float:
    """How far points go from frame to frame, of a face at rest."""
    return rms(np.diff(steady(followed.raw)[_SETTLED:], axis=0)) / followed.eyes()


def lag(followed: Followed, steady: Filter) -> float:
    """Frames by which points are behind."""
    mean = followed.mean()
    velocity = np.gradient(mean, axis=0)[_SETTLED:]
    return float(((mean - steady(followed.raw))[_SETTLED:] * velocity).sum() / (velocity**2).sum())


def off(followed: Followed, steady: Filter) -> float:
    """Distance from where the moving face carries the mean answer."""
    return rms((steady(followed.raw) - followed.mean())[_SETTLED:]) / followed.eyes()


def nme(followed: Followed, steady: Filter) -> float:
    """Mean distance from the labels."""
    truth = followed.truth()
    unit = np.linalg.norm(truth[:, _EYES[0]] - truth[:, _EYES[1]], axis=-1)
    return float((np.linalg.norm(steady(followed.raw) - truth, axis=-1).mean(axis=1) / unit)[_SETTLED:].mean())


def blink(followed: Followed, steady: Filter) -> tuple[float, float]:
    """Share of a blink's way that is kept, and frames by which its middle is late."""
    way = _BLINK * _FACE_PX
    closing = followed.raw.copy()
    closing[:, _LIDS, 1] += way * _CLOSED[:, None]
    shown = (steady(closing) - steady(followed.raw))[:, _LIDS, 1].mean(axis=1) / way
    when = np.arange(len(_CLOSED))
    return float(shown.max()), float((shown @ when) / shown.sum() - (_CLOSED @ when) / _CLOSED.sum())


def ours(pose: tuple[float, float, float] | None = None, shape: tuple[float, float, float] | None = None) -> Filter:
    """The library's filter, with its settings or others."""

    def steady(raw: Array) -> Array:
        face = tracking.SteadyFace(*(settings for settings in (pose, shape) if settings is not None))
        return np.array([face(points, 1 / clips.FPS) for points in raw])

    return steady


def one_euro(raw: Array) -> Array:
    """One filter on each point of the picture's frame, speeds in face sizes: as it is used most."""
    low_pass = tracking.OneEuro(1.0, 60.0, 1.0)
    return np.array([low_pass(points, 1 / clips.FPS, tracking.face_size(points)) for points in raw])


FILTERS: dict[str, Filter] = {"none": lambda raw: raw, "1 Euro on each point": one_euro, "pose and shape": ours()}


def filters(followed: dict[str, list[Followed]], *, labelled: bool) -> list[dict[str, object]]:
    """Measure and print every filter."""
    moving = [name for name in clips.MOTIONS if name != "still"]
    rows: list[dict[str, object]] = []
    before = np.array([jitter(one, FILTERS["none"]) for one in followed["still"]])
    for name, steady in FILTERS.items():
        rest = np.array([jitter(one, steady) for one in followed["still"]])
        blinks = np.array([blink(one, steady) for one in followed["still"]])
        motions: list[dict[str, Any]] = []
        for motion in moving:
            lags = [lag(one, steady) for one in followed[motion]]
            motions.append(
                {
                    "motion": motion,
                    "lag_frames": float(np.mean(lags)),
                    "lag_worst": float(max(lags, key=abs)),
                    "off": float(np.mean([off(one, steady) for one in followed[motion]])),
                    "nme": float(np.mean([nme(one, steady) for one in followed[motion]])) if labelled else None,
                }
            )
        row: dict[str, Any] = {
            "filter": name,
            "jitter": float(rest.mean()),
            "ratio": float(before.mean() / rest.mean()),
            "ratio_worst": float((before / rest).min()),
            "blink_kept": float(blinks[:, 0].mean()),
            "blink_late_frames": float(blinks[:, 1].mean()),
            "motions": motions,
        }
        rows.append(row)
        ratios = f"ratio {row['ratio']:.1f}, worst {row['ratio_worst']:.1f}"
        lids = f"blink {100 * row['blink_kept']:.0f} % kept, {row['blink_late_frames']:+.1f} frames late"
        print(f"{name}: jitter {100 * row['jitter']:.3f} % ({ratios}), {lids}")
        for m in motions:
            error = "" if m["nme"] is None else f", NME {100 * m['nme']:.3f} %"
            frames = f"lag {m['lag_frames']:+.2f} frames (worst {m['lag_worst']:+.2f})"
            print(f"  {m['motion']:<8}{frames}, off {100 * m['off']:.3f} %{error}", flush=True)
    return rows


def numbers(pipe: Pipeline, stills: Sequence[clips.Still]) -> list[dict[str, object]]:
    """Count and print the clips in which every face keeps its number."""
    heads = [clips.sprite(one) for one in stills]
    rows: list[dict[str, object]] = []
    for name, (words, _, paths, _) in clips.SCENES.items():
        groups = [heads[i : i + len(paths)] for i in range(0, len(heads) - len(paths) + 1, 2)]
        kept, seen, visible = 0, 0, 0
        for seed, group in enumerate(groups):
            made = list(clips.scene(group, name, np.random.default_rng(seed)))
            results = pipe.track([frame for frame, _ in made], fps=clips.FPS)
            given: list[list[int]] = [[] for _ in group]
            for result, (frame, truth) in zip(results, made, strict=True):
                for k, points in enumerate(truth):
                    if frame is not None and not np.isnan(points).any():
                        visible += 1
                        given[k] += _ids_at(points, result)
            seen += sum(map(len, given))
            kept += all(len(set(ids)) == 1 for ids in given) and len({ids[0] for ids in given}) == len(given)
        share = seen / max(visible, 1)
        rows.append({"scene": name, "what": words, "clips": len(groups), "kept": kept, "seen": share})
        text = f"{name:<14}{kept} of {len(groups)} clips with one number a face"
        print(f"{text}, which was seen in {100 * share:.1f} % of the frames where it can be", flush=True)
    return rows


def _ids_at(points: Array, result: list[Face] | CascadeError) -> list[int]:
    """Numbers of the faces found there."""
    faces = [] if isinstance(result, CascadeError) else result
    near = 0.2 * _FACE_PX
    return [
        face.id
        for face in faces
        if face.id is not None and np.linalg.norm(face.keypoints - points, axis=1).mean() < near
    ]


def speed(pipe: Pipeline, one: clips.Still, repeat: int = 5) -> list[dict[str, object]]:
    """Measure and print the time of a frame."""
    frames = [frame for frame, _ in clips.clip(one, "swayed", 30, np.random.default_rng(0))]
    calls: dict[str, Callable[[], object]] = {
        "followed": lambda: list(pipe.track(frames)),
        "followed, the detector in the first frame only": lambda: list(pipe.track(frames, detect_every=len(frames))),
        "the detector in every frame": lambda: [pipe(frame) for frame in frames],
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i, (name, call) in itertools.product(range(repeat + 1), calls.items()):
        start = time.process_time()
        call()
        if i:
            times[name].append(1e3 * (time.process_time() - start) / len(frames))
    rows: list[dict[str, object]] = [{"what": name, "ms": float(np.median(several))} for name, several in times.items()]
    for row in rows:
        print(f"{row['what']:<50}{row['ms']:7.1f} ms a frame", flush=True)
    return rows


def choose(followed: dict[str, list[Followed]]) -> None:
    """Print a grid of settings."""
    moving = [name for name in clips.MOTIONS if name != "still"]
    poses = [(1.0, slope, hz) for slope in (60.0, 120.0, 180.0) for hz in (2.0, 3.0)]
    shapes = [(0.5, slope, hz) for slope in (20.0, 35.0, 50.0) for hz in (1.0, 2.0, 3.0)]
    print(f"{'pose':<20}{'shape':<20}  ratio   off, %  worst lag  blink kept  late")
    before = np.mean([jitter(one, FILTERS["none"]) for one in followed["still"]])
    for pose, shape in itertools.product(poses, shapes):
        steady = ours(pose, shape)
        ratio = before / np.mean([jitter(one, steady) for one in followed["still"]])
        away = np.mean([off(one, steady) for name in moving for one in followed[name]])
        worst = max(abs(lag(one, steady)) for name in moving for one in followed[name])
        kept, late = np.mean([blink(one, steady) for one in followed["still"]], axis=0)
        print(f"{pose!s:<20}{shape!s:<20}{ratio:7.2f}{100 * away:9.3f}{worst:11.2f}{kept:12.2f}{late:6.2f}", flush=True)


def photographs(folder: Path | None, count: int, pipe: Pipeline, *, others: bool) -> list[clips.Still]:
    """Validation faces of 300-W, some to report or others to choose by; or the astronaut."""
    if folder is None:
        picture = np.asarray(data.astronaut(), np.uint8)
        return [clips.still(picture, pipe(picture)[0].keypoints.astype(np.float64), _FACE_PX)] * 2
    lines = _SPLIT.read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    random.Random(0).shuffle(names)  # noqa: S311 (no secret)
    half = len(names) // 2
    stills = []
    for name in names[:half] if others else reversed(names[half:]):
        path = next(folder / f"{name}{suffix}" for suffix in (".jpg", ".png") if (folder / f"{name}{suffix}").is_file())
        one = clips.still(read_image(path), read_pts(path.with_suffix(".pts")), _FACE_PX)
        frame, _ = next(clips.clip(one, "still", 1, np.random.default_rng(0)))
        if len(pipe(frame)) == 1:  # a face that is not found, or that has another beside it, says nothing of following
            stills.append(one)
        if len(stills) == count:
            break
    return stills


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="the folder that holds 300w")
    parser.add_argument("--model", default="ibug68")
    parser.add_argument("--faces", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--choose", action="store_true", help="print a grid of the filter's settings on other faces")
    record.add_json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    result = record.envelope("tracking", _PROTOCOL)
    pipe = Pipeline(args.model, threads=args.threads)
    stills = photographs(args.data, args.faces, pipe, others=args.choose)
    print(f"{len(stills)} faces", flush=True)
    followed: dict[str, list[Followed]] = {}
    lost = 0
    for motion in clips.MOTIONS:
        several = [Followed(pipe, one, motion, seed) for seed, one in enumerate(stills)]
        followed[motion] = [one for one in several if one.found]
        lost += len(several) - len(followed[motion])
    print(f"{lost} clips left out, in which the face was not seen in every frame", flush=True)
    if args.choose:
        choose(followed)
        return
    result["settings"] = {"model": args.model, "threads": args.threads, "frames": _FRAMES, "face_px": _FACE_PX}
    result["data"] = {
        "what": "scikit-image's astronaut" if args.data is None else "300-W, validation faces that chose nothing here",
        "faces": len(stills),
        "clips": len(stills) * len(clips.MOTIONS),
        "left_out": lost,
    }
    result["filters"] = filters(followed, labelled=args.data is not None)
    result["numbers"] = numbers(pipe, stills)
    result["speed"] = speed(pipe, stills[0])
    if args.json:
        record.write(args.json, result)


if __name__ == "__main__":
    main()
