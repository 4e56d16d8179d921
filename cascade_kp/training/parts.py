"""What the networks of a cascade are trained on: which points, which faces, and how a batch is drawn.

Everything random about step n is drawn from a generator of its own, seeded by the recipe's seed, the network's name
and n. So a step can be drawn again after an interruption, or by every process of several, and is always the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig
from cascade_kp.data.augment import KINDS, ninefold_moves, ninefold_pixels, photometric
from cascade_kp.data.cache import FaceCrops
from cascade_kp.data.missing import fill_missing
from cascade_kp.data.sampling import jittered_frames, non_face_frames

if TYPE_CHECKING:
    from torch import Generator

    from cascade_kp.config import MissingPolicy
    from cascade_kp.schemes import Scheme
    from cascade_kp.training.recipe import PartConfig, Recipe

_FEW = 4
_ROUNDS = 40

__all__ = [
    "Batch",
    "Faces",
    "Part",
    "Places",
    "Pool",
    "Sources",
    "draw_batch",
    "face_units",
    "mean_shape",
    "parts_of",
    "place",
    "reference_shape",
    "region_part",
    "step_generator",
]


@dataclass(frozen=True)
class Part:
    """One network to be trained: what it sees and what it must say.

    Attributes:
        name: ``first``, ``coarse``, ``boxes`` or ``regions.<region>``.
        net: its configuration.
        margin: side of its crop over the longer side of its points' box.
        members: indices of its points in the scheme.
        mirrored: what those points are called before mirroring: ``flip[members]``. For an eye this is the other eye.
        corners: predict the corners of these point groups' boxes instead of points (the box network).
        judges: also says whether there is a face at all (stage one's first pass).
        boxed: cropped in the boxes that stage one is given (see ``Pool``), and not round its points.
    """

    name: str
    net: NetConfig
    margin: float
    members: list[int]
    mirrored: list[int]
    corners: tuple[list[int], ...] = ()
    judges: bool = False
    boxed: bool = False

    @staticmethod
    def of(name: str, net: NetConfig, margin: float, members: list[int], scheme: Scheme) -> Part:
        """A part that predicts the points it is cropped round."""
        return Part(name, net, margin, members, [scheme.flip[i] for i in members])

    @property
    def outputs(self) -> int:
        """Number of points the network predicts."""
        return 2 * len(self.corners) if self.corners else len(self.members)

    def targets(self, points: Tensor) -> Tensor:
        """(N, k, 2) points -> (N, outputs, 2), same frame; a box with an unlabelled point in it has no label."""
        if not self.corners:
            return points
        groups = [points[:, group] for group in self.corners]
        return torch.cat([torch.stack([g.amin(dim=1), g.amax(dim=1)], dim=1) for g in groups], dim=1)


@dataclass(frozen=True)
class Pool:
    """Labelled faces, and where their crops are placed.

    Attributes:
        crops: the faces' pixels.
        rows: (N,) which of ``crops`` they are.
        points: (N, K, 2) px, canvas frame; NaN without a label.
        anchors: (N, K, 2) px, canvas frame: the labels, with an estimate where a label is missing. They place crops
            and give the unit of errors; they are never learnt.
        rolls: (N,) radians.
        boxes: (N, 4) xyxy px, canvas frame, which stage one is given; None for the tight boxes of the anchors.
    """

    crops: FaceCrops
    rows: NDArray[np.intp]
    points: Tensor
    anchors: Tensor
    rolls: Tensor
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def of(
        crops: FaceCrops,
        reference: Tensor,
        missing: MissingPolicy = "mask",
        names: tuple[str, ...] | None = None,
        boxes: Tensor | None = None,
    ) -> Pool:
        """All faces of some crops.

        Args:
            crops: the faces.
            reference: (K, 2) mean shape; missing points are estimated by it from the labelled ones.
            missing: what becomes of missing labels, as in :func:`cascade_kp.data.missing.fill_missing`.
            names: of the keypoints, for messages.
            boxes: (M, 4) xyxy px, image frame, that stage one is given; by default the tight ones of the anchors.
        """
        points, kept = fill_missing(crops.keypoints, missing, reference, names=names)
        anchors = geometry.complete(points, reference)
        if boxes is not None:
            inverse = geometry.invert(crops.to_image[kept])
            boxes = geometry.apply(inverse, boxes[kept].unflatten(1, (2, 2))).flatten(1)
        rolls = geometry.roll_angle(anchors, reference)
        return Pool(crops, kept.numpy().astype(np.intp), points, anchors, rolls, boxes)

    @property
    def given(self) -> Tensor:
        """(N, 4) xyxy px, canvas frame: the boxes that stage one is given where they are not moved."""
        return geometry.tight_box(self.anchors) if self.boxes is None else self.boxes

    def names(self, indices: NDArray[np.intp]) -> list[str]:
        """Where some of the faces came from."""
        return [self.crops.names[self.rows[i]] for i in indices.tolist()]

    def fingerprint(self) -> str:
        """SHA-256 of pixels, labels and places."""
        digest = hashlib.sha256(self.crops.fingerprint().encode())
        given = [] if self.boxes is None else [self.boxes.numpy()]
        for array in (self.rows, self.points.numpy(), self.anchors.numpy(), self.rolls.numpy(), *given):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def read(self, indices: NDArray[np.intp], frames: Tensor, size: int, device: torch.device | str = "cpu") -> Tensor:
        """(n,) faces and (n, 2, 3) crop px -> canvas px -> (n, 3, size, size) float in [0, 255], on the device."""
        windows, moved = self.crops.windows(self.rows[indices], frames, size)
        windows, moved = windows.to(device), moved.to(device)
        # Few at a time on a CPU: the same pixels, but floats of 3 MB and not 40, which stay in its cache.
        few = _FEW if windows.device.type == "cpu" else len(windows) or 1
        parts = zip(windows.split(few), moved.split(few), strict=True)
        return torch.cat([geometry.sample(some.float(), places, size) for some, places in parts])


@dataclass(frozen=True)
class Faces:
    """The faces of a recipe.

    Attributes:
        train: faces that networks learn from.
        extra: further ones of weaker labels, if any.
        validation: faces that decisions and calibrations are made on.
        reference: (K, 2) mean upright shape of ``train``, in units of the box's longer side.
    """

    train: Pool
    extra: Pool | None
    validation: Pool
    reference: Tensor


class Sources(NamedTuple):
    """Where batches come from.

    Attributes:
        train: the training faces.
        extra: further faces of weaker labels.
        share: of the batches that come from ``extra``.
        until: share of the steps after which ``extra`` is left out.
    """

    train: Pool
    extra: Pool | None = None
    share: float = 0.0
    until: float = 0.0

    def at(self, step: int, steps: int, batch: int, seed: str) -> tuple[Pool, NDArray[np.intp]]:
        """The pool of a step, and (batch,) indices into it: every face once in each pass, in an order of that pass."""
        last = int(self.until * steps) if self.extra is not None else 0
        before, after = (int(min(n, last) * self.share) for n in (step, step + 1))
        if self.extra is not None and after > before:
            return self.extra, _picked(len(self.extra), before * batch, batch, f"{seed} extra")
        return self.train, _picked(len(self.train), (step - before) * batch, batch, f"{seed} train")


def _picked(n: int, start: int, count: int, seed: str) -> NDArray[np.intp]:
    """Elements ``start`` to ``start + count`` of the endless row of shuffled passes through ``n`` faces."""
    places = np.arange(start, start + count)
    passes = range(start // n, (start + count - 1) // n + 1)
    orders = np.stack([np.random.default_rng(_number(f"{seed} pass {i}")).permutation(n) for i in passes])
    return np.asarray(orders[places // n - passes.start, places % n], np.intp)


def _number(text: str) -> int:
    """A seed that is a hash of a text, 63 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def step_generator(seed: str, step: int) -> Generator:
    """The source of everything random about one step, on the CPU."""
    return torch.Generator().manual_seed(_number(f"{seed} step {step}"))


def mean_shape(keypoints: Tensor, flip: tuple[int, ...]) -> Tensor:
    """The mean of faces as they stand, symmetric by construction, in units of the longer side of the tight box.

    Args:
        keypoints: (N, K, 2) px; NaN points do not count.
        flip: the scheme's flip permutation.

    Returns:
        (K, 2), centred on the middle of its box.
    """
    boxes = geometry.tight_box(keypoints)
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)[:, None, None]
    shape = ((keypoints - centre) / side).nanmean(dim=0)
    shape = (shape + geometry.mirror_points(shape, 0.0, flip)) / 2
    box = geometry.tight_box(shape)
    return shape - (box[:2] + box[2:]) / 2


def reference_shape(keypoints: Tensor, flip: tuple[int, ...]) -> Tensor:
    """The mean shape of faces of which some are labelled in part only; arguments and result as of :func:`mean_shape`.

    Of the faces that are labelled whole, where there are any: the box of a few points says nothing of the face's.
    Otherwise shape and missing points are estimated from each other, in turn.
    """
    whole = ~torch.isnan(keypoints).flatten(1).any(dim=1)
    if whole.any():
        return mean_shape(keypoints[whole], flip)
    shape = mean_shape(keypoints, flip)
    for _ in range(_ROUNDS):
        shape = mean_shape(geometry.complete(keypoints, shape), flip)
    return shape


def face_units(anchors: Tensor, scheme: Scheme) -> Tensor:
    """What errors are divided by: (N, K, 2) px -> (N,) px.

    The distance of the scheme's inter-ocular pair, or the root of the box's area where the scheme has no such pair;
    NaN where it is not known.
    """
    if scheme.inter_ocular is None:
        box = geometry.tight_box(anchors)
        root = (box[:, 2:] - box[:, :2]).prod(dim=1).sqrt()
        return torch.where(root > 0, root, torch.nan)
    a, b = scheme.inter_ocular
    distance: Tensor = (anchors[:, a] - anchors[:, b]).norm(dim=-1)
    return distance


class Places(NamedTuple):
    """Where the crops of N faces lie and what a network should say of them.

    Attributes:
        frames: (N, 2, 3) crop px -> canvas px.
        targets: (N, outputs, 2), crop-unit frame, NaN without a label.
        face: (N,) 1 where the crop shows a face.
    """

    frames: Tensor
    targets: Tensor
    face: Tensor


def place(part: Part, config: PartConfig, pool: Pool, indices: NDArray[np.intp], generator: Generator) -> Places:
    """Where the crops of a training batch lie: one matrix a face.

    Args:
        part: the network and its task.
        config: its training.
        pool: the faces.
        indices: (N,) of them.
        generator: source of randomness, on the CPU.
    """
    n, size = len(indices), part.net.input_px
    chosen = torch.from_numpy(indices)
    points, anchors = pool.points[chosen], pool.anchors[chosen]
    mirror = torch.rand(n, generator=generator) < config.flip
    # An eye may be labelled on one side only: that side is taken, mirrored if need be.
    own, other = (~torch.isnan(points[:, ids]).all(dim=2).all(dim=1) for ids in (part.members, part.mirrored))
    mirror = torch.where(own & other, mirror, other)[:, None, None]
    wanted = torch.where(mirror, points[:, part.mirrored], points[:, part.members])
    placing = torch.where(mirror, anchors[:, part.mirrored], anchors[:, part.members])
    if part.boxed:
        placing = pool.given[chosen][:, [0, 1, 2, 1, 2, 3, 0, 3]].unflatten(1, (4, 2))
    frames = jittered_frames(placing, pool.rolls[chosen], config.jitter, part.margin, size, generator)
    frames = torch.where(mirror, geometry.flip_frames(frames, size), frames)
    targets = part.targets(geometry.apply(geometry.invert(frames), wanted) / size)
    face = torch.ones(n)
    without = round(n * config.non_faces)
    if without:
        # The last of the batch: they are drawn in random order anyway.
        frames[-without:] = non_face_frames(geometry.tight_box(anchors[-without:]), size, generator)
        targets[-without:] = torch.nan
        face[-without:] = 0.0
    return Places(frames, targets, face)


class Batch(NamedTuple):
    """One process's share of a training batch.

    Attributes:
        images: (n, 3, s, s) float crops in [0, 255].
        targets: (n, outputs, 2), crop-unit frame, NaN without a label.
        face: (n,) 1 where the crop shows a face.
    """

    images: Tensor
    targets: Tensor
    face: Tensor


def draw_batch(
    part: Part,
    config: PartConfig,
    pool: Pool,
    indices: NDArray[np.intp],
    generator: Generator,
    *,
    share: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
) -> Batch:
    """A training batch: one matrix a face, one resampling, then the pixels' own variations.

    Where crops lie is drawn for the whole batch, and so is every other random number; only the pixels of this
    process's share are touched.

    Args:
        part: the network and its task.
        config: its training.
        pool: the faces.
        indices: (N,) of the whole batch.
        generator: of this step, on the CPU.
        share: this process's number and the number of processes, which divides N.
        device: where the pixels are worked on.
    """
    frames, targets, face = place(part, config, pool, indices, generator)
    n, size = len(indices), part.net.input_px
    kinds = torch.zeros(n, dtype=torch.long)
    if config.ninefold:
        kinds = torch.randint(len(KINDS), (n,), generator=generator)
        moves = ninefold_moves(kinds, size, generator)
        frames = geometry.compose(frames, moves)
        targets = geometry.apply(geometry.invert(moves), targets * size) / size
    mine = slice(n * share[0] // share[1], n * (share[0] + 1) // share[1])
    images = pool.read(indices[mine], frames[mine], size, device)
    images = photometric(images, config.photometric, generator, total=n, start=mine.start)
    if config.ninefold:
        images = ninefold_pixels(images, kinds, generator, start=mine.start)
    return Batch(images, targets[mine].to(device), face[mine].to(device))


def parts_of(recipe: Recipe, scheme: Scheme) -> dict[str, tuple[Part, PartConfig]]:
    """The networks of a recipe that are trained, by name: ``first``, ``coarse``, ``boxes`` and ``regions.<region>``.

    A mirrored region is not among them: it takes its partner's network.
    """
    model, everything = recipe.model, list(range(len(scheme)))
    found = {}
    if model.first is not None:
        first = replace(Part.of("first", model.first, model.margin, everything, scheme), judges=True)
        found["first"] = (first, recipe.first)
    judges = model.first is None and model.coarse.design is None
    coarse = Part.of("coarse", model.coarse, model.margin, everything, scheme)
    found["coarse"] = (replace(coarse, judges=judges, boxed=model.whole_picture), recipe.coarse)
    if model.boxes is not None:
        groups = tuple(list(scheme.region(name)) for name in model.regions)
        part = Part("boxes", model.boxes, model.margin, everything, list(scheme.flip), groups)
        found["boxes"] = (part, recipe.boxes)
    for name in sorted(recipe.regions):
        found[f"regions.{name}"] = (region_part(model, name, scheme), recipe.regions[name])
    return found


def region_part(model: CascadeConfig, region: str, scheme: Scheme) -> Part:
    """The specialist of a region; one that sees its region mirrored speaks of its partner's points."""
    config = model.regions[region]
    source = scheme.flip_region(region)[0] if config.mirror else region
    return Part.of(f"regions.{region}", config.net, config.margin, list(scheme.region(source)), scheme)
