from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import load_scheme

SCHEME = load_scheme("ibug68")
TRUNK = TrunkConfig(width=4, stages=3)
COARSE = NetConfig(input_px=48, trunk=TRUNK, head_width=8, head_stride=8)
SMALL = NetConfig(input_px=32, trunk=TRUNK, head_width=8, head_stride=4)
BOXES = NetConfig(input_px=32, trunk=TRUNK, head="direct", head_width=4)
REGIONS = {
    "right_eye": RegionConfig(net=SMALL),
    "left_eye": RegionConfig(net=SMALL, mirror=True),
    "nose": RegionConfig(net=SMALL),
    "mouth": RegionConfig(net=SMALL, margin=1.3),
}
POINTS = CascadeConfig(coarse=COARSE, regions=REGIONS)
IN_BOXES = dataclasses.replace(POINTS, boxes=BOXES, region_boxes="boxes")
JAW = list(SCHEME.region("jaw"))
SIZE = 96
NEAR = {"atol": 1e-3, "rtol": 0}
# Unit coordinates round differently elsewhere or on another canvas, and a network of random weights makes much of it.
ROUNDED = {"atol": 0.01, "rtol": 0}


def make(config=POINTS, seed=0):
    """A cascade whose networks say something: weights are random, points lie far apart and depend on the pixels."""
    torch.manual_seed(seed)
    cascade = Cascade(config, SCHEME).eval().requires_grad_(requires_grad=False)
    face = torch.from_numpy(mean_face()).float()
    box = geometry.tight_box(face)
    cascade.coarse.reference.copy_((face - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2]).max())
    for name, module in cascade.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith("head.heat"):
            nn.init.normal_(module.weight, std=1.5)
        if isinstance(module, nn.Linear) and name.endswith("head.points"):
            nn.init.normal_(module.weight, std=0.03)
    if cascade.boxes is not None:  # two corners a region, by and large where they should be
        cascade.boxes.head.points.bias.copy_(torch.tensor([0.2, 0.3, 0.7, 0.8]).repeat(len(config.regions)))
    if config.regions.get("left_eye", REGIONS["nose"]).mirror:
        cascade.regions["left_eye"].net.load_state_dict(cascade.regions["right_eye"].net.state_dict())
    return cascade


def faces(n=3, seed=1, size=SIZE):
    """Pictures with detail everywhere, boxes and true points."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand((n, 3, 12, 12), generator=generator) * 255
    images = nn.functional.interpolate(rough, size=(size, size), mode="bicubic").clamp(0, 255)
    centre = torch.rand((n, 1, 2), generator=generator) * 10 + size / 2 - 5
    points = torch.from_numpy(mean_face()).float() * 28 + centre - torch.tensor([0.0, 10.0])
    points = points + torch.randn(points.shape, generator=generator)
    return images, geometry.tight_box(points), points


@torch.inference_mode()
def run(cascade, images, boxes, *args, **kwargs):
    return cascade(images, boxes, *args, **kwargs)


class TestTheTestsCascade:
    def test_says_something(self):
        # Were all points one point, no mistake in their order could show.
        images, boxes, _ = faces()
        said = make().stages(images, boxes)
        assert said.coarse.std(dim=1).min() > 2
        for points in said.refined.values():
            assert points.std(dim=1).min() > 0.5
        other = make().stages(images.flip(0), boxes)
        assert (said.coarse - other.coarse).abs().max() > 0.5
        assert (said.refined["nose"] - other.refined["nose"]).abs().max() > 0.5


class TestNames:
    def test_without_regions(self):
        cascade = make(CascadeConfig(coarse=COARSE))
        assert {name.split(".")[0] for name in cascade.state_dict()} == {"coarse"}
        images, boxes, _ = faces()
        said = run(cascade, images, boxes)
        assert torch.equal(said.keypoints, said.coarse)

    def test_everything_of_a_region_lies_under_it(self):
        for config, parts in ((POINTS, {"coarse", "regions"}), (IN_BOXES, {"coarse", "boxes", "regions"})):
            names = list(make(config).state_dict())
            assert {name.split(".")[0] for name in names} == parts
            inside = [name.split(".") for name in names if name.startswith("regions.")]
            assert {parts[1] for parts in inside} == set(REGIONS)
            for region in REGIONS:
                own = {parts[2] for parts in inside if parts[1] == region}
                assert own == {"net", "fusion", "sigma_scale"}

    def test_the_box_network_has_four_numbers_a_region(self):
        assert make(IN_BOXES).boxes.head.points.out_features == 16

    def test_outputs(self):
        images, boxes, _ = faces()
        for config in (POINTS, IN_BOXES):
            said = run(make(config), images, boxes)
            assert said.keypoints.shape == said.coarse.shape == (3, 68, 2)
            assert said.sigma.shape == (3, 68)
            assert said.face.shape == (3,)
            assert ((said.face > 0) & (said.face < 1)).all()
            assert (said.sigma > 0).all()
            assert torch.isfinite(said.keypoints).all()

    def test_a_region_on_the_midline_cannot_be_mirrored(self):
        config = CascadeConfig(coarse=COARSE, regions={"nose": RegionConfig(net=SMALL, mirror=True)})
        with pytest.raises(ConfigError, match=r"regions.nose.mirror: expected a region with a partner"):
            Cascade(config, SCHEME)


class TestStages:
    @pytest.mark.parametrize("config", [POINTS, IN_BOXES], ids=["points", "boxes"])
    @pytest.mark.parametrize("with_oracle", [False, True])
    def test_the_jaw_stays_stage_ones(self, config, with_oracle):
        images, boxes, points = faces()
        said = run(make(config), images, boxes, oracle=points if with_oracle else None)
        assert torch.equal(said.keypoints[:, JAW], said.coarse[:, JAW])
        inner = [i for i in range(68) if i not in JAW]
        assert (said.keypoints[:, inner] != said.coarse[:, inner]).any(dim=-1).all()

    def test_coarse_stops_after_stage_one(self):
        images, boxes, _ = faces()
        cascade = make()
        coarse, whole = run(cascade, images, boxes, stage="coarse"), run(cascade, images, boxes)
        assert torch.equal(coarse.keypoints, coarse.coarse)
        assert torch.equal(coarse.coarse, whole.coarse)
        assert torch.equal(coarse.face, whole.face)
        assert not torch.equal(coarse.keypoints, whole.keypoints)

    def test_unknown(self):
        images, boxes, _ = faces()
        with pytest.raises(InputError, match="stage: expected 'coarse' or 'regions', got 'fine'"):
            run(make(), images, boxes, stage="fine")

    def test_regions_are_cropped_round_stage_ones_points(self):
        images, boxes, _ = faces()
        said = make().stages(images, boxes, torch.tensor([0.0, 0.3, -0.5]))
        inside = geometry.apply(geometry.invert(said.frames), said.coarse)
        for i, name in enumerate(REGIONS):
            torch.testing.assert_close(
                said.boxes[:, i], geometry.tight_box(inside[:, list(SCHEME.region(name))]), **NEAR
            )

    def test_regions_are_cropped_in_the_box_networks_boxes(self):
        images, boxes, _ = faces()
        cascade = make(IN_BOXES)
        said = cascade.stages(images, boxes)
        # The same crop as stage one's, read at the box network's 32 px instead of 48.
        crops = geometry.sample(images, geometry.face_frames(boxes, torch.zeros(3), 1.3, 32), 32)
        corners = cascade.boxes(crops).points * 48  # (N, 8, 2): two corners a region, in the order of the config
        for i in range(4):
            torch.testing.assert_close(said.boxes[:, i], geometry.tight_box(corners[:, 2 * i : 2 * i + 2]), **NEAR)
        plain = Cascade(POINTS, SCHEME).eval()
        plain.load_state_dict({k: v for k, v in cascade.state_dict().items() if not k.startswith("boxes.")})
        assert torch.equal(plain.stages(images, boxes).coarse, said.coarse)

    @pytest.mark.parametrize("config", [POINTS, IN_BOXES], ids=["points", "boxes"])
    def test_oracle_crops_follow_the_true_points(self, config):
        images, boxes, points = faces()
        said = make(config).stages(images, boxes, oracle=points)
        inside = geometry.apply(geometry.invert(said.frames), points)
        for i, name in enumerate(REGIONS):
            members = list(SCHEME.region(name))
            torch.testing.assert_close(said.boxes[:, i], geometry.tight_box(inside[:, members]), **NEAR)
            # A specialist's points are inside its crop, so they follow it.
            true = geometry.tight_box(points[:, members])
            middle, side = (true[:, :2] + true[:, 2:]) / 2, (true[:, 2:] - true[:, :2]).amax(dim=1)
            reach = side * REGIONS[name].margin / 2 + 1e-3
            assert ((said.refined[name] - middle[:, None]).abs().amax(dim=(1, 2)) <= reach).all()
        moved = make(config).stages(images, boxes, oracle=points + torch.tensor([3.0, -2.0]))
        torch.testing.assert_close(moved.boxes[:, 0, :2] - said.boxes[:, 0, :2], _crop_px(said, [3.0, -2.0]), **NEAR)

    def test_a_second_pass_starts_from_the_firsts_answer(self):
        images, boxes, _ = faces()
        once, twice = make(), make(dataclasses.replace(POINTS, passes=2))
        twice.load_state_dict(once.state_dict())
        first, second = once.stages(images, boxes), twice.stages(images, boxes)
        frames = once.coarse.frames_of_points(first.coarse)
        crops = geometry.sample(images, frames, 48)
        expected = geometry.apply(frames, once.coarse.net(crops).points * 48)
        torch.testing.assert_close(second.frames, frames, **NEAR)
        torch.testing.assert_close(second.coarse, expected, **NEAR)
        assert (second.coarse - first.coarse).abs().max() > 0.5
        assert torch.equal(second.face, first.face)  # the box that was given is what is judged


def _crop_px(said, shift):
    return torch.linalg.solve(said.frames[:, :, :2], torch.tensor(shift).expand(3, 2)[..., None])[..., 0]


class TestFramesOfPoints:
    def test_an_upright_face_gives_the_frame_of_its_box(self):
        cascade = make()
        points = torch.from_numpy(mean_face()).float()[None] * 30 + 50
        expected = cascade.coarse.frames(geometry.tight_box(points), torch.zeros(1))
        torch.testing.assert_close(cascade.coarse.frames_of_points(points), expected, **NEAR)

    def test_a_rolled_face_lies_in_its_crop_as_an_upright_one(self):
        cascade = make()
        upright = torch.from_numpy(mean_face()).float()[None] * 30
        angle = torch.tensor([0.7])
        turn = geometry.square_frames(torch.tensor([[60.0, 40.0]]), torch.tensor([1.0]), angle, 1)
        rolled = geometry.apply(turn, upright)
        frames = cascade.coarse.frames_of_points(rolled)
        assert float(geometry.frame_angle(frames)) == pytest.approx(0.7, abs=1e-5)
        expected = geometry.apply(geometry.invert(cascade.coarse.frames_of_points(upright)), upright)
        torch.testing.assert_close(geometry.apply(geometry.invert(frames), rolled), expected, **NEAR)


class TestMirroredRegion:
    def test_the_left_eye_is_the_mirrored_right_eye_of_the_mirrored_picture(self):
        cascade = make()
        images, boxes, points = faces()
        angles = torch.tensor([0.0, 0.25, -0.6])
        mirrored_boxes = torch.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], dim=1)
        mirrored_points = geometry.mirror_points(points, SIZE, SCHEME.flip)
        with torch.inference_mode():
            said = cascade.stages(images, boxes, angles, oracle=points)
            other = cascade.stages(images.flip(-1), mirrored_boxes, -angles, oracle=mirrored_points)
        # Put one region's answer in a whole face, mirror that with the scheme's own permutation, take the other's.
        for mine, partner in (("left_eye", "right_eye"), ("right_eye", "left_eye")):
            face = torch.full((3, 68, 2), torch.nan)
            face[:, list(SCHEME.region(partner))] = other.refined[partner]
            expected = geometry.mirror_points(face, SIZE, SCHEME.flip)[:, list(SCHEME.region(mine))]
            torch.testing.assert_close(said.refined[mine], expected, atol=0.01, rtol=0)
            sigma = torch.full((3, 68), torch.nan)
            sigma[:, list(SCHEME.region(partner))] = other.refined_sigma[partner]
            expected_sigma = sigma[:, list(SCHEME.flip)][:, list(SCHEME.region(mine))]
            torch.testing.assert_close(said.refined_sigma[mine], expected_sigma, atol=0.01, rtol=0)
            # Any two neighbours exchanged would be seen.
            wrong = expected[:, [1, 0, *range(2, 11)]]
            assert (said.refined[mine] - wrong).abs().max() > 0.1

    def test_an_eye_that_is_not_mirrored_does_not_do_that(self):
        regions = REGIONS | {"left_eye": RegionConfig(net=SMALL)}
        cascade = make(dataclasses.replace(POINTS, regions=regions))
        images, boxes, points = faces()
        said = cascade.stages(images, boxes, oracle=points)
        mirrored = torch.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], dim=1)
        other = cascade.stages(images.flip(-1), mirrored, oracle=geometry.mirror_points(points, SIZE, SCHEME.flip))
        _, order = SCHEME.flip_region("right_eye")
        expected = geometry.mirror_points(other.refined["right_eye"], SIZE, order)
        assert (said.refined["left_eye"] - expected).abs().max() > 0.5


class TestFusion:
    def test_none_is_stage_ones_and_all_is_the_specialists(self):
        images, boxes, _ = faces()
        cascade = make()
        cascade.regions["nose"].fusion.zero_()
        cascade.regions["nose"].sigma_scale.fill_(3.0)
        cascade.regions["mouth"].fusion.fill_(0.25)
        said, stages = run(cascade, images, boxes), cascade.stages(images, boxes)
        nose, mouth, eye = (list(SCHEME.region(name)) for name in ("nose", "mouth", "left_eye"))
        torch.testing.assert_close(said.keypoints[:, nose], stages.coarse[:, nose], **NEAR)
        torch.testing.assert_close(said.sigma[:, nose], 3 * stages.coarse_sigma[:, nose])
        torch.testing.assert_close(said.keypoints[:, eye], stages.refined["left_eye"], **NEAR)
        torch.testing.assert_close(said.sigma[:, eye], stages.refined_sigma["left_eye"])
        expected = 0.75 * stages.coarse[:, mouth] + 0.25 * stages.refined["mouth"]
        torch.testing.assert_close(said.keypoints[:, mouth], expected, **NEAR)
        expected = stages.coarse_sigma[:, mouth] ** 0.75 * stages.refined_sigma["mouth"] ** 0.25
        torch.testing.assert_close(said.sigma[:, mouth], expected)

    def test_each_point_has_its_own_share(self):
        images, boxes, _ = faces()
        cascade = make()
        share = torch.linspace(0, 1, 9)
        cascade.regions["nose"].fusion.copy_(share)
        stages, nose = cascade.stages(images, boxes), list(SCHEME.region("nose"))
        expected = stages.coarse[:, nose] * (1 - share[:, None]) + stages.refined["nose"] * share[:, None]
        torch.testing.assert_close(run(cascade, images, boxes).keypoints[:, nose], expected, **NEAR)

    def test_stage_ones_calibration_is_where_no_specialist_is(self):
        images, boxes, _ = faces()
        cascade = make()
        cascade.coarse.sigma_scale.fill_(2.0)
        stages, said = cascade.stages(images, boxes), run(cascade, images, boxes)
        torch.testing.assert_close(said.sigma[:, JAW], 2 * stages.coarse_sigma[:, JAW])
        eye = list(SCHEME.region("left_eye"))
        torch.testing.assert_close(said.sigma[:, eye], stages.refined_sigma["left_eye"])
        coarse = run(cascade, images, boxes, stage="coarse")
        torch.testing.assert_close(coarse.sigma, 2 * stages.coarse_sigma)


@pytest.mark.parametrize(
    "config", [POINTS, IN_BOXES, dataclasses.replace(POINTS, passes=2)], ids=["", "boxes", "passes"]
)
class TestInvariance:
    def test_a_face_alone_is_the_face_in_a_batch(self, config):
        images, boxes, _ = faces(5)
        cascade, angles = make(config), torch.linspace(-0.4, 0.4, 5)
        together = run(cascade, images, boxes, angles)
        for i in range(5):
            alone = run(cascade, images[i : i + 1], boxes[i : i + 1], angles[i : i + 1])
            torch.testing.assert_close(alone.keypoints[0], together.keypoints[i], **NEAR)
            torch.testing.assert_close(alone.sigma[0], together.sigma[i], **NEAR)
            torch.testing.assert_close(alone.face[0], together.face[i], **NEAR)

    def test_the_canvas_may_be_larger(self, config):
        images, boxes, _ = faces()
        cascade = make(config)
        larger = nn.functional.pad(images, (0, 41, 0, 41))
        got, expected = run(cascade, larger, boxes).keypoints, run(cascade, images, boxes).keypoints
        torch.testing.assert_close(got, expected, **ROUNDED)

    def test_points_move_with_the_face(self, config):
        images, boxes, _ = faces()
        cascade = make(config)
        before = run(cascade, nn.functional.pad(images, (40, 40, 40, 40)), boxes + 40)
        after = run(cascade, nn.functional.pad(images, (53, 27, 33, 47)), boxes + torch.tensor([53.0, 33, 53, 33]))
        torch.testing.assert_close(
            after.keypoints - before.keypoints, torch.tensor([13.0, -7]).expand(3, 68, 2), **ROUNDED
        )
        torch.testing.assert_close(after.sigma, before.sigma, **ROUNDED)
