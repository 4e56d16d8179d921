"""The cascade: stage one on the face, specialists on its regions, and the face put together again.

Everything here happens in the *canvas* frame: the px of the working crops (see :mod:`cascade_kp.geometry`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import nn

from cascade_kp import geometry
from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.heads import KeypointNet, Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cascade_kp.config import CascadeConfig, RegionConfig
    from cascade_kp.schemes import Scheme

__all__ = [
    "ABSURD",
    "SURE",
    "TIE",
    "TURNS",
    "VIEWS",
    "Cascade",
    "CascadeOutput",
    "RegionBoxes",
    "Specialist",
    "Stage",
    "StageOne",
    "Stages",
]

# Angles at which a face is sought of which the first pass is not sure.
TURNS = 8
# Logit of a face below which it is sought at other angles: chosen on validation faces at every angle.
SURE = 6.0
# Logits nearer than this are equal: on a plain wall all turns look alike, and none is to be liked for its rounding.
TIE = 1e-3
# How much larger or smaller than its crop a face may turn out to be: an answer beyond is not to be trusted.
ABSURD = 2.0
# Where further views of a crop lie, in sides of the crop. Opposite ones come in pairs: the views' middle is the crop.
_STEP = 0.02
VIEWS = ((0.0, 0.0), (_STEP, _STEP), (-_STEP, -_STEP), (_STEP, -_STEP), (-_STEP, _STEP))

Stage = Literal["coarse", "regions"]
RegionBoxes = Literal["points", "boxes"]


class CascadeOutput(NamedTuple):
    """What a cascade says about N faces, canvas frame.

    Attributes:
        keypoints: (N, K, 2) px.
        sigma: (N, K) px, radius that holds 68 % of the errors of such a point.
        coarse: (N, K, 2) px, stage one's answer.
        face: (N,) probability that the box holds a face.
    """

    keypoints: Tensor
    sigma: Tensor
    coarse: Tensor
    face: Tensor


class Stages(NamedTuple):
    """What every network of a cascade says for itself about N faces, canvas frame unless said otherwise.

    Attributes:
        frames: (N, 2, 3) stage one's last crop px -> canvas px.
        face: (N,) logit of a face.
        coarse: (N, K, 2) px.
        coarse_sigma: (N, K) px, not calibrated.
        boxes: (N, R, 4) xyxy px of stage one's crop, where the regions were cropped.
        refined: by region (N, k, 2) px.
        refined_sigma: by region (N, k) px, not calibrated.
    """

    frames: Tensor
    face: Tensor
    coarse: Tensor
    coarse_sigma: Tensor
    boxes: Tensor
    refined: dict[str, Tensor]
    refined_sigma: dict[str, Tensor]


class StageOne(nn.Module):
    """The network that sees the whole face, with the shape it takes as upright.

    Attributes:
        net: the network of the last pass.
        first: the network of the passes before, if it is another one.
        reference: (K, 2) mean upright shape of the training faces, in units of the face box's longer side.
        sigma_scale: (K,) calibration of the predicted distances, fitted on validation data.
        first_scale: (K,) the same of ``first``, if there is one.
    """

    def __init__(self, config: CascadeConfig, scheme: Scheme) -> None:
        super().__init__()
        keypoints = len(scheme)
        self.margin = config.margin
        self.passes = config.passes
        self.look_again = config.look_again
        self.both_ways = config.both_ways
        self.views = config.views
        self.net = KeypointNet(config.coarse, keypoints, face_score=config.first is None)
        self.first = KeypointNet(config.first, keypoints, face_score=True) if config.first is not None else None
        self.register_buffer("reference", torch.zeros(keypoints, 2))
        self.register_buffer("sigma_scale", torch.ones(keypoints))
        if config.first is not None:
            self.register_buffer("first_scale", torch.ones(keypoints))
        self.reference: Tensor
        self.sigma_scale: Tensor
        self.first_scale: Tensor
        self.flip = list(scheme.flip)

    @property
    def judge(self) -> tuple[KeypointNet, Tensor]:
        """The network that sees a box first, and says whether it holds a face; and its (K,) calibration."""
        return (self.net, self.sigma_scale) if self.first is None else (self.first, self.first_scale)

    def frames(self, boxes: Tensor, angles: Tensor, size: int | None = None) -> Tensor:
        """Crops of face boxes.

        Args:
            boxes: (N, 4) xyxy px.
            angles: (N,) radians.
            size: side of the crops, px; that of the network of the last pass by default.

        Returns:
            (N, 2, 3) crop px -> canvas px.
        """
        return geometry.face_frames(boxes, angles, self.margin, size or self.net.config.input_px)

    def frames_of_points(self, points: Tensor, size: int | None = None) -> Tensor:
        """Crops of faces whose keypoints are known, (N, K, 2) px -> (N, 2, 3): upright, round their tight box."""
        return geometry.upright_frames(points, self.reference, self.margin, size or self.net.config.input_px)

    def forward(self, images: Tensor, boxes: Tensor, angles: Tensor) -> tuple[Tensor, Prediction]:
        """Find every keypoint.

        Args:
            images: (N, 3, S, S) float RGB in [0, 255], canvases.
            boxes: (N, 4) xyxy px, canvas frame.
            angles: (N,) radians, roll of each face as far as it is known.

        Returns:
            (N, 2, 3) the last pass's frames, crop px -> canvas px, and its prediction in crop units. The face
            logit is the first pass's: it judges the box that was given, at the turn that it likes best.
        """
        net = self.net if self.first is None else self.first
        size = net.config.input_px
        frames = self.frames(boxes, angles, size)
        prediction = self._look(net, images, frames, last=self.passes == 1)
        frames, prediction = self._sought(net, images, boxes, angles, frames, prediction)
        judged = prediction.face
        for left in range(self.passes - 1, 0, -1):
            points = geometry.apply(frames, prediction.points * net.config.input_px)
            net = net if left > 1 else self.net
            frames = self.frames_of_points(points, net.config.input_px)
            prediction = self._look(net, images, frames, last=left == 1)
        if self.look_again:
            frames, prediction = self._reframed(images, frames, prediction)
        return frames, prediction._replace(face=judged)

    def _look(self, net: KeypointNet, images: Tensor, frames: Tensor, *, last: bool) -> Prediction:
        """What a network says of (N, 2, 3) crops; in the last pass it may look several times."""
        size = net.config.input_px
        seen = geometry.sample(images, view_frames(frames, size, self.views if last else 1), size)
        return asked(net, seen, self.flip if last and self.both_ways else None)

    def _sought(
        self, net: KeypointNet, images: Tensor, boxes: Tensor, angles: Tensor, frames: Tensor, said: Prediction
    ) -> tuple[Tensor, Prediction]:
        """Faces that the first pass takes for none may stand on their side or head: the turn it likes best is taken."""
        lost = (said.face < SURE).nonzero()[:, 0]
        if not len(lost) or net.config.design is not None:  # a design likes no turn better than another
            return frames, said
        size = net.config.input_px
        best = [frames[lost], said.points[lost], said.log_sigma[lost], said.face[lost]]
        for turn in range(1, TURNS):
            crops = self.frames(boxes[lost], angles[lost] + turn * (2 * math.pi / TURNS), size)
            other = self._look(net, images[lost], crops, last=False)
            better = other.face > best[3] + TIE
            found = (crops, other.points, other.log_sigma, other.face)
            best = [torch.where(better.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(found, best, strict=True)]
        chosen = Prediction(*best[1:])
        if self.passes == 1 and (self.views > 1 or self.both_ways):  # sought by single looks
            chosen = self._look(net, images[lost], best[0], last=True)
        return _replaced(frames, said, lost, best[0], chosen)

    def _reframed(self, images: Tensor, frames: Tensor, said: Prediction) -> tuple[Tensor, Prediction]:
        """Faces that turn out to lie amiss in their crop are seen once more, upright."""
        size = self.net.config.input_px
        upright = self.frames_of_points(geometry.apply(frames, said.points * size), size)
        corners = frames.new_tensor([[[0, 0], [size, 0], [0, size], [size, size]]])
        amiss = torch.linalg.vector_norm(geometry.apply(upright - frames, corners), dim=-1).amax(dim=1)
        side, other = (torch.linalg.vector_norm(crops[:, :, 0], dim=-1) * size for crops in (frames, upright))
        trusted = (other < ABSURD * side) & (side < ABSURD * other)
        again = ((amiss > self.look_again * side) & trusted).nonzero()[:, 0]
        if not len(again):
            return frames, said
        better = self._look(self.net, images[again], upright[again], last=True)
        return _replaced(frames, said, again, upright[again], better)


def _replaced(
    frames: Tensor, said: Prediction, chosen: Tensor, others: Tensor, answers: Prediction
) -> tuple[Tensor, Prediction]:
    """Crops and answers, those of some faces by others."""
    before = (frames, said.points, said.log_sigma, said.face)
    after = (others, answers.points, answers.log_sigma, answers.face)
    crops, *rest = (a.index_copy(0, chosen, b) for a, b in zip(before, after, strict=True))
    return crops, Prediction(*rest)


def both_ways(net: KeypointNet, crops: Tensor, flip: list[int]) -> Prediction:
    """A network's answer about crops and about their mirror images, averaged.

    Args:
        net: the network.
        crops: (N, 3, s, s) float RGB in [0, 255].
        flip: (k,) for each of its points, which one it is in the mirror.

    Returns:
        A prediction in crop units; the distances as their geometric mean.
    """
    plain: Prediction = net(crops)
    mirrored: Prediction = net(crops.flip(-1))
    points = (plain.points + geometry.mirror_points(mirrored.points, 1.0, flip)) / 2
    log_sigma = (plain.log_sigma + mirrored.log_sigma[:, flip]) / 2
    return Prediction(points, log_sigma, (plain.face + mirrored.face) / 2)


def view_frames(frames: Tensor, size: int, views: int) -> Tensor:
    """Crops of which a network sees several views: (..., 2, 3) crop px -> source px become (..., views, 2, 3)."""
    several = frames.unsqueeze(-3)
    if views == 1:
        return several
    moved = frames.new_tensor(VIEWS[:views]) * size
    shift = several[..., 2] + (several[..., :2] * moved[:, None]).sum(dim=-1)
    return torch.cat([several[..., :2].expand(*shift.shape, 2), shift[..., None]], dim=-1)


def asked(net: KeypointNet, seen: Tensor, flip: list[int] | None) -> Prediction:
    """A network's answer about crops of which it sees some views, and perhaps their mirror images: the mean.

    Args:
        net: the network.
        seen: (N, views, 3, s, s) float RGB in [0, 255], as :func:`view_frames` places them.
        flip: as of :func:`both_ways`; None does not ask about mirror images.

    Returns:
        A prediction in units of the crop that all views are of; the distances as their geometric mean.
    """
    crops = seen.flatten(0, 1)
    said: Prediction = net(crops) if flip is None else both_ways(net, crops, flip)
    views = seen.shape[1]
    if views == 1:
        return said
    points, log_sigma, face = (value.unflatten(0, (-1, views)) for value in said[:3])
    moved = points.new_tensor(VIEWS[:views])[:, None]
    return Prediction((points + moved).mean(dim=1), log_sigma.mean(dim=1), face.mean(dim=1))


def region_frames(stage_one: Tensor, boxes: Tensor, regions: Sequence[RegionConfig]) -> Tensor:
    """Crops of region boxes, at the angle of stage one's crop.

    Args:
        stage_one: (N, 2, 3) stage-one crop px -> canvas px.
        boxes: (N, R, 4) xyxy px of the stage-one crop.
        regions: R configurations: margin, and whether the crop is mirrored.

    Returns:
        (N, R, 2, 3) region crop units -> canvas px.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    side = (high - low).amax(dim=-1) * boxes.new_tensor([region.margin for region in regions])
    mirror = boxes.new_tensor([[-1.0 if region.mirror else 1.0, 1.0] for region in regions])
    linear = stage_one[:, None, :, :2] * (side[..., None] * mirror)[:, :, None]
    centre = geometry.apply(stage_one, (low + high) / 2)
    return torch.cat([linear, (centre - linear.sum(dim=-1) / 2)[..., None]], dim=-1)


def _fused(
    coarse: Tensor, coarse_sigma: Tensor, refined: Tensor, refined_sigma: Tensor, share: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """As :meth:`Cascade.fuse`, with each point's (k,) share of the specialist and scale of sigma."""
    log_sigma = torch.lerp(coarse_sigma.log(), refined_sigma.log(), share)
    return torch.lerp(coarse, refined, share[:, None]), log_sigma.exp() * scale


class Specialist(nn.Module):
    """The network of one region, and how much it is believed.

    Attributes:
        fusion: (k,) share of the specialist in the fused point; the rest is stage one's. Fitted on validation data.
        sigma_scale: (k,) calibration of the fused points' predicted distances.
    """

    def __init__(self, config: RegionConfig, keypoints: int) -> None:
        super().__init__()
        self.config = config
        self.net = KeypointNet(config.net, keypoints)
        self.register_buffer("fusion", torch.ones(keypoints))
        self.register_buffer("sigma_scale", torch.ones(keypoints))
        self.fusion: Tensor
        self.sigma_scale: Tensor


class _Where(NamedTuple):
    """Indices of the specialists' P points, which stand one region after another; and of the scheme's.

    Attributes:
        said_at: (P,) where the networks say each of them: one that sees its region mirrored has its partner's order.
        region_of: (P,)
        every: (P,) which of the scheme's points they are.
        corners: (R, k) members of each region, the first of them repeated where a region has fewer.
    """

    said_at: Tensor
    region_of: Tensor
    every: Tensor
    corners: Tensor

    @staticmethod
    def of(members: list[list[int]], order: list[int], device: torch.device) -> _Where:
        """Of the regions' members, and where each is said."""
        every = [member for region in members for member in region]
        widest = max(map(len, members), default=0)
        tables = (
            order,
            [i for i, region in enumerate(members) for _ in region],
            every,
            [region + region[:1] * (widest - len(region)) for region in members],
        )
        return _Where(*(torch.tensor(table, dtype=torch.long, device=device) for table in tables))


class Cascade(nn.Module):
    """Stage one and specialists joined. Tensor names: ``coarse.*``, ``boxes.*``, ``regions.<region>.*``."""

    def __init__(self, config: CascadeConfig, scheme: Scheme) -> None:
        super().__init__()
        self.config = config
        self.scheme = scheme
        self.coarse = StageOne(config, scheme)
        self.boxes = KeypointNet(config.boxes, 2 * len(config.regions)) if config.boxes is not None else None
        self.regions = nn.ModuleDict()
        self.members: dict[str, list[int]] = {}
        self.mirror: dict[str, list[int]] = {}  # of the regions that are their own mirror image, where that is used
        order: list[int] = []
        for name, region in config.regions.items():
            members = list(scheme.region(name))
            partner, _ = scheme.flip_region(name)
            if region.mirror and partner == name:
                raise ConfigError(f"regions.{name}.mirror: expected a region with a partner on the other side")
            self.regions[name] = Specialist(region, len(members))
            self.members[name] = members
            # A network that sees its region mirrored says the points in its partner's order.
            own = scheme.flip_region(partner)[1] if region.mirror else range(len(members))
            order += [len(order) + i for i in own]
            if config.both_ways and partner == name:
                self.mirror[name] = list(scheme.flip_region(name)[1])
        self._where: dict[torch.device, _Where] = {}
        self.order = order

    def _places(self, device: torch.device) -> _Where:
        """Made once for a device. No buffers: a model is built without memory and then filled from its file."""
        if device not in self._where:
            with torch.inference_mode(mode=False):  # made in it, they could not be used in training afterwards
                self._where[device] = _Where.of(list(self.members.values()), self.order, device)
        return self._where[device]

    def forward(
        self,
        images: Tensor,
        boxes: Tensor,
        angles: Tensor | None = None,
        *,
        stage: Stage = "regions",
        oracle: Tensor | None = None,
        region_boxes: RegionBoxes | None = None,
    ) -> CascadeOutput:
        """Find the keypoints of N faces.

        Args:
            images: (N, 3, S, S) float RGB in [0, 255], canvases.
            boxes: (N, 4) xyxy px, canvas frame.
            angles: (N,) radians, roll of each face as far as it is known; default 0.
            stage: ``coarse`` stops after stage one.
            oracle: (N, K, 2) px, true keypoints, canvas frame: regions are cropped round these instead of round
                predictions, to see what better crops would be worth.
            region_boxes: where the regions are cropped, as in the configuration, which it overrides.

        Returns:
            Points and uncertainties, canvas frame.

        Raises:
            InputError: an unknown stage, or boxes from a network that the model does not have.
        """
        if stage not in ("coarse", "regions"):
            raise InputError(f"stage: expected 'coarse' or 'regions', got {stage!r}")
        regions = stage == "regions"
        said = self.stages(images, boxes, angles, oracle=oracle, region_boxes=region_boxes, regions=regions)
        points, sigma = said.coarse.clone(), said.coarse_sigma * self.coarse.sigma_scale
        if said.refined:
            where = self._places(points.device)
            modules = [self.specialist(name) for name in said.refined]
            points[:, where.every], sigma[:, where.every] = _fused(
                said.coarse[:, where.every],
                said.coarse_sigma[:, where.every],
                torch.cat(list(said.refined.values()), dim=1),
                torch.cat(list(said.refined_sigma.values()), dim=1),
                torch.cat([module.fusion for module in modules]),
                torch.cat([module.sigma_scale for module in modules]),
            )
        return CascadeOutput(points, sigma, said.coarse, said.face.sigmoid())

    def stages(
        self,
        images: Tensor,
        boxes: Tensor,
        angles: Tensor | None = None,
        *,
        oracle: Tensor | None = None,
        region_boxes: RegionBoxes | None = None,
        regions: bool = True,
        refine: bool = True,
    ) -> Stages:
        """What every network says for itself, before anything is fused or calibrated.

        Arguments as of a call; without ``regions`` stage one is all, without ``refine`` the regions are cropped but no
        specialist runs.
        """
        angles = torch.zeros_like(boxes[:, 0]) if angles is None else angles
        frames, prediction = self.coarse(images, boxes, angles)
        coarse, coarse_sigma = self._to_canvas(frames, prediction, self.config.coarse.input_px)
        refined: dict[str, Tensor] = {}
        refined_sigma: dict[str, Tensor] = {}
        crops = coarse.new_zeros((len(coarse), 0, 4))
        if regions and self.regions:
            crops = self._region_boxes(images, frames, coarse, oracle, region_boxes or self.config.region_boxes)
            if refine:
                refined, refined_sigma = self._refine(images, frames, crops)
        if self.config.label_offset:
            shift = (frames[:, :, 0] * (self.config.coarse.input_px * self.config.label_offset))[:, None]
            coarse, refined = coarse + shift, {name: points + shift for name, points in refined.items()}
        return Stages(frames, prediction.face, coarse, coarse_sigma, crops, refined, refined_sigma)

    def fuse(
        self, name: str, coarse: Tensor, coarse_sigma: Tensor, refined: Tensor, refined_sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stage one's and a specialist's answer for one region become one.

        Args:
            name: of the region.
            coarse: (N, k, 2) px.
            coarse_sigma: (N, k) px, as the network says it.
            refined: (N, k, 2) px.
            refined_sigma: (N, k) px, likewise.

        Returns:
            (N, k, 2) px and calibrated (N, k) px.
        """
        module = self.specialist(name)
        return _fused(coarse, coarse_sigma, refined, refined_sigma, module.fusion, module.sigma_scale)

    def specialist(self, name: str) -> Specialist:
        """The network of one region."""
        return cast("Specialist", self.regions[name])

    def _region_boxes(
        self, images: Tensor, frames: Tensor, coarse: Tensor, oracle: Tensor | None, source: RegionBoxes
    ) -> Tensor:
        """(N, R, 4) xyxy px of the stage-one crop: from true points, the box network, or stage one's points."""
        if oracle is None and source == "boxes":
            if self.boxes is None:
                raise InputError("region_boxes: expected 'points', as this model has no box network, got 'boxes'")
            # The box network sees stage one's crop, at its own resolution.
            full, size = self.config.coarse.input_px, self.boxes.config.input_px
            scale = frames.new_tensor([full / size, full / size, 1.0])
            corners = self.boxes(geometry.sample(images, frames * scale, size))
            return geometry.tight_box((corners.points * full).unflatten(1, (-1, 2)))
        inside = geometry.apply(geometry.invert(frames), coarse if oracle is None else oracle)
        members = inside[:, self._places(images.device).corners]
        # True points may be missing; predicted ones are all there.
        return geometry.tight_box(members) if oracle is not None else torch.cat(torch.aminmax(members, dim=2), dim=-1)

    def _refine(self, images: Tensor, frames: Tensor, boxes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every specialist's own answer by region: (N, k, 2) px and (N, k) px, canvas frame."""
        configs = {name: self.specialist(name).config for name in self.regions}
        crops = region_frames(frames, boxes, list(configs.values()))
        said: dict[str, Prediction] = {}
        for size in dict.fromkeys(config.net.input_px for config in configs.values()):
            chosen = [i for i, config in enumerate(configs.values()) if config.net.input_px == size]
            taken = crops if len(chosen) == len(configs) else crops[:, chosen]
            views = view_frames(taken * crops.new_tensor([1 / size, 1 / size, 1.0]), size, self.config.views)
            seen = geometry.sample(images, views.flatten(1, 2), size).unflatten(1, views.shape[1:3])
            for place, name in enumerate(name for name, config in configs.items() if config.net.input_px == size):
                said[name] = asked(self.specialist(name).net, seen[:, place], self.mirror.get(name))
        # All regions' points at once: on a CPU, a small operation costs its call, however little there is to do.
        where = self._places(images.device)
        points = torch.cat([said[name].points for name in configs], dim=1)[:, where.said_at]
        log_sigma = torch.cat([said[name].log_sigma for name in configs], dim=1)[:, where.said_at]
        crops = crops[:, where.region_of]
        points = (crops[..., :2] * points[:, :, None]).sum(dim=-1) + crops[..., 2]
        sigma = log_sigma.exp() * torch.linalg.vector_norm(crops[..., 0], dim=-1)
        counts = [len(self.members[name]) for name in configs]
        split = (dict(zip(configs, all_of.split(counts, dim=1), strict=True)) for all_of in (points, sigma))
        return next(split), next(split)

    @staticmethod
    def _to_canvas(frames: Tensor, prediction: Prediction, size: int) -> tuple[Tensor, Tensor]:
        points = geometry.apply(frames, prediction.points * size)
        side = torch.linalg.vector_norm(frames[:, :, 0], dim=-1) * size  # of the crop, canvas px
        return points, prediction.log_sigma.exp() * side[:, None]
