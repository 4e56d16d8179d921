from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from cascade_kp import geometry
from cascade_kp.config import CascadeConfig, NetConfig, RegionConfig, TrunkConfig
from cascade_kp.data.synthetic import mean_face
from cascade_kp.errors import ConfigError, InputError
from cascade_kp.models.cascade import Cascade, _Where, both_ways
from cascade_kp.models.heads import Prediction
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
PLAIN = CascadeConfig(coarse=COARSE)
IN_BOXES = dataclasses.replace(POINTS, boxes=BOXES, region_boxes="boxes")
# Finds the face: other pixels than stage one's, another stride, another width.
FIRST = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=2), head_width=4, head_stride=4)
WITH_FIRST = dataclasses.replace(POINTS, first=FIRST, passes=2)
BOTH_WAYS = dataclasses.replace(POINTS, both_ways=True)
VIEWS = dataclasses.replace(POINTS, views=3)
SIZES = dataclasses.replace(
    POINTS,
    regions={
        "mouth": RegionConfig(net=dataclasses.replace(SMALL, input_px=64), margin=1.2),
        "right_eye": RegionConfig(net=SMALL, margin=1.9),
        "nose": RegionConfig(net=dataclasses.replace(SMALL, head="direct"), margin=2.5),
        "left_eye": RegionConfig(net=SMALL, margin=1.4, mirror=True),
        "jaw": RegionConfig(net=COARSE, margin=1.1),
    },
)
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
    cascade.coarse.judge[0].head.doubt.linear.bias[68] += 9.0  # sure that it sees a face, and still not the same of all
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


class TestFirst:
    def test_what_it_adds_lies_in_stage_one(self):
        names = [name.split(".")[1] for name in make(WITH_FIRST).state_dict() if name.startswith("coarse.")]
        assert set(names) == {"net", "first", "reference", "sigma_scale", "first_scale"}
        plain = {name.split(".")[1] for name in make().state_dict() if name.startswith("coarse.")}
        assert plain == {"net", "reference", "sigma_scale"}

    def test_the_face_score_is_its_alone(self):
        images, boxes, _ = faces()
        cascade = make(WITH_FIRST)
        own = cascade.coarse.first.head.doubt.linear
        assert (own.out_features, cascade.coarse.net.head.doubt.linear.out_features) == (69, 68)
        before = cascade.stages(images, boxes)
        nn.init.normal_(cascade.coarse.net.head.heat.weight)
        assert torch.equal(cascade.stages(images, boxes).face, before.face)
        own.bias[68] += 1.5
        after = cascade.stages(images, boxes)
        torch.testing.assert_close(after.face, before.face + 1.5)
        assert torch.equal(after.frames, before.frames)

    def test_its_answer_places_the_crop_that_stage_one_sees(self):
        images, boxes, _ = faces()
        cascade, angles = make(WITH_FIRST), torch.tensor([0.0, 0.4, -0.3])
        said = cascade.stages(images, boxes, angles)
        frames = geometry.face_frames(boxes, angles, 1.3, 32)
        found = cascade.coarse.first(geometry.sample(images, frames, 32))
        seen = geometry.upright_frames(geometry.apply(frames, found.points * 32), cascade.coarse.reference, 1.3, 48)
        torch.testing.assert_close(said.frames, seen, **NEAR)
        torch.testing.assert_close(said.face, found.face)
        expected = geometry.apply(seen, cascade.coarse.net(geometry.sample(images, seen, 48)).points * 48)
        torch.testing.assert_close(said.coarse, expected, **ROUNDED)
        nn.init.normal_(cascade.coarse.first.head.heat.weight)
        assert (cascade.stages(images, boxes, angles).frames - seen).abs().max() > 0.1

    def test_of_three_passes_it_runs_two(self):
        images, boxes, _ = faces()
        cascade = make(dataclasses.replace(WITH_FIRST, passes=3))
        calls = []
        for name in ("first", "net"):
            network = getattr(cascade.coarse, name)
            network.register_forward_hook(lambda _net, seen, _said, name=name: calls.append((name, seen[0].shape[-1])))
        said = cascade.stages(images, boxes)
        assert calls == [("first", 32), ("first", 32), ("net", 48)]
        frames = cascade.coarse.frames(boxes, torch.zeros(3), 32)
        for i in range(2):
            found = cascade.coarse.first(geometry.sample(images, frames, 32))
            if i == 0:
                torch.testing.assert_close(said.face, found.face)  # of the box that was given
            frames = cascade.coarse.frames_of_points(geometry.apply(frames, found.points * 32), 48 if i else 32)
        torch.testing.assert_close(said.frames, frames, **NEAR)

    def test_needs_two_passes(self):
        with pytest.raises(ConfigError, match=r"passes: expected at least 2 with a \[first\] network, got 1"):
            CascadeConfig(coarse=COARSE, first=FIRST)


def in_the_mirror(cascade, images, boxes, angles):
    """What a cascade says of the mirrored pictures, mirrored back."""
    mirrored = torch.stack([SIZE - boxes[:, 2], boxes[:, 1], SIZE - boxes[:, 0], boxes[:, 3]], dim=1)
    said = run(cascade, images.flip(-1), mirrored, -angles)
    flip = list(SCHEME.flip)
    return said._replace(
        keypoints=geometry.mirror_points(said.keypoints, SIZE, flip),
        coarse=geometry.mirror_points(said.coarse, SIZE, flip),
        sigma=said.sigma[:, flip],
    )


class TestBothWays:
    @pytest.mark.parametrize("head", ["soft_argmax", "direct"])
    def test_the_mirrored_picture_gets_the_mirrored_answer(self, head):
        # In double precision, so that nothing but rounding in the tenth digit may differ.
        coarse = dataclasses.replace(COARSE, head=head)
        images, boxes, _ = faces()
        images, boxes, angles = images.double(), boxes.double(), torch.tensor([0.0, 0.25, -0.6]).double()
        parts = [list(SCHEME.region(name)) for name in ("jaw", "nose", "mouth", "right_eye", "left_eye")]
        for config, symmetric in ((BOTH_WAYS, True), (POINTS, False)):
            cascade = make(dataclasses.replace(config, coarse=coarse)).double()
            for region in ("nose", "mouth"):
                cascade.regions[region].fusion.fill_(0.7)
            said, other = run(cascade, images, boxes, angles), in_the_mirror(cascade, images, boxes, angles)
            for part in parts:
                for mine, mirrored in ((said.keypoints, other.keypoints), (said.coarse, other.coarse)):
                    assert (float((mine - mirrored)[:, part].abs().max()) < 1e-6) == symmetric
                assert (float((said.sigma - other.sigma)[:, part].abs().max()) < 1e-6) == symmetric
            assert (float((said.face - other.face).abs().max()) < 1e-9) == symmetric

    def test_are_the_mean_of_both_answers(self):
        images, boxes, _ = faces()
        cascade = make(BOTH_WAYS)
        frames = cascade.coarse.frames(boxes, torch.zeros(3))
        crops = geometry.sample(images, frames, 48)
        plain, other = cascade.coarse.net(crops), cascade.coarse.net(crops.flip(-1))
        points = (plain.points + geometry.mirror_points(other.points, 1.0, list(SCHEME.flip))) / 2
        said = cascade.stages(images, boxes)
        torch.testing.assert_close(said.coarse, geometry.apply(frames, points * 48), **NEAR)
        sigma = (plain.log_sigma.exp() * other.log_sigma[:, list(SCHEME.flip)].exp()).sqrt()
        torch.testing.assert_close(said.coarse_sigma, sigma * (boxes[:, 2:] - boxes[:, :2]).amax(1)[:, None] * 1.3)

    def test_the_first_passes_and_eyes_look_once(self):
        cascade = make(dataclasses.replace(BOTH_WAYS, first=FIRST, passes=2))
        calls = dict.fromkeys(("first", "net", *REGIONS), 0)

        def counted(name):
            def hook(*_):
                calls[name] += 1

            return hook

        for name in ("first", "net"):
            getattr(cascade.coarse, name).register_forward_hook(counted(name))
        for name in REGIONS:
            cascade.specialist(name).net.register_forward_hook(counted(name))
        run(cascade, *faces()[:2])
        assert calls == {"first": 1, "net": 2, "right_eye": 1, "left_eye": 1, "nose": 2, "mouth": 2}

    def test_has_the_same_tensors(self):
        assert list(make(BOTH_WAYS).state_dict()) == list(make().state_dict())


class TestViews:
    @pytest.mark.parametrize("views", [3, 5])
    @pytest.mark.parametrize("both", [False, True])
    def test_are_the_mean_of_crops_that_are_moved(self, views, both):
        images, boxes, _ = faces()
        angles, moves = torch.tensor([0.0, 0.4, -0.3]), [(0, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)]
        cascade = make(dataclasses.replace(VIEWS, views=views, both_ways=both))
        plain, side = cascade.coarse.frames(boxes, angles), (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * 1.3
        points = []
        for x, y in moves[:views]:
            along, down = plain[:, :, 0] * 48, plain[:, :, 1] * 48  # the crop's sides, canvas px
            centre = geometry.apply(plain, torch.full((3, 1, 2), 24.0))[:, 0] + 0.02 * (x * along + y * down)
            frames = geometry.square_frames(centre, side, angles, 48)
            crops = geometry.sample(images, frames, 48)
            net, flip = cascade.coarse.net, list(SCHEME.flip)
            answer = both_ways(net, crops, flip) if both else net(crops)
            points.append(geometry.apply(frames, answer.points * 48))
        said = cascade.stages(images, boxes, angles)
        torch.testing.assert_close(said.coarse, torch.stack(points).mean(dim=0), **ROUNDED)
        torch.testing.assert_close(said.frames, plain)

    def test_all_networks_but_the_first_see_them(self):
        cascade = make(dataclasses.replace(VIEWS, first=FIRST, passes=2))
        looks = {}

        def counted(name):
            def hook(_net, seen, _said):
                looks[name] = looks.get(name, 0) + len(seen[0])

            return hook

        for name in ("first", "net"):
            getattr(cascade.coarse, name).register_forward_hook(counted(name))
        for name in REGIONS:
            cascade.specialist(name).net.register_forward_hook(counted(name))
        run(cascade, *faces()[:2])
        assert looks == {"first": 3, "net": 9, "right_eye": 9, "left_eye": 9, "nose": 9, "mouth": 9}


class TestLabelOffset:
    def test_moves_every_answer_along_the_crops_x(self):
        images, boxes, _ = faces()
        angles = torch.tensor([0.0, 0.5, math.pi])
        plain = make().stages(images, boxes, angles)
        moved = make(dataclasses.replace(POINTS, label_offset=0.01)).stages(images, boxes, angles)
        side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * 1.3
        shift = 0.01 * side[:, None, None] * torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
        torch.testing.assert_close(moved.coarse - plain.coarse, shift.expand(3, 68, 2), **ROUNDED)
        for name in REGIONS:
            gap = moved.refined[name] - plain.refined[name]
            torch.testing.assert_close(gap, shift.expand(gap.shape), **ROUNDED)
        torch.testing.assert_close(moved.boxes, plain.boxes)  # crops lie where the face is seen


class TestRegions:
    @pytest.mark.parametrize("both", [False, True], ids=["", "both ways"])
    @pytest.mark.parametrize("views", [1, 3])
    def test_of_any_size_and_margin_are_as_each_alone(self, views, both):
        images, boxes, _ = faces()
        cascade = make(dataclasses.replace(SIZES, both_ways=both, views=views)).double()
        images, angles = images.double(), torch.tensor([0.0, 0.3, -0.5]).double()
        said = cascade.stages(images, boxes.double(), angles)
        for i, (name, region) in enumerate(SIZES.regions.items()):
            size, box = region.net.input_px, said.boxes[:, i]
            centre = geometry.apply(said.frames, (box[:, None, :2] + box[:, None, 2:]) / 2)[:, 0]
            scale = said.frames[:, :, 0].norm(dim=1)
            side = (box[:, 2:] - box[:, :2]).amax(dim=1) * scale * region.margin
            frames = geometry.square_frames(centre, side, geometry.frame_angle(said.frames), size)
            frames = geometry.flip_frames(frames, size) if region.mirror else frames
            partner, order = SCHEME.flip_region(name)
            views_points, views_sigma = [], []
            for move in (0.0, 0.02, -0.02)[:views]:
                view = frames.clone()
                view[:, :, 2] += frames[:, :, :2].sum(dim=2) * move * size
                net, crops = cascade.specialist(name).net, geometry.sample(images, view, size)
                answer = both_ways(net, crops, list(order)) if both and partner == name else net(crops)
                views_points.append(geometry.apply(view, answer.points * size))
                views_sigma.append(answer.log_sigma)
            points = torch.stack(views_points).mean(dim=0)
            sigma = torch.stack(views_sigma).mean(dim=0).exp() * side[:, None]
            if region.mirror:
                order = list(SCHEME.flip_region(partner)[1])
                points, sigma = points[:, order], sigma[:, order]
            torch.testing.assert_close(said.refined[name], points, atol=1e-6, rtol=0)
            torch.testing.assert_close(said.refined_sigma[name], sigma, atol=1e-6, rtol=0)

    def test_stand_in_the_face_by_their_members(self):
        images, boxes, _ = faces()
        cascade = make(SIZES)
        said, keypoints = cascade.stages(images, boxes), run(cascade, images, boxes).keypoints
        for name in SIZES.regions:
            torch.testing.assert_close(keypoints[:, list(SCHEME.region(name))], said.refined[name], **NEAR)

    def test_smaller_ones_repeat_a_member_for_their_box(self):
        where = _Where.of([[4, 2], [5, 7, 9]], [1, 0, 2, 3, 4], torch.device("cpu"))
        assert where.said_at.tolist() == [1, 0, 2, 3, 4]
        assert where.every.tolist() == [4, 2, 5, 7, 9]
        assert where.region_of.tolist() == [0, 0, 1, 1, 1]
        assert where.corners.tolist() == [[4, 2, 4], [5, 7, 9]]

    def test_gradients_flow_also_after_an_inference(self):
        images, boxes, _ = faces()
        cascade = make()
        run(cascade, images, boxes)
        weight = cascade.regions["nose"].net.head.heat.weight.requires_grad_()
        cascade(images, boxes).keypoints.sum().backward()
        assert weight.grad.abs().max() > 0


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
    "config",
    [POINTS, IN_BOXES, dataclasses.replace(POINTS, passes=2), WITH_FIRST, BOTH_WAYS, VIEWS, SIZES],
    ids=["", "boxes", "passes", "first", "both ways", "views", "sizes"],
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


class Shape(nn.Module):
    """In place of a network: always the mean face, turned in its crop by some angle and as large as it is told."""

    def __init__(self, net, degrees, share):
        super().__init__()
        self.config = net.config
        turn = geometry.square_frames(
            torch.tensor([[0.5, 0.5]]), torch.ones(1), torch.tensor([math.radians(degrees)]), 1
        )
        shape = torch.from_numpy(mean_face()).float()[None]
        box = geometry.tight_box(shape)[0]
        centred = (shape - (box[:2] + box[2:]) / 2) / (box[2:] - box[:2]).max() * share + 0.5
        self.points = geometry.apply(turn, centred)
        self.looks = 0

    def forward(self, crops):
        self.looks += len(crops)
        points = self.points.expand(len(crops), -1, -1)
        return Prediction(points, points[..., 0].log(), torch.full((len(crops),), 9.0))


class TestLookAgain:
    """The mean face fills 1 / 1.3 of a crop whose box is tight."""

    def seen(self, degrees, share, **fields):
        cascade = make(dataclasses.replace(PLAIN, look_again=0.12, **fields))
        cascade.coarse.reference.copy_(torch.from_numpy(mean_face()).float())
        net = cascade.coarse.net = Shape(cascade.coarse.net, degrees, share)
        images, boxes, _ = faces()
        return cascade, cascade.stages(images, boxes, regions=False), net.looks, boxes

    @pytest.mark.parametrize(
        ("degrees", "share", "looks"),
        [(0.0, 1 / 1.3, 3), (5.0, 1 / 1.3, 3), (20.0, 1 / 1.3, 6), (-90.0, 1 / 1.3, 6), (0.0, 0.6, 6), (0.0, 0.3, 3)],
    )
    def test_faces_that_lie_amiss_are_seen_once_more(self, degrees, share, looks):
        _, _, got, _ = self.seen(degrees, share)
        assert got == looks

    def test_upright_round_the_first_answer(self):
        cascade, said, looks, boxes = self.seen(30.0, 0.7)
        first = cascade.coarse.frames(boxes, torch.zeros(3))
        points = geometry.apply(first, cascade.coarse.net.points.expand(3, -1, -1) * 48)
        assert looks == 6
        torch.testing.assert_close(said.frames, cascade.coarse.frames_of_points(points), **NEAR)
        torch.testing.assert_close(geometry.frame_angle(said.frames), torch.full((3,), math.radians(30.0)), **NEAR)

    def test_never_unless_asked(self):
        assert self.seen(30.0, 0.7)[2] == 6
        cascade = make(PLAIN)
        net = cascade.coarse.net = Shape(cascade.coarse.net, 30.0, 0.7)
        images, boxes, _ = faces()
        cascade.stages(images, boxes, regions=False)
        assert net.looks == 3


class Likes(nn.Module):
    """In place of a network: points where it is told, and a face where the crop's top left is brightest."""

    def __init__(self, net):
        super().__init__()
        self.config = net.config
        self.sizes = []

    def forward(self, crops):
        self.sizes.append(len(crops))
        half = crops.shape[-1] // 2
        corner = crops[:, :, :half, :half].mean(dim=(1, 2, 3))
        rest = crops[:, :, half:, half:].mean(dim=(1, 2, 3))
        points = torch.linspace(0.2, 0.8, 136).view(68, 2).expand(len(crops), -1, -1)
        return Prediction(points, points[..., 0].log(), (corner - rest) / 10)


class TestSought:
    def pictures(self):
        upright = torch.zeros(1, 3, 96, 96)
        upright[:, :, :48, :48] = 200.0
        return torch.cat([upright, upright.rot90(-1, (2, 3)), upright.rot90(2, (2, 3))])  # the last two turned

    def test_a_face_on_its_side_is_taken_at_the_turn_that_shows_it_upright(self):
        cascade = make(PLAIN)
        cascade.coarse.net = Likes(cascade.coarse.net)
        boxes = torch.tensor([[16.0, 16, 80, 80]]).expand(3, -1)
        said = cascade.stages(self.pictures(), boxes, regions=False)
        degrees = torch.rad2deg(geometry.frame_angle(said.frames)) % 360
        torch.testing.assert_close(degrees, torch.tensor([0.0, 90.0, 180.0]), atol=0.01, rtol=0)
        assert (said.face > 10).all()

    def test_only_those_that_seem_no_face_are_turned(self):
        cascade = make(PLAIN)
        likes = cascade.coarse.net = Likes(cascade.coarse.net)
        boxes = torch.tensor([[16.0, 16, 80, 80]]).expand(3, -1)
        cascade.stages(self.pictures(), boxes, regions=False)
        assert likes.sizes == [3, *[2] * 7]
        likes.sizes.clear()
        cascade.stages(self.pictures()[:1], boxes[:1], regions=False)
        assert likes.sizes == [1]

    def test_turns_are_single_looks_and_the_chosen_one_is_a_whole_one(self):
        cascade = make(dataclasses.replace(PLAIN, views=3))
        likes = cascade.coarse.net = Likes(cascade.coarse.net)
        boxes = torch.tensor([[16.0, 16, 80, 80]]).expand(3, -1)
        cascade.stages(self.pictures(), boxes, regions=False)
        assert likes.sizes == [9, *[2] * 7, 6]

    def test_the_points_are_those_of_the_turned_crop(self):
        cascade = make(PLAIN)
        cascade.coarse.net = Likes(cascade.coarse.net)
        boxes = torch.tensor([[16.0, 16, 80, 80]]).expand(3, -1)
        said = cascade.stages(self.pictures(), boxes, regions=False)
        # What is at p in the upright face is at 96 - p in the one on its head.
        torch.testing.assert_close(said.coarse[2], 96 - said.coarse[0], **ROUNDED)
