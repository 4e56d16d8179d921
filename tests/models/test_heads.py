from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cascade_kp.config import NetConfig, TrunkConfig
from cascade_kp.models.heads import DirectHead, KeypointNet, SoftArgmaxHead

# Width 8 where gradients are wanted: see TestKeypointNet.test_every_parameter_learns.
TINY = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head_width=4, head_stride=4)
DIRECT = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head="direct", head_width=4)
CELLS = 8  # 32 px at a stride of 4
MAPS = [torch.zeros(1, c, 8 // s, 8 // s) for c, s in ((4, 1), (8, 2), (16, 4))]


class Fixed(nn.Module):
    """Stands for the last convolution of the head: says the same heat, whatever it is shown."""

    def __init__(self, heat):
        super().__init__()
        self.heat = heat

    def forward(self, _):
        return self.heat


def read(heat):
    """What the head makes of a heat map, (N, K, 8, 8)."""
    head = SoftArgmaxHead([4, 8, 16], heat.shape[1], TINY, face_score=False).eval()
    head.heat = Fixed(heat)
    return head([m.expand(len(heat), -1, -1, -1) for m in MAPS])


class TestSoftArgmax:
    def test_one_hot_is_the_centre_of_its_cell(self):
        heat = torch.zeros(1, CELLS * CELLS, CELLS, CELLS)
        heat.view(CELLS * CELLS, -1).fill_diagonal_(1000.0)  # point k is hot at row k // 8, column k % 8
        points = read(heat).points[0]
        expected = [[(k % 8 + 0.5) / 8, (k // 8 + 0.5) / 8] for k in range(64)]
        torch.testing.assert_close(points, torch.tensor(expected))

    def test_two_cells_by_hand(self):
        # Columns 1 and 5 of row 2, three to one: x = (3 * 1.5 + 5.5) / 4 / 8 = 0.3125, y = 2.5 / 8 = 0.3125.
        heat = torch.full((1, 1, CELLS, CELLS), -1000.0)
        heat[0, 0, 2, 1], heat[0, 0, 2, 5] = math.log(3), 0.0
        torch.testing.assert_close(read(heat).points, torch.tensor([[[0.3125, 0.3125]]]))

    def test_level_heat_is_the_middle(self):
        torch.testing.assert_close(read(torch.zeros(1, 2, CELLS, CELLS)).points, torch.full((1, 2, 2), 0.5))

    def test_sigma_follows_the_spread_by_hand(self):
        # Columns 2 and 6 of one row, equally hot: they lie 0.5 apart, the variance is 0.0625, its root 0.25. The
        # features are zero, so that nothing else speaks: log 0.25 - 1 = -2.3862944.
        heat = torch.full((1, 1, CELLS, CELLS), -1000.0)
        heat[0, 0, 3, [2, 6]] = 0.0
        assert read(heat).log_sigma.item() == pytest.approx(-2.3862944, abs=1e-5)
        # One hot cell has no spread at all; a thousandth of the crop is the least: log 0.001 - 1 = -7.9077553.
        heat[0, 0, 3, 6] = -1000.0
        assert read(heat).log_sigma.item() == pytest.approx(-7.9077553, abs=1e-3)

    def test_sigma_does_not_pull_at_the_heat(self):
        heat = torch.randn(1, 3, CELLS, CELLS, requires_grad=True)
        assert (
            not read(heat).log_sigma.requires_grad
            or not torch.autograd.grad(read(heat).log_sigma.sum(), heat, allow_unused=True)[0]
        )
        assert torch.autograd.grad(read(heat).points.sum(), heat)[0].any()

    @pytest.mark.parametrize("stride", [4, 8, 16])
    def test_finds_a_step_at_every_stride(self, stride):
        config = NetConfig(input_px=64, trunk=TrunkConfig(width=4, stages=3), head_width=4, head_stride=stride)
        head = SoftArgmaxHead([4, 8, 16], 5, config, face_score=False).eval()
        shapes = []
        head.heat.register_forward_hook(lambda _module, _inputs, heat: shapes.append(heat.shape))
        head([torch.randn(2, c, 64 // s, 64 // s) for c, s in ((4, 4), (8, 8), (16, 16))])
        assert shapes == [(2, 5, 64 // stride, 64 // stride)]


@pytest.mark.parametrize("config", [TINY, DIRECT], ids=["soft_argmax", "direct"])
class TestKeypointNet:
    def test_shapes(self, config):
        net = KeypointNet(config, 7).eval()
        with torch.inference_mode():
            said = net(torch.rand(3, 3, 32, 32) * 255)
        assert (said.points.shape, said.log_sigma.shape, said.face.shape) == ((3, 7, 2), (3, 7), (3,))
        assert not said.face.any()

    def test_starts_near_the_middle_and_modest(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 7).eval()
        with torch.inference_mode():
            said = net(torch.rand(3, 3, 32, 32) * 255)
        assert (said.points - 0.5).abs().max() < 0.1
        assert -6 < said.log_sigma.mean() < -1

    def test_the_face_score_is_one_output_more_and_nothing_else(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 7, face_score=True).eval()
        plain = KeypointNet(config, 7).eval()
        weights = net.state_dict()
        for name in ("head.doubt.linear.weight", "head.doubt.linear.bias"):
            weights[name] = weights[name][:7]
        plain.load_state_dict(weights)
        image = torch.rand(2, 3, 32, 32) * 255
        with torch.inference_mode():
            with_score, without = net(image), plain(image)
        torch.testing.assert_close(with_score[:2], without[:2])
        assert with_score.face.any()

    def test_normalisation_travels_in_the_weights(self, config):
        net = KeypointNet(config, 3).eval()
        assert {"mean", "std"} <= set(net.state_dict())
        assert not {"mean", "std"} & {name for name, _ in net.named_parameters()}
        image = torch.rand(2, 3, 32, 32) * 255
        other = KeypointNet(config, 3).eval()
        # The same network for pictures in [0, 1]: only the buffers differ.
        other.load_state_dict(net.state_dict() | {k: net.state_dict()[k] / 255 for k in ("mean", "std")})
        with torch.inference_mode():
            torch.testing.assert_close(other(image / 255).points, net(image).points, rtol=1e-4, atol=1e-5)

    def test_the_trunk_is_shown_normalised_pixels(self, config):
        net = KeypointNet(config, 3).eval()
        shown = []
        net.trunk.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0]))
        net(net.mean.expand(1, 3, 32, 32) + 2 * net.std)
        torch.testing.assert_close(shown[0], torch.full((1, 3, 32, 32), 2.0))

    def test_every_parameter_learns(self, config):
        # Below 8 channels, PyTorch's gradient of a strided 1x1 convolution in the channels-last layout writes out of
        # bounds on some CPUs (seen with 2.15 on an AMD EPYC).
        torch.manual_seed(0)
        net = KeypointNet(config, 3, face_score=True)
        said = net(torch.rand(4, 3, 32, 32) * 255)
        (said.points.square().sum() + said.log_sigma.sum() + said.face.sum()).backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []


def test_direct_head_reads_places():
    # A feature at another cell is another input of the linear map: pooling would lose it.
    head = DirectHead([4, 8, 16], 2, DIRECT, face_score=False).eval()
    nn.init.normal_(head.points.weight)
    first, second = torch.zeros(1, 16, 2, 2), torch.zeros(1, 16, 2, 2)
    first[..., 0, 0], second[..., 1, 1] = 1.0, 1.0
    a, b = (head([*MAPS[:2], m]).points for m in (first, second))
    assert (a - b).abs().max() > 1e-3
