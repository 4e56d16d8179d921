"""The networks of other systems: what they are made of, what they say, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torchvision
from torch import nn

from cascade_kp.config import CascadeConfig, DesignConfig, LossConfig, NetConfig, RegionConfig, from_dict, to_dict
from cascade_kp.errors import ConfigError
from cascade_kp.models.designs import Design, luma
from cascade_kp.models.heads import KeypointNet
from cascade_kp.models.losses import make_loss
from cascade_kp.runtime.onnx import OnnxNet
from cascade_kp.runtime.pytorch import fold_norms

# One of each, as small as its design allows.
SMALL = [
    NetConfig(20, design=DesignConfig("mean_face")),
    NetConfig(20, design=DesignConfig("mlp", dense=(9, 5), activations=("relu", "sigmoid"), dropout=0.5)),
    NetConfig(32, design=DesignConfig("simple_cnn", width=8)),
    NetConfig(32, design=DesignConfig("leaky_cnn", width=8)),
    NetConfig(32, design=DesignConfig("resnet50_grey", width=8, stages=3)),
    NetConfig(67, design=DesignConfig("alexnet", dense=(8, 8))),
    NetConfig(32, design=DesignConfig("darknet53", width=8)),
    NetConfig(32, design=DesignConfig("inception_nose", width=8)),
    NetConfig(32, design=DesignConfig("ml_resnet", width=8)),
    NetConfig(32, design=DesignConfig("cascade_paper", width=8, stages=2)),
]
EACH = pytest.mark.parametrize("config", SMALL, ids=lambda config: config.design.name)
# Their own settings, at the size they were told with, and their parameters.
WHOLE = {
    "mean_face": (96, 15, 30),
    "mlp": (96, 15, 1_183_646),
    "simple_cnn": (96, 15, 1_587_870),
    "leaky_cnn": (96, 15, 3_925_630),
    "resnet50_grey": (96, 15, 23_569_508),
    "alexnet": (227, 15, 58_382_398),
    "darknet53": (96, 15, 40_615_678),
    "inception_nose": (96, 7, 4_803_566),
    "ml_resnet": (96, 15, 11_185_630),
    "cascade_paper": (224, 68, 15_367_368),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def whole(name, **settings):
    """A design at its full size, without memory."""
    size, keypoints, _ = WHOLE[name]
    with torch.device("meta"):
        return KeypointNet(NetConfig(size, design=DesignConfig(name, **settings)), keypoints)


class TestParameters:
    @pytest.mark.parametrize("name", WHOLE)
    def test_count(self, name):
        assert count(whole(name)) == WHOLE[name][2]

    def test_simple_cnn_by_hand(self):
        widths = [1, 16, 32, 64, 128, 256]
        convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(widths))
        assert convolutions + (256 * 3 * 3 * 512 + 512) + (512 * 30 + 30) == 1_587_870 == count(whole("simple_cnn"))

    @pytest.mark.parametrize(
        ("dense", "expected"), [((128,), 1_183_646), ((500, 100), 4_661_630), ((1000,), 9_247_030)]
    )
    def test_mlp_by_hand(self, dense, expected):
        widths = [96 * 96, *dense, 30]
        assert sum(a * b + b for a, b in itertools.pairwise(widths)) == expected
        assert count(whole("mlp", dense=dense)) == expected

    def test_what_the_report_of_resnet50_grey_counts(self):
        net = whole("resnet50_grey")
        channels = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d))
        normed = sum(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d) and m.bias is None)
        assert channels == normed == 26_560
        statistics = sum(b.numel() for key, b in net.named_buffers() if "running_" in key)
        biases = normed  # one for each channel of a convolution that a norm follows
        assert (count(net), biases, statistics) == (23_569_508, 26_560, 53_120)
        assert count(net) + biases + statistics == 23_649_188
        # Without the biases, our trunk is torchvision's; the rest is a 1x1 convolution and a dense layer.
        with torch.device("meta"):
            theirs = torchvision.models.resnet50()
        assert count(net) - (1 * 3 + 3) - (2048 * 30 + 30) == count(theirs) - count(theirs.fc)

    def test_alexnet_by_hand(self):
        kernels = [(1, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)]
        convolutions = sum(a * b * k * k + 2 * b for a, b, k in kernels)  # no bias, but a norm's two
        assert convolutions + (9216 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 30 + 30) == 58_382_398

    def test_darknet53_is_the_published_trunk(self):
        # 41,609,928 with its classifier of 1,000, as widely counted.
        assert count(whole("darknet53").design.features) + 1024 * 1000 + 1000 == 41_609_928
        assert sum(isinstance(m, nn.Conv2d) for m in whole("darknet53").modules()) == 52

    def test_cascade_paper_ends_in_1024_channels_and_its_region_networks_in_512(self):
        assert whole("cascade_paper").design.points.in_features == 1024 * 7 * 7
        assert whole("cascade_paper", stages=2).design.points.in_features == 512 * 14 * 14

    def test_what_is_learnt_beside_them_is_no_parameter(self):
        assert "log_sigma" in dict(whole("simple_cnn").named_buffers())


@EACH
class TestNetwork:
    def test_says_points_in_the_middle_and_modestly(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 7, face_score=True).eval()
        with torch.inference_mode():
            said = net(torch.rand(3, 3, config.input_px, config.input_px) * 255)
        assert (said.points.shape, said.log_sigma.shape, said.face.shape) == ((3, 7, 2), (3, 7), (3,))
        assert not said.face.any()
        assert set(said[3:]) == {None}
        # Fresh norms know nothing of what passes through them until they are trained.
        assert (net.train()(torch.rand(4, 3, config.input_px, config.input_px) * 255).points - 0.5).abs().max() < 0.2

    def test_every_parameter_learns(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 3)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        images, target = torch.rand(4, 3, config.input_px, config.input_px) * 255, torch.rand(4, 3, 2)
        losses = []
        for _ in range(6):
            optimiser.zero_grad()
            loss = make_loss(LossConfig("mse"), config, 3)(net(images), target).mean()
            loss.backward()
            losses.append(loss.item())
            assert [name for name, p in net.named_parameters() if p.grad is None] == []
            optimiser.step()
        assert min(losses[1:]) < losses[0]

    def test_mixed_precision_keeps_the_pixels(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 3).eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            said = net(torch.rand(2, 3, config.input_px, config.input_px) * 255)
        assert {value.dtype for value in said[:3]} == {torch.float32}

    def test_onnx_says_the_same(self, config):
        torch.manual_seed(0)
        net = KeypointNet(config, 5).eval().requires_grad_(requires_grad=False)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # a fresh one does nothing
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.weight, 0.5, 1.0)
        if isinstance(net.design, Design):
            nn.init.normal_(net.design.points.weight, std=0.05 / net.design.points.in_features**0.5)
        net.log_sigma.uniform_(-5, -3)
        images = torch.rand(3, 3, config.input_px, config.input_px) * 255
        with torch.inference_mode():
            wanted = net(images)
            fold_norms(net)
            assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
            got = OnnxNet(net, 1)(images)
        for a, b in zip(wanted[:3], got[:3], strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_its_settings_go_through_json(self, config):
        assert from_dict(NetConfig, to_dict(config)) == config

    def test_its_defaults_are_said_outright(self, config):
        design = DesignConfig(config.design.name)
        assert from_dict(DesignConfig, to_dict(design)) == design
        assert ("dropout" in to_dict(design)) == (design.name != "mean_face")


class TestParts:
    def test_grey_designs_see_luma_alone(self):
        colour = torch.rand(1, 3, 32, 32) * 255
        grey = luma(colour).expand(-1, 3, -1, -1)
        for config in SMALL:
            net = KeypointNet(config, 2).eval()
            if isinstance(net.design, Design):
                nn.init.normal_(net.design.points.weight)
                size = config.input_px
                a, b = (nn.functional.interpolate(x, (size, size)) for x in (colour, grey))
                same = torch.allclose(net(a).points, net(b).points, rtol=1e-4, atol=1e-3)
                assert same == net.design.grey, config.design.name
                assert net.design.grey == (config.design.name not in ("darknet53", "cascade_paper"))

    def test_dropout_stands_where_it_was(self):
        def layers(name, **settings):
            return [type(m).__name__ for m in whole(name, **settings).design.dense]

        assert layers("mlp") == ["Linear", "ReLU"]
        assert layers("mlp", dense=(500, 100), activations=("relu", "sigmoid"), dropout=0.5) == [
            *("Linear", "ReLU", "Dropout"),
            *("Linear", "Sigmoid", "Dropout"),
        ]
        assert layers("leaky_cnn") == ["Linear", "ReLU", "Linear", "ReLU", "Dropout"]
        assert layers("alexnet") == ["Linear", "ReLU", "Dropout"] * 2
        assert layers("cascade_paper") == ["Dropout"]

    def test_leaky_cnn_stays_in_its_crop_and_cascade_paper_above_0(self):
        for config, high in ((SMALL[3], 1.0), (SMALL[9], torch.inf)):
            net = KeypointNet(config, 4).eval()
            nn.init.normal_(net.design.points.weight, std=100.0)
            points = net(torch.rand(8, 3, 32, 32) * 255).points
            assert points.min() >= 0.0
            assert points.max() <= high

    def test_the_penalty_is_of_a_loss_in_px(self):
        net = KeypointNet(NetConfig(32, design=DesignConfig("mlp", dense=(4, 3), l2=(0.5, 0.25))), 2)
        first, second = (net.design.dense[i].weight for i in (0, 2))
        expected = (0.5 * first.square().sum() + 0.25 * second.square().sum()) / 32**2
        torch.testing.assert_close(net.penalty(), expected)
        assert KeypointNet(SMALL[2], 2).penalty() is None
        assert KeypointNet(NetConfig(32), 2).penalty() is None
        assert DesignConfig("inception_nose").l2 == (0.05, 0.02, 0.01)
        assert DesignConfig("inception_nose", dense=(8,)).l2 == ()  # of other layers there is nothing to be told

    def test_the_uncertainty_is_the_mean_distance(self):
        net = KeypointNet(SMALL[0], 2)
        target = torch.tensor([[[0.8, 0.9], [0.5, 0.5]], [[0.5, 0.4], [torch.nan, 0.5]]])
        for _ in range(400):
            net.observe(net(torch.zeros(2, 3, 20, 20)).points, target)
        assert net.log_sigma[0].exp() == pytest.approx((0.5 + 0.1) / 2, rel=1e-3)
        assert net.log_sigma[1].exp() == pytest.approx(1e-6, rel=0.1) or net.log_sigma[1] < -8
        before = net.log_sigma.clone()
        net.observe(torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan))
        torch.testing.assert_close(net.log_sigma, before)

    def test_a_resnet_observes_nothing(self):
        net = KeypointNet(NetConfig(32), 2)
        assert net.observe(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)) is None
        assert "log_sigma" not in net.state_dict()

    def test_losses_of_distributions_want_a_head(self):
        for name in ("star", "simcc"):
            with pytest.raises(ConfigError, match=r"head: expected .* got 'direct'"):
                make_loss(LossConfig(name), SMALL[2], 3)
        assert make_loss(LossConfig("wing", map_weight=0.3), SMALL[2], 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_step_at_full_size(name):
    size, keypoints, _ = WHOLE[name]
    torch.manual_seed(0)
    net = KeypointNet(NetConfig(size, design=DesignConfig(name)), keypoints)
    said = net(torch.rand(2, 3, size, size) * 255)
    assert said.points.shape == (2, keypoints, 2)
    said.points.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"design": {"name": "simple_cn"}}, r"design.name: expected one of \['mean_face'.*, got 'simple_cn'"),
            ({"design": {}}, "design: missing key 'name'"),
            ({"design": {"name": "mlp", "denze": [3]}}, "design: unknown key 'denze'; did you mean 'dense'"),
            (
                {"design": {"name": "mlp", "width": 8}},
                "design.width: expected none, as 'mlp' has no such setting, got 8",
            ),
            ({"design": {"name": "mean_face", "dense": []}}, "design.dense: expected none, as 'mean_face'"),
            ({"design": {"name": "mlp", "dense": [0]}}, "design.dense: expected at least 1 unit in each"),
            (
                {"design": {"name": "mlp", "activations": ["relu", "relu"]}},
                "design.activations: expected one for each of 1",
            ),
            ({"design": {"name": "mlp", "activations": ["tanh"]}}, r"design.activations\[0\]: expected one of"),
            (
                {"design": {"name": "mlp", "l2": [0.1, 0.1]}},
                "design.l2: expected one for each of 1 dense layers, or none",
            ),
            ({"design": {"name": "mlp", "l2": [-0.1]}}, "design.l2: expected at least 0"),
            ({"design": {"name": "mlp", "dropout": 1.0}}, "design.dropout: expected at least 0 and below 1, got 1.0"),
            ({"design": {"name": "ml_resnet", "stages": 5}}, "design.stages: expected 1 to 4, got 5"),
            ({"design": {"name": "ml_resnet", "width": 4}}, "design.width: expected at least 8, got 4"),
            (
                {"design": {"name": "simple_cnn"}, "input_px": 100},
                "input_px: expected a multiple of 32, at most 1024, for",
            ),
            ({"design": {"name": "alexnet"}, "input_px": 66}, "input_px: expected 67 to 1024 for the design 'alexnet'"),
            ({"design": {"name": "cascade_paper"}, "input_px": 48}, "input_px: expected a multiple of 32"),
            ({"design": {"name": "mlp"}, "trunk": {"depth": 50}}, "trunk: expected none beside the design 'mlp'"),
            (
                {"design": {"name": "mlp"}, "head": "direct"},
                "head: expected none beside the design 'mlp', got 'direct'",
            ),
        ],
    )
    def test_of_a_network(self, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(NetConfig, values)

    def test_of_a_cascade(self):
        small = SMALL[2]
        with pytest.raises(ConfigError, match="first: expected a network that can judge a box, which no design can"):
            CascadeConfig(coarse=NetConfig(32), first=small, passes=2)
        with pytest.raises(
            ConfigError, match="whole_picture: expected false in a model with regions or several passes"
        ):
            CascadeConfig(coarse=small, whole_picture=True, regions={"mouth": RegionConfig(small)})
        with pytest.raises(ConfigError, match="whole_picture: expected false"):
            CascadeConfig(coarse=small, whole_picture=True, passes=2)

    def test_a_plain_network_says_nothing_of_designs(self):
        assert "design" not in to_dict(NetConfig())
        assert dataclasses.replace(NetConfig(), design=None) == NetConfig()
