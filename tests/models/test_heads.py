from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from cascade_kp.config import NetConfig, TrunkConfig
from cascade_kp.models.heads import DirectHead, KeypointNet, SimCCHead, SoftArgmaxHead

# Width 8 where gradients are wanted: see TestKeypointNet.test_every_parameter_learns.
TINY = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head_width=4, head_stride=4)
DIRECT = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head="direct", head_width=4)
SIMCC = NetConfig(input_px=32, trunk=TrunkConfig(width=8, stages=3), head="simcc", bins_per_px=2)
CONFIGS = pytest.mark.parametrize("config", [TINY, DIRECT, SIMCC], ids=lambda config: config.head)
CELLS = 8  # 32 px at a stride of 4
BINS = 64  # 32 px, two bins in each
MAPS = [torch.zeros(1, c, 8 // s, 8 // s) for c, s in ((4, 1), (8, 2), (16, 4))]


class Fixed(nn.Module):
    """Stands for the last layer of a head: says the same heat or logits, whatever it is shown."""

    def __init__(self, said):
        super().__init__()
        self.said = said
        self.weight = said  # heads ask their layers for a dtype

    def forward(self, _):
        return self.said


def read(heat, *, training=False):
    """What the head makes of a heat map, (N, K, 8, 8)."""
    head = SoftArgmaxHead([4, 8, 16], heat.shape[1], TINY, face_score=False).train(training)
    head.heat = Fixed(heat)
    return head([m.expand(len(heat), -1, -1, -1) for m in MAPS])


def read_bins(x, y, *, training=False):
    """What the head makes of the logits of its bins, (N, K, 64) each."""
    head = SimCCHead([4, 8, 16], x.shape[1], SIMCC, face_score=False).train(training)
    head.x, head.y = Fixed(x), Fixed(y)
    return head([m.expand(len(x), -1, -1, -1) for m in MAPS])


def shares(logits):
    """Softmax over the last axis, with NumPy in float64."""
    raised = np.exp(logits.detach().numpy().astype(np.float64))
    return raised / raised.sum(axis=-1, keepdims=True)


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

    def test_covariance_is_numpys(self):
        torch.manual_seed(0)
        heat = 2 * torch.randn(2, 3, CELLS, CELLS)
        got = read(heat, training=True).covariance
        share = shares(heat.flatten(2))
        places = np.stack([a.ravel() for a in np.meshgrid(*[(np.arange(8) + 0.5) / 8] * 2)])  # x, y
        for i, j in np.ndindex(2, 3):
            (xx, xy), (_, yy) = np.cov(places, aweights=share[i, j], ddof=0)
            np.testing.assert_allclose(got[i, j].numpy(), [xx, xy, yy], atol=1e-7)

    def test_covariance_of_a_leaning_pair_by_hand(self):
        # Two equally hot cells, 4 columns and 4 rows apart: 0.25 from their mean in x and in y, down to the right.
        heat = torch.full((1, 1, CELLS, CELLS), -1000.0)
        heat[0, 0, 1, 2], heat[0, 0, 5, 6] = 0.0, 0.0
        torch.testing.assert_close(read(heat, training=True).covariance, torch.full((1, 1, 3), 0.0625))

    def test_covariance_pulls_at_the_heat(self):
        heat = torch.randn(1, 2, CELLS, CELLS, dtype=torch.float64, requires_grad=True)
        head = SoftArgmaxHead([4, 8, 16], 2, TINY, face_score=False).double()

        def covariance(heat):
            head.heat = Fixed(heat)
            return head([m.double() for m in MAPS]).covariance

        assert torch.autograd.gradcheck(covariance, heat)


class TestSimCC:
    @staticmethod
    def peaks(places, sigma):
        """Logits whose shares are a Gaussian over the bins, (1, K, 64)."""
        centres = torch.arange(BINS) + 0.5
        return (-0.5 * ((centres - places[:, None] * BINS) / sigma).square())[None]

    def test_one_hot_is_the_centre_of_its_bin(self):
        x = 1000.0 * torch.eye(BINS)[None]
        points = read_bins(x, x.flip(1)).points[0]
        expected = [[(i + 0.5) / BINS, (BINS - 1 - i + 0.5) / BINS] for i in range(BINS)]
        torch.testing.assert_close(points, torch.tensor(expected))

    @pytest.mark.parametrize("sigma", [0.7, 2.0, 3.0])
    def test_a_blob_is_where_it_was_put(self, sigma):
        # The border is kept away from: a blob that it cuts has another centre.
        torch.manual_seed(0)
        places = 0.2 + 0.6 * torch.rand(200, 2)
        points = read_bins(self.peaks(places[:, 0], sigma), self.peaks(places[:, 1], sigma)).points[0]
        assert (points - places).abs().max() * 32 < 0.02

    def test_two_bins_by_hand(self):
        # x: bins 10 and 30, three to one: (3 * 10.5 + 30.5) / 4 / 64 = 0.2421875. y: all alike, the middle.
        x, y = torch.full((1, 1, BINS), -1000.0), torch.zeros(1, 1, BINS)
        x[..., 10], x[..., 30] = math.log(3), 0.0
        torch.testing.assert_close(read_bins(x, y).points, torch.tensor([[[0.2421875, 0.5]]]))

    def test_sigma_follows_both_spreads_by_hand(self):
        # Bins 10 and 30 lie 20 / 64 apart, bins 10 and 20 half of that: variances 0.0244140625 and 0.006103515625, the
        # root of their sum 0.1746928, its log -1.7447262, and 1 less.
        x, y = torch.full((1, 1, BINS), -1000.0), torch.full((1, 1, BINS), -1000.0)
        x[..., [10, 30]] = 0.0
        y[..., [10, 20]] = 0.0
        assert read_bins(x, y).log_sigma.item() == pytest.approx(-2.7447262, abs=1e-5)
        # A thousandth of the crop is the least: log 0.001 - 1.
        sharp = 1000.0 * torch.eye(BINS)[None, :1]
        assert read_bins(sharp, sharp).log_sigma.item() == pytest.approx(-7.9077553, abs=1e-3)

    def test_sigma_does_not_pull_at_the_bins(self):
        x = torch.randn(1, 3, BINS, requires_grad=True)
        said = read_bins(x, x)
        assert (
            not said.log_sigma.requires_grad or not torch.autograd.grad(said.log_sigma.sum(), x, allow_unused=True)[0]
        )
        assert torch.autograd.grad(read_bins(x, x).points.sum(), x)[0].any()

    def test_covariance_is_numpys_and_has_no_slant(self):
        torch.manual_seed(0)
        x, y = 2 * torch.randn(2, 3, BINS), 3 * torch.randn(2, 3, BINS)
        got = read_bins(x, y, training=True).covariance.numpy()
        assert not got[..., 1].any()
        place = (np.arange(BINS) + 0.5) / BINS
        for i, j in np.ndindex(2, 3):
            for axis, logits in ((0, x), (2, y)):
                wanted = np.cov(place, aweights=shares(logits)[i, j], ddof=0)
                np.testing.assert_allclose(got[i, j, axis], wanted, atol=1e-7)

    def test_logits_are_x_then_y(self):
        x, y = torch.randn(2, 3, BINS), torch.randn(2, 3, BINS)
        logits = read_bins(x, y, training=True).logits
        torch.testing.assert_close(logits, torch.stack([x, y], dim=2), rtol=0, atol=0)

    def test_the_bins_follow_the_configuration(self):
        net = KeypointNet(NetConfig(32, TrunkConfig(width=8, stages=3), head="simcc", bins_per_px=3), 5)
        assert net(torch.rand(2, 3, 32, 32) * 255).logits.shape == (2, 5, 2, 96)


@CONFIGS
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

    def test_what_only_losses_need_is_said_in_training_only(self, config):
        net = KeypointNet(config, 3)
        image = torch.rand(2, 3, 32, 32) * 255
        said = net(image)
        assert (said.covariance is None) == (config.head == "direct")
        assert (said.logits is None) == (config.head != "simcc")
        if said.covariance is not None:
            assert said.covariance.shape == (2, 3, 3)
            assert said.covariance.requires_grad
        assert (said.heat is None) == (config.head != "soft_argmax")
        if said.heat is not None:
            assert said.heat.shape[:2] == (2, 3)
            assert said.heat.requires_grad
        assert set(net.eval()(image)[3:]) == {None}

    def test_mixed_precision_keeps_the_pixels(self, config):
        # Between 0.5 and 1, bfloat16 has a number every 1/256 of the crop. Points in it would be off by up to 0.06 px.
        torch.manual_seed(0)
        net = KeypointNet(config, 3).eval()
        maps = [torch.randn(2, c, 32 // s, 32 // s) for c, s in ((8, 4), (16, 8), (32, 16))]
        net.head.register_forward_pre_hook(lambda _module, _inputs: (maps,))
        image = torch.rand(2, 3, 32, 32) * 255
        with torch.inference_mode():
            wanted = net(image)
            with torch.autocast("cpu", torch.bfloat16):
                got = net(image)
        assert {value.dtype for value in got[:3]} == {torch.float32}
        assert (got.points - wanted.points).abs().max() * 32 < 0.02
        torch.testing.assert_close(got.log_sigma, wanted.log_sigma, rtol=0, atol=0.01)
        with torch.autocast("cpu", torch.bfloat16):
            said = net.train()(image)
        assert {value.dtype for value in said if value is not None} == {torch.float32}

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
