"""The cascade: stage one on the face, specialists on its regions, and the face put together again.

Everything here happens in the *canvas* frame: the px of the working crops (see :mod:`cascade_kp.geometry`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import nn

from cascade_kp import geometry
from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.heads import KeypointNet, Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from cascade_kp.config import CascadeConfig, RegionConfig
    from cascade_kp.schemes import Scheme

__all__ = ["Cascade", "CascadeOutput", "RegionBoxes", "Specialist", "Stage", "StageOne", "Stages"]

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
        reference: (K, 2) mean upright shape of the training faces, in units of the face box's longer side.
        sigma_scale: (K,) calibration of the predicted distances, fitted on validation data.
    """

    def __init__(self, config: CascadeConfig, keypoints: int) -> None:
        super().__init__()
        self.margin = config.margin
        self.passes = config.passes
        self.net = KeypointNet(config.coarse, keypoints, face_score=True)
        self.register_buffer("reference", torch.zeros(keypoints, 2))
        self.register_buffer("sigma_scale", torch.ones(keypoints))
        self.reference: Tensor
        self.sigma_scale: Tensor

    def frames(self, boxes: Tensor, angles: Tensor) -> Tensor:
        """Crops of face boxes, (N, 4) px and (N,) radians -> (N, 2, 3) crop px -> canvas px."""
        return geometry.face_frames(boxes, angles, self.margin, self.net.config.input_px)

    def frames_of_points(self, points: Tensor) -> Tensor:
        """Crops of faces whose keypoints are known, (N, K, 2) px -> (N, 2, 3): upright, round their tight box."""
        angles = geometry.roll_angle(points, self.reference)
        origin = torch.zeros_like(points[:, 0])
        unit = torch.ones_like(angles)
        level = geometry.square_frames(origin, unit, angles, 1)  # rotation only
        boxes = geometry.tight_box(geometry.apply(geometry.invert(level), points))
        frames = geometry.face_frames(boxes, torch.zeros_like(angles), self.margin, self.net.config.input_px)
        return geometry.compose(level, frames)

    def forward(self, images: Tensor, boxes: Tensor, angles: Tensor) -> tuple[Tensor, Prediction]:
        """Find every keypoint.

        Args:
            images: (N, 3, S, S) float RGB in [0, 255], canvases.
            boxes: (N, 4) xyxy px, canvas frame.
            angles: (N,) radians, roll of each face as far as it is known.

        Returns:
            (N, 2, 3) the last pass's frames, crop px -> canvas px, and its prediction in crop units. The face
            logit is the first pass's: it judges the box that was given.
        """
        size = self.net.config.input_px
        frames = self.frames(boxes, angles)
        prediction: Prediction = self.net(geometry.sample(images, frames, size))
        face = prediction.face
        for _ in range(self.passes - 1):
            frames = self.frames_of_points(geometry.apply(frames, prediction.points * size))
            prediction = self.net(geometry.sample(images, frames, size))
        return frames, prediction._replace(face=face)


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

    def frames(self, stage_one: Tensor, boxes: Tensor) -> Tensor:
        """Crops of region boxes.

        Args:
            stage_one: (N, 2, 3) stage-one crop px -> canvas px; the region is cropped at this frame's angle.
            boxes: (N, 4) xyxy px of the stage-one crop.

        Returns:
            (N, 2, 3) region crop px -> canvas px, mirrored if the region is.
        """
        size = self.config.net.input_px
        frames = geometry.face_frames(boxes, torch.zeros_like(boxes[:, 0]), self.config.margin, size)
        if self.config.mirror:
            frames = geometry.flip_frames(frames, size)
        return geometry.compose(stage_one, frames)


class Cascade(nn.Module):
    """Stage one and specialists joined. Tensor names: ``coarse.*``, ``boxes.*``, ``regions.<region>.*``."""

    def __init__(self, config: CascadeConfig, scheme: Scheme) -> None:
        super().__init__()
        self.config = config
        self.scheme = scheme
        self.coarse = StageOne(config, len(scheme))
        self.boxes = KeypointNet(config.boxes, 2 * len(config.regions)) if config.boxes is not None else None
        self.regions = nn.ModuleDict()
        self._members: dict[str, list[int]] = {}
        self._order: dict[str, list[int]] = {}
        for name, region in config.regions.items():
            members = list(scheme.region(name))
            partner, _ = scheme.flip_region(name)
            if region.mirror and partner == name:
                raise ConfigError(f"regions.{name}.mirror: expected a region with a partner on the other side")
            self.regions[name] = Specialist(region, len(members))
            self._members[name] = members
            # Where in the network's (mirrored) output each of the region's points stands.
            self._order[name] = list(scheme.flip_region(partner)[1]) if region.mirror else list(range(len(members)))

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
        for name in said.refined:
            members = self._members[name]
            points[:, members], sigma[:, members] = self.fuse(
                name,
                said.coarse[:, members],
                said.coarse_sigma[:, members],
                said.refined[name],
                said.refined_sigma[name],
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
            for i, name in enumerate(self.regions if refine else ()):
                refined[name], refined_sigma[name] = self._specialist(name, images, frames, crops[:, i])
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
        share = module.fusion
        log_sigma = torch.lerp(coarse_sigma.log(), refined_sigma.log(), share)
        return torch.lerp(coarse, refined, share[:, None]), log_sigma.exp() * module.sigma_scale

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
        return torch.stack([geometry.tight_box(inside[:, self._members[name]]) for name in self.regions], dim=1)

    def _specialist(self, name: str, images: Tensor, frames: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """One specialist's own answer, (N, k, 2) px and (N, k) px, canvas frame, in the region's order."""
        module = self.specialist(name)
        size = module.config.net.input_px
        crops = module.frames(frames, box)
        points, sigma = self._to_canvas(crops, module.net(geometry.sample(images, crops, size)), size)
        order = self._order[name]
        return points[:, order], sigma[:, order]

    @staticmethod
    def _to_canvas(frames: Tensor, prediction: Prediction, size: int) -> tuple[Tensor, Tensor]:
        points = geometry.apply(frames, prediction.points * size)
        side = torch.linalg.vector_norm(frames[:, :, 0], dim=-1) * size  # of the crop, canvas px
        return points, prediction.log_sigma.exp() * side[:, None]
